//! Debian's systemd-journald in a mount namespace of its own, with the catalog of the project.

use std::collections::BTreeMap;

use tests_support::journal;

use super::{agents::Incident, answers::Answer, service::Service, stage};
use crate::prelude::*;

/// Running journal.
pub(super) struct Journald(Service);

impl Journald {
    pub(super) fn start(workspace: &Workspace, dir: &Path) -> Result<Self> {
        let catalog = workspace.root.join("contrib/systemd/closewait.catalog");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", journal::SCRIPT, "sh"]).arg(catalog).arg(journal::JOURNALD);
        let service = Service::start("journald", &mut command, dir)?;
        let listens = |service: &Service| exec::quiet(inside(service).args(["test", "-S", journal::SOCKET])).is_ok();
        Ok(Self(service.wait_until(listens)?))
    }

    /// Returns the beginning of a command in the mount namespace of the journal.
    pub(super) fn command(&self) -> Command {
        inside(&self.0)
    }

    /// Returns the entries that have these fields.
    fn entries(&self, fields: &[&str]) -> Result<Vec<Value>> {
        let mut command = self.command();
        command.args([journal::JOURNALCTL, "--output", "json", "SYSLOG_IDENTIFIER=closewait"]).args(fields);
        let lines = exec::quiet(&mut command)?;
        lines.lines().map(|line| serde_json::from_str(line).context("journalctl printed no JSON")).collect()
    }

    /// Whether the agent has reported its start.
    pub(super) fn has_start(&self) -> bool {
        self.entries(&["CLOSEWAIT_EVENT=start"]).is_ok_and(|entries| !entries.is_empty())
    }

    /// Returns the latest report of each incident of a service on the stage, by service.
    pub(super) fn reported(&self) -> Result<BTreeMap<String, Incident>> {
        let mut incidents = BTreeMap::new();
        for entry in self.entries(&[])? {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let (id, state, service) = (text("CLOSEWAIT_INCIDENT"), text("CLOSEWAIT_STATE"), text("CLOSEWAIT_SERVICE"));
            if !state.is_empty() && stage::SERVICES.contains(&service.as_str()) {
                let (class, severity) = (text("CLOSEWAIT_CLASS"), text("CLOSEWAIT_SEVERITY"));
                incidents.insert(service, Incident { id, state, class, severity });
            }
        }
        Ok(incidents)
    }

    /// Checks that the journal has the incidents that the other agent reports, and explains one. Their ids differ: the clocks of two
    /// agents do not read the same nanosecond at an entry.
    pub(super) fn incidents(&self, expected: &BTreeMap<String, Incident>) -> Result<Answer> {
        let reported = self.reported()?;
        let without_ids = |all: &BTreeMap<String, Incident>| -> BTreeMap<String, Incident> {
            all.iter().map(|(service, one)| (service.clone(), Incident { id: String::new(), ..one.clone() })).collect()
        };
        ensure!(without_ids(&reported) == without_ids(expected), "entries: {reported:?}, expected: {expected:?}");
        let (_service, Incident { id, .. }) = reported.first_key_value().context("no incident")?;
        let mut command = self.command();
        command.args([journal::JOURNALCTL, "--catalog", "--no-pager", "--lines=1"]);
        let explained = exec::quiet(command.args([&format!("CLOSEWAIT_INCIDENT={id}"), "CLOSEWAIT_EVENT=pileup"]))?;
        let subject = explained.split_once("Subject: ").and_then(|(_before, rest)| rest.lines().next());
        let subject = subject.with_context(|| format!("`journalctl --catalog` explains nothing: {explained}"))?;
        let texts = reported
            .iter()
            .map(|(service, Incident { id, state, class, .. })| format!("{id} {state}: {class} ({service})"));
        Ok(Answer {
            sent: format!("{} entries", self.entries(&[])?.len()),
            got: format!("{}; `journalctl --catalog`: {subject}", texts.collect::<Vec<_>>().join(", ")),
        })
    }
}

fn inside(service: &Service) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", service.pid()));
    command
}
