//! Attempts to deliver something, until the collector accepts or refuses it, or the time for it is over.

use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    http::{PostOutcome, post, shown},
    random,
    settings::SignalSettings,
};
use crate::clock;
use closewait_engine::time::BootTime;

/// Minimum interval between two messages about a collector that does not take anything.
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
pub(super) enum Delivered {
    /// The collector accepted it, with this body of the response.
    Accepted(Bytes),
    /// The collector refused it, or did not answer in time.
    Failed,
}

impl Delivery {
    pub(super) fn new(settings: SignalSettings, policy: RetryPolicy, is_ending: watch::Receiver<bool>) -> Self {
        Self { settings, policy, is_ending, failures: FailureLog::default() }
    }

    /// Delivers a message within `max_time` of the policy, or within `patience` if that is shorter.
    pub(super) async fn deliver(&mut self, message: Vec<u8>, patience: Duration) -> Delivered {
        let body = if self.settings.gzip { gzip(&message) } else { Bytes::from(message) };
        let until = Instant::now() + self.policy.max_time.min(patience);
        for attempts in 1.. {
            let (why, after) = match post(&self.settings, body.clone()).await {
                PostOutcome::Accepted(body) => {
                    self.failures.succeeded(&self.settings);
                    return Delivered::Accepted(body);
                }
                PostOutcome::Refused(why) => {
                    self.failures.failed(&self.settings, &why, "it is dropped", clock::now());
                    return Delivered::Failed;
                }
                PostOutcome::Retry { why, after } => (why, after),
            };
            let delay = self.policy.delay(attempts, after, random());
            if Instant::now() + delay > until {
                self.failures.failed(&self.settings, &why, "the agent gives up on this request", clock::now());
                return Delivered::Failed;
            }
            self.failures.failed(&self.settings, &why, "the agent tries again", clock::now());
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

    /// Reports that the collector accepted a request, but not all of its content.
    pub(super) fn partly(&mut self, refused: i64, message: &str) {
        let what = self.settings.signal.path();
        let text = if message.is_empty() { String::new() } else { format!(": {}", shown(message)) };
        self.failures
            .partly(&format!("OTLP: the collector accepted {what} and rejected {refused} of them{text}"), clock::now());
    }
}

/// Compresses a message. The level is the fastest: metrics repeat so much that others save little.
fn gzip(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec cannot fail.
    let _infallible: std::io::Result<()> = encoder.write_all(message);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// Log of failures: the first one, then one a minute at most, and the recovery.
#[derive(Debug, Default)]
struct FailureLog {
    is_failing: bool,
    reported: Option<BootTime>,
    reported_partly: Option<BootTime>,
}

impl FailureLog {
    fn failed(&mut self, settings: &SignalSettings, why: &str, then: &str, now: BootTime) {
        let is_first = !self.is_failing;
        self.is_failing = true;
        if is_first || is_due(self.reported, now) {
            self.reported = Some(now);
            let what = settings.signal.path();
            log::warn!("OTLP: exporting {what} to {} failed: {why}; {then}", settings.url);
        }
    }

    fn succeeded(&mut self, settings: &SignalSettings) {
        if std::mem::take(&mut self.is_failing) {
            log::info!("OTLP: exporting {} to {} works again", settings.signal.path(), settings.url);
        }
    }

    fn partly(&mut self, message: &str, now: BootTime) {
        if is_due(self.reported_partly, now) {
            self.reported_partly = Some(now);
            log::warn!("{message}");
        }
    }
}

fn is_due(reported: Option<BootTime>, now: BootTime) -> bool {
    reported.is_none_or(|reported| now.since(reported) >= REPORT_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(is_due(None, second(1)));
        assert!(!is_due(Some(second(1)), second(60)));
        assert!(is_due(Some(second(1)), second(61)));
    }
}
