//! Attempts to deliver something, until the collector accepts or refuses it, or the time for it is over.

use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    http::{self, PostFailure, PostOutcome, post, shown},
    random,
    settings::SignalSettings,
};
use crate::clock;
use closewait_engine::time::BootTime;

/// Minimum interval between two messages about a collector that fails.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Delays between attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    /// Delay after the first attempt; it doubles after each further one.
    pub(super) first_delay: Duration,
    /// Maximum delay.
    pub(super) max_delay: Duration,
    /// Maximum delay that the collector can ask for.
    pub(super) max_retry_after: Duration,
    /// Maximum time from the first attempt to the beginning of the last one.
    pub(super) max_time: Duration,
    /// Maximum delay while the agent ends.
    pub(super) delay_at_end: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(120),
            max_time: Duration::from_secs(300),
            delay_at_end: Duration::from_millis(200),
        }
    }
}

impl RetryPolicy {
    /// Returns the delay after some failed attempts: that of the collector, or a random one from half the delay to all of it, so that
    /// the agents of many hosts do not come back at the same time.
    fn delay(&self, attempts: u32, asked: Option<Duration>, random: u64) -> Duration {
        let full = self.first_delay.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.max_delay);
        let share = 0.5 + 0.5 * (random as f64 / u64::MAX as f64);
        let own = full.mul_f64(share);
        asked.map_or(own, |asked| own.max(asked.min(self.max_retry_after)))
    }
}

/// Delivery of one signal.
#[derive(Debug)]
pub(super) struct Delivery {
    settings: SignalSettings,
    policy: RetryPolicy,
    /// Whether the agent ends.
    is_ending: watch::Receiver<bool>,
    failures: FailureLog,
}

/// Outcome of all attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delivered<R> {
    /// The collector accepted it, with this response.
    Accepted(R),
    /// The collector refused it, or did not answer in time.
    Failed,
}

impl Delivery {
    pub(super) fn new(settings: SignalSettings, policy: RetryPolicy, is_ending: watch::Receiver<bool>) -> Self {
        Self { settings, policy, is_ending, failures: FailureLog::default() }
    }

    /// Delivers a message within `max_time` of the policy, or within `patience` if that is shorter. `loss` is what happens
    /// without it, for people.
    pub(super) async fn deliver<R: prost::Message + Default>(
        &mut self,
        message: Vec<u8>,
        patience: Option<Duration>,
        loss: &str,
    ) -> Delivered<R> {
        let body = if self.settings.gzip { gzip(&message) } else { Bytes::from(message) };
        let began = Instant::now();
        let end = patience.map(|patience| began + patience);
        let until = began + patience.map_or(self.policy.max_time, |patience| self.policy.max_time.min(patience));
        for attempts in 1.. {
            let (why, after) = match post(&self.settings, body.clone(), end).await {
                PostOutcome::Accepted(body) => {
                    let Ok(response) = R::decode(body) else {
                        self.report(&http::no_collector("its response is malformed"), loss);
                        return Delivered::Failed;
                    };
                    self.report_success();
                    return Delivered::Accepted(response);
                }
                PostOutcome::Refused(why) => {
                    self.report(&why, loss);
                    return Delivered::Failed;
                }
                PostOutcome::Retry { why, after } => (why, after),
            };
            let delay = self.policy.delay(attempts, after, random());
            if Instant::now() + delay > until {
                self.report(&why, &format!("the agent gives up: {loss}"));
                return Delivered::Failed;
            }
            self.report(&why, "the agent tries again");
            self.pause(delay).await;
        }
        Delivered::Failed
    }

    /// Waits between two attempts: for `delay`, or shorter once the agent ends.
    async fn pause(&mut self, delay: Duration) {
        let at_end = delay.min(self.policy.delay_at_end);
        if *self.is_ending.borrow() {
            return sleep(at_end).await;
        }
        tokio::select! {
            () = sleep(delay) => {}
            // The sender lives as long as the thread.
            _ = self.is_ending.changed() => sleep(at_end).await,
        }
    }

    fn report(&mut self, why: &PostFailure, then: &str) {
        if let Some(message) = self.failures.failed(&self.settings, why, then, clock::now()) {
            log::warn!("{message}");
        }
    }

    fn report_success(&mut self) {
        if self.failures.succeeded() {
            log::info!("OTLP: exporting {} to {} works again", self.settings.signal.path(), self.settings.url);
        }
    }

    /// Reports the answer of a collector that accepted a request, but perhaps not all of its content. Returns the number of
    /// items that it did not take.
    pub(super) fn partly(&mut self, rejected: i64, message: &str) -> usize {
        if rejected == 0 && message.is_empty() {
            return 0;
        }
        if self.failures.reports_partly(clock::now()) {
            log::warn!("{}", partly(&self.settings, rejected, message));
        }
        usize::try_from(rejected).unwrap_or(0)
    }
}

/// Returns the message about an answer with a partial success.
fn partly(settings: &SignalSettings, rejected: i64, message: &str) -> String {
    let SignalSettings { signal, url, .. } = settings;
    let what = signal.items();
    let said = if message.is_empty() { String::new() } else { format!(": {}", shown(message, &settings.headers)) };
    let text = match rejected {
        0 => format!("accepted all {what}, with a warning{said}"),
        1.. => format!("rejected {rejected} {what}, which are dropped{said}"),
        _ => format!("answered that it rejected {rejected} {what}, which is not possible{said}"),
    };
    format!("OTLP: {url} {text}\nhint: check the log of the collector")
}

/// Compresses a message. The level is the fastest: metrics repeat so much that others save little.
fn gzip(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec cannot fail.
    let _infallible: std::io::Result<()> = encoder.write_all(message);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// Log of failures, and of the recovery: at most one of each in a minute, also from a collector that fails now and then.
#[derive(Debug, Default)]
struct FailureLog {
    /// Whether the last message was about a failure.
    is_failing: bool,
    reported: Option<BootTime>,
    /// Failures since the last message about one.
    unreported: u64,
    reported_partly: Option<BootTime>,
}

impl FailureLog {
    /// Counts a failure. Returns the message, if one is due.
    fn failed(&mut self, settings: &SignalSettings, why: &PostFailure, then: &str, now: BootTime) -> Option<String> {
        if !is_due(self.reported, now) {
            self.unreported += 1;
            return None;
        }
        self.is_failing = true;
        self.reported = Some(now);
        let (what, url) = (settings.signal.path(), &settings.url);
        let more = match std::mem::take(&mut self.unreported) {
            0 => String::new(),
            1 => " (and once before)".to_owned(),
            count => format!(" (and {count} times before)"),
        };
        let PostFailure { cause, hint } = why;
        Some(format!("OTLP: exporting {what} to {url} failed{more}: {cause}; {then}\nhint: {hint}"))
    }

    /// Returns whether a success is to be reported.
    fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.is_failing)
    }

    /// Returns whether a partial success is to be reported.
    fn reports_partly(&mut self, now: BootTime) -> bool {
        let is_due = is_due(self.reported_partly, now);
        if is_due {
            self.reported_partly = Some(now);
        }
        is_due
    }
}

fn is_due(reported: Option<BootTime>, now: BootTime) -> bool {
    reported.is_none_or(|reported| now.since(reported) >= REPORT_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::{
        super::settings::{SecretHeaders, Signal},
        *,
    };

    #[test]
    fn delays_double_and_are_bounded() {
        let policy = RetryPolicy::default();
        let seconds = |attempts, asked: Option<u64>, random| {
            policy.delay(attempts, asked.map(Duration::from_secs), random).as_secs_f64()
        };
        assert_eq!([1, 2, 3, 6, 60].map(|attempts| seconds(attempts, None, u64::MAX)), [1.0, 2.0, 4.0, 30.0, 30.0]);
        assert_eq!([1, 2, 6].map(|attempts| seconds(attempts, None, 0)), [0.5, 1.0, 15.0]);
        assert_eq!(seconds(1, Some(7), 0), 7.0);
        assert_eq!(seconds(1, Some(0), 0), 0.5, "never without a delay");
        assert_eq!(seconds(1, Some(86_400), 0), 120.0, "bounded");
    }

    #[test]
    fn messages_are_one_a_minute() {
        let second = |number: u64| BootTime(number * 1_000_000_000);
        let url = "http://127.0.0.1:4318/v1/logs".parse().unwrap();
        let headers = SecretHeaders::default();
        let settings = SignalSettings { signal: Signal::Logs, url, headers, timeout: Duration::ZERO, gzip: false };
        let why = PostFailure { cause: "connecting failed".to_owned(), hint: "start it" };
        let mut log = FailureLog::default();
        let failed = |log: &mut FailureLog, at| log.failed(&settings, &why, "5 events count as dropped", second(at));
        let message = "OTLP: exporting logs to http://127.0.0.1:4318/v1/logs failed: connecting failed; 5 events count as \
                       dropped\nhint: start it";
        assert_eq!(failed(&mut log, 1).as_deref(), Some(message));
        assert!(log.succeeded() && !log.succeeded());
        // A collector that fails now and then.
        for at in 2..61 {
            assert_eq!(failed(&mut log, at), None);
            assert!(!log.succeeded(), "no success without a failure");
        }
        let later = failed(&mut log, 61).unwrap();
        assert!(later.contains("failed (and 59 times before): connecting failed"), "{later}");
        assert!(log.succeeded());
        assert!(log.reports_partly(second(61)) && !log.reports_partly(second(62)) && log.reports_partly(second(121)));
    }

    #[test]
    fn partial_successes_say_what_is_dropped() {
        let url = "http://127.0.0.1:4318/v1/logs".parse().unwrap();
        let headers = SecretHeaders::default();
        let settings = SignalSettings { signal: Signal::Logs, url, headers, timeout: Duration::ZERO, gzip: false };
        let line = |rejected, message| partly(&settings, rejected, message).lines().next().unwrap().to_owned();
        let begin = "OTLP: http://127.0.0.1:4318/v1/logs";
        assert_eq!(line(2, "too old"), format!("{begin} rejected 2 events, which are dropped: too old"));
        assert_eq!(line(0, "slow"), format!("{begin} accepted all events, with a warning: slow"));
        assert_eq!(line(-5, ""), format!("{begin} answered that it rejected -5 events, which is not possible"));
        assert!(!line(1, "no\u{1b}[2J").contains('\u{1b}'));
        let mut secret = settings.clone();
        secret.headers.0.insert("authorization", "Bearer hunter2-top-secret".parse().unwrap());
        for said in
            ["denied for Bearer hunter2-top-secret", "HUNTER2-TOP", "hunter2%2Dtop%2Dsecret", "hunter2 top secret"]
        {
            let line = partly(&secret, 1, said);
            assert!(line.contains("its text is not shown") && !line.to_lowercase().contains("hunter2"), "{line}");
        }
        assert!(partly(&secret, 1, "Bearer tokens are needed").contains("Bearer tokens are needed"));
    }
}
