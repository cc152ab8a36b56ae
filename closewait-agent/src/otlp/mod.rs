//! Export of metrics and events to a collector, over OTLP/HTTP with protobuf. Only if the user names a collector.
//!
//! ```text
//! event loop -> Queue (bounded, counts what it drops) -> thread "otlp": logs.rs -> delivery.rs -> http.rs -> collector
//! event loop <- MetricsRequest                        <- thread "otlp": metrics.rs -> delivery.rs -> http.rs -> collector
//! ```
//!
//! | file | content |
//! |---|---|
//! | `settings` | `--otlp-endpoint` and the variables `OTEL_*` |
//! | `queue` | events on their way to the thread, and the count of all that were handed over, delivered and dropped |
//! | `logs`, `metrics`, `resource` | messages of OTLP, made from events and readings |
//! | `http` | one request and the meaning of the response |
//! | `delivery` | attempts until the collector accepts or refuses something |
//! | `thread` | batches of events, and metrics at an interval |
//!
//! The event loop never waits for any of it. Each event is either delivered or counted as dropped.

mod delivery;
mod http;
mod logs;
mod metrics;
mod queue;
mod resource;
mod settings;
mod thread;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::oneshot;

pub use self::settings::{OtlpSettings, OtlpSettingsError, OtlpUrl};
use self::{
    metrics::CountStarts,
    queue::{EventAccounts, EventSender},
    thread::{ExportThread, ExportTiming},
};
use crate::{
    clock::{self, TimeAnchor},
    metrics::{AgentFacts, ExportLosses, MetricsFeed, MetricsRequest, MomentSnapshot, request_channel},
    sink::{EventContent, NumberedEvent},
};
use closewait_engine::{
    Engine,
    model::{Finding, Host},
    text::count,
    time::BootTime,
};

/// Events that become log records, besides the start and end of the agent, incidents, and losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportedEvents {
    /// No others.
    Incidents,
    /// Sockets that get stuck, and their exits.
    Stuck,
    /// All entries and exits of sockets, too.
    All,
}

impl ExportedEvents {
    fn include(self, event: &NumberedEvent<'_>) -> bool {
        match event.content {
            EventContent::Start(_) => true,
            EventContent::Finding(finding) => match finding {
                Finding::Histogram { .. } => false,
                Finding::Enter { .. } => self == Self::All,
                Finding::Leave { stuck, .. } => self == Self::All || (self == Self::Stuck && *stuck),
                Finding::Stuck { .. } => self != Self::Incidents,
                Finding::Pileup { .. } | Finding::PileupEnd { .. } | Finding::Health { .. } | Finding::Stop { .. } => {
                    true
                }
            },
        }
    }
}

/// Export that is prepared: everything is read that the agent may not read later.
#[derive(Debug)]
pub struct OtlpExport {
    settings: OtlpSettings,
    resource: Resource,
    events: ExportedEvents,
    /// Name of this run of the agent, in the identifiers of records.
    instance: String,
    /// Maximum size of events on their way, bytes.
    max_bytes: usize,
}

impl OtlpExport {
    /// Prepares the export from this host.
    pub fn prepare(settings: OtlpSettings, events: ExportedEvents, host: &Host, max_bytes: usize) -> Self {
        let machine_id = resource::machine_id();
        let resource = resource::resource(host.name.as_deref(), machine_id.as_deref(), &settings.attributes);
        Self { settings, resource, events, instance: format!("{:016x}", random()), max_bytes }
    }

    /// Starts the thread. `is_pinned` says whether the kernel's counts may be older than this agent.
    ///
    /// # Errors
    ///
    /// If the kernel refuses another thread or epoll instance.
    pub fn start(self, facts: AgentFacts, is_pinned: bool) -> anyhow::Result<OtlpExporter> {
        self.start_with(facts, is_pinned, ExportTiming::default())
    }

    fn start_with(self, facts: AgentFacts, is_pinned: bool, timing: ExportTiming) -> anyhow::Result<OtlpExporter> {
        let Self { settings, resource, events, instance, max_bytes } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(
            "starting the loop that exports over OTLP failed\nhint: check the limit on open files (ulimit -n)",
        )?;
        let exports_logs = settings.logs.is_some();
        let (requester, feed) = request_channel();
        let (sender, receiver) = queue::channel(max_bytes);
        let accounts = sender.accounts();
        let (last, last_moment) = oneshot::channel();
        let (running, done) = mpsc::channel();
        let anchor = TimeAnchor::now();
        let thread = ExportThread {
            settings,
            resource,
            instance,
            starts: CountStarts::new(anchor.wall(clock::now()), anchor.wall(BootTime(0)), is_pinned),
            timing,
            requester,
            events: receiver,
            last: last_moment,
            facts: Arc::new(facts),
            losses: accounts.losses(),
        };
        let export = move || {
            runtime.block_on(thread.run());
            // A look-up of a name may still run on a thread of the runtime.
            runtime.shutdown_background();
            drop::<mpsc::Sender<()>>(running);
        };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(export).context(
            "starting the thread that exports over OTLP failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
        )?;
        let sender = exports_logs.then_some(sender);
        Ok(OtlpExporter { feed, sender, events, accounts, last: Some(last), done })
    }
}

/// Running export. Its thread ends with the process.
#[derive(Debug)]
pub struct OtlpExporter {
    feed: MetricsFeed,
    /// Queue of events; `None` if no events are exported, or the export ends.
    sender: Option<EventSender>,
    events: ExportedEvents,
    accounts: Arc<EventAccounts>,
    /// Way of the last numbers; `None` once the export ends.
    last: Option<oneshot::Sender<LastExport>>,
    /// Disconnected when the thread has ended.
    done: mpsc::Receiver<()>,
}

/// End of the export.
#[derive(Debug)]
struct LastExport {
    /// Numbers at the end.
    moment: Arc<MomentSnapshot>,
    /// Maximum time for what is left.
    patience: Duration,
}

impl OtlpExporter {
    /// Returns the next request to the event loop. Cancel-safe: dropping the future loses nothing.
    pub async fn request(&mut self) -> MetricsRequest {
        self.feed.request().await
    }

    /// Returns the count of events that were dropped; `None` if no events are exported.
    pub fn losses(&self) -> Option<ExportLosses> {
        self.sender.as_ref().map(|_| self.accounts.losses())
    }

    /// Returns the number of events that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.accounts.losses().get()
    }

    /// Queues an event, if it is one of those to export. Never waits: an event that does not fit is counted.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as JSON.
    pub fn event(&mut self, event: &NumberedEvent<'_>) -> io::Result<()> {
        if let Some(sender) = &mut self.sender
            && self.events.include(event)
        {
            sender.send(event.json()?, TimeAnchor::now().wall(clock::now()));
        }
        Ok(())
    }

    /// Begins the end: the thread exports what is left within `patience`.
    pub fn close(&mut self, engine: &Engine, patience: Duration) {
        self.sender = None;
        if let Some(last) = self.last.take() {
            let numbers = engine.metrics(clock::now());
            let moment = Arc::new(MomentSnapshot { numbers, anchor: TimeAnchor::now() });
            // The thread has ended if nobody receives it.
            drop(last.send(LastExport { moment, patience }));
        }
    }

    /// Waits for the end, at most for `patience`. Counts and reports the events that were not exported.
    pub fn finish(mut self, patience: Duration) {
        self.sender = None;
        // The thread sends nothing: it either ends, or is late.
        let _ended: Result<(), mpsc::RecvTimeoutError> = self.done.recv_timeout(patience);
        let left = self.accounts.drop_rest();
        let dropped = self.dropped();
        if dropped > 0 {
            log::warn!(
                "OTLP: dropped since the start: {}, {left} of them because the agent ended\n\
                 hint: check the log of the collector",
                count(dropped, "event")
            );
        }
    }
}

/// Returns a random number: std seeds its hashers with random bytes of the kernel.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
