//! Events on their way to the exporter's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::mpsc;

use super::logs::QueuedEvent;
use crate::metrics::ExportLosses;

/// Maximum number of events on their way.
const MAX_EVENTS: usize = 16_384;

/// Counts of events. `handed_over` is the sum of the others and of the events on their way.
#[derive(Debug, Default)]
pub(super) struct EventAccounts {
    handed_over: AtomicU64,
    delivered: AtomicU64,
    dropped: ExportLosses,
    /// Size of all events on their way, bytes.
    bytes: AtomicUsize,
}

impl EventAccounts {
    /// Returns the count of dropped events.
    pub(super) fn losses(&self) -> ExportLosses {
        self.dropped.clone()
    }

    /// Counts the events on their way as dropped, and returns their number.
    pub(super) fn drop_rest(&self) -> u64 {
        let known = self.delivered.load(Ordering::Acquire).saturating_add(self.dropped.get());
        let left = self.handed_over.load(Ordering::Acquire).saturating_sub(known);
        self.dropped.add(left);
        left
    }

    /// Returns the numbers of events that were handed over, delivered and dropped.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.handed_over.load(Ordering::Acquire), self.delivered.load(Ordering::Acquire), self.dropped.get())
    }
}

/// End of the event loop.
#[derive(Debug)]
pub(super) struct EventSender {
    queue: mpsc::Sender<QueuedEvent>,
    accounts: Arc<EventAccounts>,
    max_bytes: usize,
}

/// End of the exporter's thread.
#[derive(Debug)]
pub(super) struct EventReceiver {
    queue: mpsc::Receiver<QueuedEvent>,
    accounts: Arc<EventAccounts>,
}

/// Returns both ends of a queue that holds at most `max_bytes` of events.
pub(super) fn channel(max_bytes: usize) -> (EventSender, EventReceiver) {
    let (sender, queue) = mpsc::channel(MAX_EVENTS);
    let accounts = Arc::new(EventAccounts::default());
    let receiver = EventReceiver { queue, accounts: Arc::clone(&accounts) };
    (EventSender { queue: sender, accounts, max_bytes }, receiver)
}

impl EventSender {
    pub(super) fn accounts(&self) -> Arc<EventAccounts> {
        Arc::clone(&self.accounts)
    }

    /// Queues an event, or counts it as dropped.
    pub(super) fn send(&mut self, json: &[u8], observed: SystemTime) {
        let number = self.accounts.handed_over.fetch_add(1, Ordering::AcqRel);
        let bytes = self.accounts.bytes.fetch_add(json.len(), Ordering::AcqRel).saturating_add(json.len());
        let fits = bytes <= self.max_bytes;
        if !fits || self.queue.try_send(QueuedEvent { number, json: json.to_vec(), observed }).is_err() {
            self.accounts.bytes.fetch_sub(json.len(), Ordering::AcqRel);
            self.accounts.dropped.add(1);
        }
    }
}

impl EventReceiver {
    /// Returns the next event; `None` after the last one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<QueuedEvent> {
        self.queue.recv().await
    }

    /// Counts the end of some events, of which the collector did not take `refused`.
    pub(super) fn settle(&self, events: &[QueuedEvent], refused: usize) {
        let refused = refused.min(events.len());
        let bytes = events.iter().map(|event| event.json.len()).sum();
        self.accounts.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.accounts.delivered.fetch_add((events.len() - refused) as u64, Ordering::AcqRel);
        self.accounts.dropped.add(refused as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let (mut sender, mut receiver) = channel(25);
        let accounts = sender.accounts();
        for _ in 0..4 {
            sender.send(b"0123456789", UNIX_EPOCH);
        }
        assert_eq!(accounts.counts(), (4, 0, 2));
        let first = receiver.next().await.unwrap();
        receiver.settle(&[first], 0);
        sender.send(b"0123456789", UNIX_EPOCH);
        let events = [receiver.next().await.unwrap(), receiver.next().await.unwrap()];
        assert_eq!(events.each_ref().map(|event| event.number), [1, 4]);
        receiver.settle(&events, 1);
        assert_eq!(accounts.counts(), (5, 2, 3));
        sender.send(b"last", UNIX_EPOCH);
        assert_eq!((accounts.drop_rest(), accounts.counts()), (1, (6, 2, 4)));
        for _ in 0..MAX_EVENTS + 3 {
            sender.send(b"", UNIX_EPOCH);
        }
        assert_eq!(accounts.counts().2, 4 + 4, "one is still in the queue");
    }
}
