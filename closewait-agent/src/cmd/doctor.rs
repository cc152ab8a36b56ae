//! `closewait doctor`: facilities of this kernel, granted privileges, and what is missing.

mod json;

use std::io::Write;

use anyhow::Context as _;
use serde::Serialize;

#[cfg(test)]
pub(super) use self::json::{CheckLine, SummaryLine};
#[cfg(test)]
use crate::sink::document::*;
use crate::{
    host::{
        caps::Capability,
        error_text::in_one_line,
        facts::HostFacts,
        plan::{GRANT, HookChoice, MOUNT_PROCFS, Plan, StartRefusal, btf_fix, plan},
    },
    source::diag::{
        self, DiagError,
        exact::{DestroyError, probe_destroy},
    },
};

/// Format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoctorFormat {
    /// A table.
    Text,
    /// One JSON object per line: the checks, then a summary.
    Json,
}

/// Examines this host and writes the report. Returns the exit code: 0 if `closewait run` can work, else the one that
/// it would end with.
///
/// # Errors
///
/// If `out` cannot be written to.
pub(super) fn run(output: DoctorFormat, out: &mut impl Write) -> anyhow::Result<u8> {
    let facts = HostFacts::gather();
    let mut report = report(&facts, diag::probe());
    report.checks.extend(destroying(&facts, probe_destroy()));
    match output {
        DoctorFormat::Text => write_text(&report, out),
        DoctorFormat::Json => json::write(&report, out),
    }
    .context("writing the report failed")?;
    Ok(report.exit_code())
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckState {
    /// The facility exists.
    Ok,
    /// The facility is missing; its users have a substitute or are degraded.
    Degraded,
    /// The facility is missing, and its users do not work.
    Missing,
    /// The check was not possible.
    Unknown,
}

/// Check of one facility.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct Check {
    /// Name of the facility.
    pub check: &'static str,
    /// Result of the check.
    pub state: CheckState,
    /// Finding.
    pub found: String,
    /// Purpose of the facility.
    pub needed_for: &'static str,
    /// Action for the user; `null` if the facility exists.
    pub fix: Option<String>,
}

/// Results of all checks, and their consequence for `closewait run`.
#[derive(Debug)]
pub(super) struct DoctorReport {
    /// Results of the single checks.
    pub checks: Vec<Check>,
    /// Plan of `run`, or the reason why it would refuse.
    pub outcome: Result<Plan, StartRefusal>,
}

impl DoctorReport {
    /// Returns 0, or the exit code of the refusal.
    pub(super) fn exit_code(&self) -> u8 {
        self.outcome.as_ref().map_or_else(StartRefusal::exit_code, |_plan| 0)
    }
}

/// Evaluates the facts, and the answer to a netlink query. Pure.
pub(super) fn report(facts: &HostFacts, sock_diag: Result<(), DiagError>) -> DoctorReport {
    let mut checks =
        vec![kernel(facts), procfs(facts), types(facts), hook_btf(facts), hook_classic(facts), ring_buffer(facts)];
    checks.extend(functions(facts));
    checks.push(sock_diag_check(sock_diag));
    checks.extend(Capability::ALL.map(|capability| capability_check(facts, capability)));
    checks.push(seccomp(facts));
    checks.push(user_namespace(facts));
    checks.push(pid_namespace(facts));
    DoctorReport { checks, outcome: plan(facts, HookChoice::Auto) }
}

fn kernel(facts: &HostFacts) -> Check {
    let release = facts.release.as_deref().unwrap_or("unknown");
    let state = match facts.version {
        Some(version) if version >= (5, 10) => CheckState::Ok,
        Some(version) if version >= (5, 8) => CheckState::Degraded,
        Some(_) => CheckState::Missing,
        None => CheckState::Unknown,
    };
    Check::new("kernel", state, release, "everything; 5.10 is the oldest that is tested", "use Linux 5.10 or newer")
}

fn procfs(facts: &HostFacts) -> Check {
    let state = match facts.procfs {
        Some(true) => (CheckState::Ok, "mounted"),
        Some(false) => (CheckState::Missing, "not mounted at /proc"),
        None => (CheckState::Unknown, "unknown"),
    };
    Check::new("procfs", state.0, state.1, "processes and their threads", MOUNT_PROCFS)
}

fn types(facts: &HostFacts) -> Check {
    let (state, found) = match &facts.types {
        Ok(_) => (CheckState::Ok, "kernel types are readable".to_owned()),
        Err(error) => (CheckState::Degraded, error.to_string()),
    };
    Check::new("btf", state, found, "reading sockets in the kernel: queues, cgroups, errors", btf_fix(facts))
}

fn hook_btf(facts: &HostFacts) -> Check {
    // Checked without its privileges, which have their own checks.
    let (state, found) = match &facts.types {
        Ok(types) if types.tracepoint => (CheckState::Ok, "inet_sock_set_state"),
        Ok(_) => (CheckState::Degraded, "the kernel's types lack the tracepoint"),
        Err(_) => (CheckState::Degraded, "not without btf"),
    };
    Check::new("hook tp_btf", state, found, "observing state changes; needs no tracefs", btf_fix(facts))
}

fn hook_classic(facts: &HostFacts) -> Check {
    let (state, found) = match facts.tracefs() {
        Ok(tracefs) if tracefs.mounted => (CheckState::Ok, "tracefs is mounted".to_owned()),
        Ok(_) => (CheckState::Ok, "tracefs is not mounted, but the agent can mount it for itself".to_owned()),
        Err(error) => (CheckState::Degraded, error.to_string()),
    };
    let fix = "not needed where tp_btf works; else mount tracefs, or run as root";
    Check::new("hook tracepoint", state, found, "observing state changes where tp_btf does not work", fix)
}

fn ring_buffer(facts: &HostFacts) -> Check {
    let (state, found) = yes_or(facts.ring_buffer, CheckState::Missing);
    Check::new("ring buffer", state, found, "records from the kernel", "use Linux 5.10 or newer")
}

/// Checks the helpers that programs may call, and the program types.
fn functions(facts: &HostFacts) -> [Check; 3] {
    let types = facts.types.as_ref().ok();
    let cookie = yes_or(types.map(|types| types.abilities.socket_cookie != 0), CheckState::Degraded);
    let files = yes_or(types.map(|types| types.iter_files), CheckState::Degraded);
    let storage = yes_or(types.map(|types| types.sk_storage), CheckState::Degraded);
    [
        Check::new("socket storage", storage.0, storage.1, "the task that opened a socket", "use Linux 5.11 or newer"),
        Check::new(
            "socket cookie",
            cookie.0,
            cookie.1,
            "a permanent number for each socket",
            "use Linux 5.12 or newer",
        ),
        Check::new(
            "iter/task_file",
            files.0,
            files.1,
            "owners of sockets without a scan of /proc; sockets in namespaces that the agent cannot enter",
            "use Linux 5.10 or newer, with BTF",
        ),
    ]
}

fn sock_diag_check(answer: Result<(), DiagError>) -> Check {
    let (state, found) = match answer {
        Ok(()) => (CheckState::Ok, "answers".to_owned()),
        Err(error) => (CheckState::Degraded, in_one_line(error)),
    };
    Check::new(
        "sock_diag",
        state,
        found,
        "sockets that are older than the agent and that no program has accepted yet",
        "run `modprobe tcp_diag`",
    )
}

/// Checks the requirements of `closewait kill`.
fn destroying(facts: &HostFacts, probed: Result<(), DestroyError>) -> [Check; 2] {
    let (state, found) = match probed {
        Ok(()) => (CheckState::Ok, "yes".to_owned()),
        Err(error @ DestroyError::Unsupported(_)) => (CheckState::Degraded, in_one_line(error)),
        Err(error) => (CheckState::Unknown, in_one_line(error)),
    };
    let fix = "use a kernel with CONFIG_INET_DIAG_DESTROY=y";
    [Check::new("SOCK_DESTROY", state, found, "closewait kill", fix), capability_check(facts, Capability::NetAdmin)]
}

fn capability_check(facts: &HostFacts, capability: Capability) -> Check {
    let (needed_for, without, fix) = match capability {
        Capability::Bpf => ("loading programs into the kernel", CheckState::Missing, GRANT),
        Capability::Perfmon => ("reading sockets from kernel programs", CheckState::Missing, GRANT),
        Capability::SysPtrace => {
            ("reading other users' processes, and finding their network namespaces", CheckState::Degraded, GRANT)
        }
        Capability::DacReadSearch => (
            "reading system calls and descriptors of other users' processes in /proc, and tracefs, for hook tracepoint",
            CheckState::Degraded,
            GRANT,
        ),
        Capability::SysAdmin => (
            "entering other network namespaces, mounting tracefs; dropped after the start without --enter-namespaces",
            CheckState::Degraded,
            "grant cap_sys_admin too",
        ),
        Capability::SysResource => (
            "memory for maps before Linux 5.11",
            CheckState::Degraded,
            "not needed from Linux 5.11 on; else grant cap_sys_resource too",
        ),
        Capability::NetAdmin => ("closewait kill", CheckState::Degraded, "grant cap_net_admin to closewait kill"),
        Capability::SetUid | Capability::SetGid => {
            ("Java virtual machines of other users, for --stacks-jvm", CheckState::Degraded, "run as root, or grant it")
        }
    };
    let (state, found) = match facts.capabilities.map(|capabilities| capabilities.has(capability)) {
        Some(true) => (CheckState::Ok, "granted"),
        // From 5.11 on, maps count against the memory of the cgroup (kernel/bpf/syscall.c).
        Some(false) if capability == Capability::SysResource && facts.version >= Some((5, 11)) => {
            (CheckState::Ok, "not granted, and not needed on this kernel")
        }
        Some(false) => (without, "not granted"),
        None => (CheckState::Unknown, "unknown"),
    };
    Check::new(capability.name(), state, found, needed_for, fix)
}

fn seccomp(facts: &HostFacts) -> Check {
    let (state, found) = yes_or(facts.seccomp, CheckState::Degraded);
    let needed_for = "refusing system calls that the agent never makes after its start";
    Check::new("seccomp", state, found, needed_for, "use a kernel with CONFIG_SECCOMP_FILTER=y")
}

fn user_namespace(facts: &HostFacts) -> Check {
    let (state, found) = match facts.initial_user_namespace {
        Some(true) => (CheckState::Ok, "that of the host"),
        Some(false) => (CheckState::Missing, "not that of the host"),
        None => (CheckState::Unknown, "unknown"),
    };
    Check::new(
        "user namespace",
        state,
        found,
        "capabilities that count for BPF",
        "run it outside of rootless containers",
    )
}

fn pid_namespace(facts: &HostFacts) -> Check {
    let (state, found) = match facts.initial_pid_namespace {
        Some(true) => (CheckState::Ok, "that of the host"),
        Some(false) => (CheckState::Degraded, "not that of the host"),
        None => (CheckState::Unknown, "unknown"),
    };
    Check::new(
        "pid namespace",
        state,
        found,
        "pids of the processes that own or close a socket",
        "use --pid=host, or hostPID: true",
    )
}

fn yes_or(known: Option<bool>, otherwise: CheckState) -> (CheckState, &'static str) {
    match known {
        Some(true) => (CheckState::Ok, "yes"),
        Some(false) => (otherwise, "no"),
        None => (CheckState::Unknown, "unknown"),
    }
}

impl Check {
    fn new(
        check: &'static str,
        state: CheckState,
        found: impl Into<String>,
        needed_for: &'static str,
        fix: &str,
    ) -> Self {
        let fix = (state != CheckState::Ok).then(|| fix.to_owned());
        Self { check, state, found: found.into(), needed_for, fix }
    }
}

impl CheckState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// Writes the checks in columns, the action for each that fails, and the outcome of `run`.
fn write_text(report: &DoctorReport, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{:<20} {:<9} NEEDED FOR", "CHECK", "STATE")?;
    for check in &report.checks {
        writeln!(out, "{:<20} {:<9} {}", check.check, check.state.as_str(), check.needed_for)?;
        writeln!(out, "{:20} {:9} found: {}", "", "", check.found)?;
        if let Some(fix) = &check.fix {
            writeln!(out, "{:20} {:9} to do: {fix}", "", "")?;
        }
    }
    writeln!(out)?;
    match &report.outcome {
        Ok(plan) => {
            writeln!(out, "`closewait run` works here, with {}.", plan.hook.as_str())?;
            if !plan.degraded.is_empty() {
                writeln!(out, "Degraded:")?;
            }
            for degraded in &plan.degraded {
                writeln!(out, "  {}: {}", degraded.what, degraded.why)?;
            }
        }
        Err(refusal) => writeln!(out, "`closewait run` does not work here: {refusal}")?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        caps::Capabilities,
        plan::tests::{capable_host, no_types},
    };

    fn text_of(report: &DoctorReport) -> String {
        let mut out = Vec::new();
        write_text(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn json_of(report: &DoctorReport) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        json::write(report, &mut out).unwrap();
        let lines = str::from_utf8(&out).unwrap().lines();
        let lines: Vec<_> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().for_each(|line| tests_support::schema::conforms("doctor", line));
        lines
    }

    fn state(report: &DoctorReport, check: &str) -> CheckState {
        report.checks.iter().find(|one| one.check == check).unwrap().state
    }

    #[test]
    fn a_capable_host_is_ok_in_every_check() {
        let report = report(&capable_host(), Ok(()));
        assert!(report.checks.iter().all(|check| check.state == CheckState::Ok && check.fix.is_none()), "{report:?}");
        assert_eq!(report.exit_code(), 0);
        assert!(text_of(&report).ends_with("`closewait run` works here, with tp_btf.\n"));
    }

    #[test]
    fn a_missing_capability_is_reported_with_its_fix_and_the_exit_code_of_run() {
        let capabilities = Capabilities::from_bits(u64::MAX).without(Capability::Bpf);
        let report = report(&HostFacts { capabilities: Some(capabilities), ..capable_host() }, Ok(()));
        assert_eq!((report.exit_code(), state(&report, "CAP_BPF")), (77, CheckState::Missing));
        assert!(text_of(&report).contains("setcap cap_bpf"));
    }

    #[test]
    fn each_capability_taken_away_is_reported_with_what_grants_it() {
        for capability in Capability::ALL {
            let capabilities = Some(Capabilities::from_bits(u64::MAX).without(capability));
            // On this version all of them matter.
            let report = report(&HostFacts { capabilities, version: Some((5, 10)), ..capable_host() }, Ok(()));
            let check = report.checks.iter().find(|check| check.check == capability.name()).unwrap();
            assert!(check.state != CheckState::Ok && check.fix.is_some(), "{check:?}");
            assert!(text_of(&report).contains(&format!("missing {}: ", capability.name())), "{report:?}");
        }
    }

    #[test]
    fn without_types_what_needs_them_is_not_claimed() {
        let report = report(&HostFacts { types: Err(no_types()), ..capable_host() }, Ok(()));
        assert_eq!(state(&report, "btf"), CheckState::Degraded);
        assert_eq!(state(&report, "iter/task_file"), CheckState::Unknown);
        assert!(text_of(&report).contains("with tracepoint."));
    }

    #[test]
    fn what_kill_needs_is_reported_and_changes_nothing_for_run() {
        let capabilities = Some(Capabilities::from_bits(u64::MAX).without(Capability::NetAdmin));
        let facts = HostFacts { capabilities, ..capable_host() };
        let cause = std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let [kernel, capability] = destroying(&facts, Err(DestroyError::Unsupported(cause)));
        assert!(
            kernel.found.contains("CONFIG_INET_DIAG_DESTROY") && kernel.state == CheckState::Degraded,
            "{kernel:?}"
        );
        assert_eq!((capability.check, capability.state), ("CAP_NET_ADMIN", CheckState::Degraded));
        assert_eq!(report(&facts, Ok(())).exit_code(), 0);
        assert!(destroying(&capable_host(), Ok(())).iter().all(|check| check.state == CheckState::Ok));
    }

    #[test]
    fn a_silent_sock_diag_is_degraded() {
        let report = report(&capable_host(), Err(DiagError::CutOff));
        assert_eq!((report.exit_code(), state(&report, "sock_diag")), (0, CheckState::Degraded));
    }

    #[test]
    fn every_line_of_json_carries_the_schema_version_and_the_last_is_the_summary() {
        let lines = json_of(&report(&HostFacts { types: Err(no_types()), ..capable_host() }, Ok(())));
        assert!(lines.iter().all(|line| line["schema_version"] == 1));
        let (summary, checks) = lines.split_last().unwrap();
        assert!(checks.iter().all(|line| line["check"].is_string() && line["state"].is_string()));
        assert_eq!((&summary["summary"], &summary["exit_code"]), (&"degraded".into(), &0.into()));
        assert_eq!(summary["degraded"][0]["what"], "hook");
    }

    #[test]
    fn a_refusal_is_the_message_of_the_summary() {
        let lines = json_of(&report(&HostFacts { ring_buffer: Some(false), ..capable_host() }, Ok(())));
        let summary = lines.last().unwrap();
        assert_eq!((&summary["summary"], &summary["exit_code"]), (&"refused".into(), &69.into()));
        assert!(summary["hook"].is_null() && summary["message"].as_str().unwrap().contains("ring buffer"));
    }
}
