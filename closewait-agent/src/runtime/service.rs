//! The agent as a service: signs of life for the service manager, and the configuration read again on SIGHUP.
//!
//! The event loop itself sends the signs of life, so a loop that hangs sends none. Files are read on a thread of their own.

use std::{collections::VecDeque, io, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::{Hangup, Hangups, Runtime};
use crate::{
    clock,
    hooks::HookFilter,
    host::{
        error_text::with_hints,
        service_manager::{ServiceManager, message},
    },
    source::records::RecordSource,
};
use closewait_engine::{model::StuckCounts, text::count, time::BootTime};

/// Minimum interval between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between two attempts while the manager takes no messages.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of messages that wait for the manager: those of three reloads.
const MAX_WAITING: usize = 8;

/// Settings that change while the agent runs.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// Selection of the events that run a hook.
    pub filter: HookFilter,
    /// Minimum interval between two hooks of a group.
    pub every: Duration,
    /// Lines for the log: changed settings, and those that need a restart.
    pub lines: Vec<String>,
}

/// Function that reads the configuration again. It may wait for a disk.
pub type ReadAgain = Arc<dyn Fn() -> anyhow::Result<Reloaded> + Send + Sync>;

/// Event of a [`AgentService`].
#[derive(Debug)]
pub(super) enum ServiceEvent {
    Hangup(Hangup),
    Read(anyhow::Result<Reloaded>),
}

/// Connection to the service manager, if there is one, and the means to read the configuration again.
#[derive(Default)]
pub struct AgentService {
    manager: Option<ServiceManager>,
    hangups: Option<Hangups>,
    read_again: Option<ReadAgain>,
    /// Result of the thread that reads.
    reading: Option<oneshot::Receiver<anyhow::Result<Reloaded>>>,
    /// Whether another SIGHUP has come meanwhile.
    again: bool,
    /// Changes of state that the manager has not taken yet, in order.
    waiting: VecDeque<String>,
    /// Time of the next sign of life.
    beat: Option<BootTime>,
    next_status: Option<BootTime>,
    status: String,
    has_failed: bool,
}

impl AgentService {
    /// Creates a service. Connects to the service manager, which is possible only before the agent is confined.
    pub fn new(hangups: Hangups, read_again: Option<ReadAgain>) -> Self {
        let manager = ServiceManager::connect().unwrap_or_else(|error| {
            log::warn!(
                "the service manager cannot be notified: {error}\nhint: check NOTIFY_SOCKET, or use Type=exec in the unit"
            );
            None
        });
        let mut service = Self { manager, hangups: Some(hangups), read_again, ..Self::default() };
        service.change(&[NotifyState::Status("starting: looking for sockets in CLOSE_WAIT")]);
        service
    }

    /// Reports that the agent has started, and works.
    pub(super) fn started(&mut self, now: BootTime) {
        self.change(&[NotifyState::Ready]);
        self.beat = self.manager.as_ref().and_then(ServiceManager::watchdog).map(|_| now);
        self.next_status = self.manager.as_ref().map(|_| now);
    }

    /// Reports that the agent ends.
    pub(super) fn stopping(&mut self) {
        self.change(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        (self.beat, self.next_status) = (None, None);
    }

    /// Returns when to call [`AgentService::alive`] again.
    pub(super) fn deadline(&self, now: BootTime) -> Option<BootTime> {
        let retry = (!self.waiting.is_empty()).then(|| now + RETRY_INTERVAL);
        [self.beat, self.next_status, retry].into_iter().flatten().min()
    }

    /// Sends what is due: a round of the event loop is done.
    pub(super) fn alive(&mut self, now: BootTime, counts: impl FnOnce() -> (StuckCounts, u64)) {
        self.flush();
        if let Some(watchdog) = self.manager.as_ref().and_then(ServiceManager::watchdog)
            && self.beat.is_some_and(|beat| beat <= now)
        {
            let sent = self.try_send(&message(&[NotifyState::Watchdog]));
            // Twice as often as needed (sd_watchdog_enabled(3)).
            self.beat = Some(now + if sent { watchdog / 2 } else { RETRY_INTERVAL.min(watchdog / 2) });
        }
        if self.next_status.is_some_and(|next| next <= now) {
            self.next_status = Some(now + STATUS_INTERVAL);
            let (stuck, sockets) = counts();
            let status = status(stuck, sockets);
            if status != self.status && self.try_send(&message(&[NotifyState::Status(&status)])) {
                self.status = status;
            }
        }
    }

    /// Sends a change of state, as soon as the manager takes it.
    fn change(&mut self, states: &[NotifyState<'_>]) {
        if self.manager.is_some() && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(message(states));
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let Some(first) = self.waiting.pop_front() {
            if !self.try_send(&first) {
                self.waiting.push_front(first);
                return;
            }
        }
    }

    /// Sends a message. Returns false if the manager may take it later.
    fn try_send(&mut self, message: &str) -> bool {
        let Some(manager) = &self.manager else { return true };
        match manager.send(message) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    log::warn!("the service manager cannot be notified: send failed: {error}; the agent continues");
                }
                true
            }
        }
    }

    /// Returns the next event.
    pub(super) async fn event(&mut self) -> ServiceEvent {
        let hangup = async {
            match &mut self.hangups {
                Some(hangups) => hangups.next().await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match &mut self.reading {
                Some(reading) => reading.await.unwrap_or_else(|_panicked| Err(anyhow::anyhow!("reading it panicked"))),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            hangup = hangup => ServiceEvent::Hangup(hangup),
            read = read => ServiceEvent::Read(read),
        }
    }

    /// Begins to read the configuration again.
    fn begin(&mut self) {
        let Some(read_again) = self.read_again.clone() else { return };
        if self.reading.is_some() {
            self.again = true;
            return;
        }
        let now = NotifyState::monotonic_usec_now();
        self.change(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
        let (done, reading) = oneshot::channel();
        let read = move || {
            // An agent that ends needs no result.
            let _gone = done.send(read_again());
        };
        // This thread inherits the filter and the capabilities of the loop.
        match thread::Builder::new().name("closewait-conf".to_owned()).spawn(read) {
            Ok(_detached) => self.reading = Some(reading),
            Err(error) => self.ended(Err(error).context("starting a thread failed")).map_or((), drop),
        }
    }

    /// Handles the end of the reading. Returns the settings to apply.
    fn ended(&mut self, read: anyhow::Result<Reloaded>) -> Option<Reloaded> {
        self.reading = None;
        let reloaded = match read {
            Ok(reloaded) => {
                reloaded.lines.iter().for_each(|line| log::info!("{line}"));
                Some(reloaded)
            }
            Err(error) => {
                let problem = with_hints(&error);
                log::error!("the configuration is not reloaded, and the agent continues with the old one: {problem}");
                None
            }
        };
        self.change(&[NotifyState::Ready]);
        reloaded
    }
}

impl<S: RecordSource> Runtime<S> {
    /// Tells the service manager that the event loop works.
    pub(super) fn alive(&mut self) {
        let engine = self.engine.state();
        self.service.alive(clock::now(), || (engine.stuck_counts(), engine.totals().tracked));
    }

    /// Handles an event of the service.
    pub(super) fn service_event(&mut self, event: ServiceEvent) {
        match event {
            ServiceEvent::Hangup(Hangup::Reload) => self.service.begin(),
            // The other listener ends the agent.
            ServiceEvent::Hangup(Hangup::TerminalGone) => {}
            ServiceEvent::Read(read) => {
                if let Some(Reloaded { filter, every, .. }) = self.service.ended(read)
                    && let Some(hooks) = &mut self.hooks
                {
                    hooks.change(filter, every);
                }
                if std::mem::take(&mut self.service.again) {
                    self.service.begin();
                }
            }
        }
    }
}

/// Returns the status line: numbers only, no name that others chose.
fn status(stuck: StuckCounts, sockets: u64) -> String {
    let StuckCounts { groups, incidents, exhausted, sockets: stuck } = stuck;
    let limit = if exhausted > 0 { format!(", {exhausted} at a limit") } else { String::new() };
    format!(
        "{}, {}{limit}: {stuck} of {} in CLOSE_WAIT stuck",
        count(groups, "group"),
        count(incidents, "incident"),
        count(sockets, "socket")
    )
}

#[cfg(test)]
mod tests;
