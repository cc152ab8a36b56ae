//! Agents with exporters, and everything that they send to.

use tests_support::http;

use super::receivers::{Collected, Collector, JournalSocket, Received, Scraper};
use crate::agent::{Program, Running};
use crate::prelude::*;

/// Interval of the scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the exports of metrics over OTLP, milliseconds.
const EXPORT_INTERVAL: &str = "5000";
/// Limits of the recording. A twelfth of the time is a segment, so some begin in each round.
const RETAIN: &str = "2m,256MiB";
/// Program of the hooks.
const HOOK: &str = "/usr/bin/true";

/// Exporters of an agent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChosenExporters {
    pub(super) metrics: bool,
    pub(super) otlp: bool,
    pub(super) recording: bool,
    pub(super) hooks: bool,
    /// Instead of JSON on standard output.
    pub(super) journal: bool,
}

impl ChosenExporters {
    pub(super) fn has_none(self) -> bool {
        let Self { metrics, otlp, recording, hooks, journal } = self;
        ![metrics, otlp, recording, hooks, journal].contains(&true)
    }
}

/// Everything that agents send to, and their binary.
pub(super) struct ExportTargets<'a> {
    pub(super) binary: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) collector: Collector,
    pub(super) journal: Option<JournalSocket>,
}

/// Running agent, and what its exporters need.
pub(super) struct ExportingAgent {
    pub(super) running: Running,
    pub(super) scraper: Option<Scraper>,
    pub(super) recording: Option<PathBuf>,
    pub(super) stderr: PathBuf,
}

impl ExportTargets<'_> {
    /// Starts an agent.
    pub(super) fn start(&self, name: &'static str, chosen: ChosenExporters, more: &[&str]) -> Result<ExportingAgent> {
        let socket = self.dir.join("agent.sock").display().to_string();
        let mut args = vec!["--stuck-after".to_owned(), super::STUCK_AFTER.to_owned(), "--socket".to_owned(), socket];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let mut with = |option: &str, value: String| args.extend([option.to_owned(), value]);
        let port = chosen.metrics.then(http::free_port).transpose()?;
        if let Some(port) = port {
            with("--listen", format!("127.0.0.1:{port}"));
        }
        if chosen.otlp {
            with("--otlp-endpoint", format!("http://127.0.0.1:{}", self.collector.port));
        }
        let recording = chosen.recording.then(|| self.dir.join("recording"));
        if let Some(recording) = &recording {
            fs::create_dir(recording)?;
            with("--record", format!("{}/", recording.display()));
            with("--retain", RETAIN.to_owned());
        }
        if chosen.hooks {
            with("--on-pileup", HOOK.to_owned());
            with("--on-stuck", HOOK.to_owned());
        }
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        let program = if chosen.journal {
            Program::tracer(name, self.binary, self.dir, &[&["run", "--journal", "--events", "stuck"], &*args].concat())
        } else {
            Program::closewait(self.binary, self.dir, &args).keep(name, &["start", "stop"])
        };
        let program = program.with_variable("OTEL_METRIC_EXPORT_INTERVAL", EXPORT_INTERVAL);
        let running = program.attach()?;
        let scraper = port.map(|port| Scraper::start(port, SCRAPE_INTERVAL));
        Ok(ExportingAgent { running, scraper, recording, stderr: program.stderr().to_owned() })
    }

    pub(super) fn received(&self) -> (Collected, Received) {
        (self.collector.collected(), self.journal.as_ref().map(JournalSocket::received).unwrap_or_default())
    }
}
