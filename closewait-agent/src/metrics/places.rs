//! Places of the metrics server's connections: who has to leave when there are too many.
//!
//! Any user of this host may connect over TCP, and send nothing or read nothing. Neither may keep others from an answer. So a new
//! connection always gets a place: the oldest connection without a complete request loses its own. A complete request is never
//! dropped for another one, but waits for its turn: few answers exist at the same time, because each may hold a page of its own,
//! and a client that does not read its answer loses its turn to the next one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

use crate::clock;
use closewait_engine::time::BootTime;

/// Minimum and maximum number of connections at the same time. Each without an answer costs about 10 KiB.
const CONNECTIONS: (u64, u64) = (16, 128);
/// Part of the limit on open files that connections may use.
const PART_OF_FILES: u64 = 8;
/// Maximum number of answers at the same time.
pub(super) const MAX_ANSWERS: usize = 16;
/// Minimum time that a client has to read its answer, while other requests wait for their turn.
const READ_TIME: Duration = Duration::from_millis(100);

/// Number of a connection: later ones have higher numbers.
type ConnectionNumber = u64;

/// Progress of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionProgress {
    /// The request is not complete.
    Requests,
    /// The complete request waits for its turn.
    Queued,
    /// The answer is being made.
    Answering,
    /// The answer is being sent.
    Sending {
        /// Time at which the answer was complete.
        since: BootTime,
    },
}

/// All places. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    shared: Arc<SharedPlaces>,
}

#[derive(Debug)]
struct SharedPlaces {
    limit: usize,
    state: Mutex<PlacesState>,
    /// Signals that a connection has ended, or has made progress.
    changed: Notify,
    /// Permit of the request whose turn is next.
    turn: Semaphore,
}

#[derive(Debug, Default)]
struct PlacesState {
    next: ConnectionNumber,
    /// Connections, oldest first. Dropping the sender ends one.
    taken: BTreeMap<ConnectionNumber, (ConnectionProgress, oneshot::Sender<()>)>,
    /// Whether a connection had to leave.
    has_been_full: bool,
}

/// Place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    shared: Arc<SharedPlaces>,
    number: ConnectionNumber,
}

impl Places {
    /// Returns as many places as the limit on open files allows.
    pub(super) fn new() -> Self {
        let (least, most) = CONNECTIONS;
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::with_limit(usize::try_from((files / PART_OF_FILES).clamp(least, most)).unwrap_or(usize::MAX))
    }

    fn with_limit(limit: usize) -> Self {
        let (state, changed, turn) = (Mutex::default(), Notify::new(), Semaphore::new(1));
        Self { shared: Arc::new(SharedPlaces { limit, state, changed, turn }) }
    }

    /// Returns a place for a new connection, and a receiver that ends when the connection has to leave. If there is none, the
    /// oldest connection without a complete request leaves; if all requests are complete, waits for the end of one.
    pub(super) async fn take(&self) -> (ConnectionPlace, oneshot::Receiver<()>) {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.lock().taken.len() < self.shared.limit || self.close_oldest() {
                return self.shared.add();
            }
            changed.await;
        }
    }

    /// Ends the oldest connection without a complete request. Returns whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let mut state = self.shared.lock();
        let oldest = state.taken.iter().find(|(_, (progress, _))| *progress == ConnectionProgress::Requests);
        let Some(oldest) = oldest.map(|(number, _)| *number) else { return false };
        state.taken.remove(&oldest);
        if !std::mem::replace(&mut state.has_been_full, true) {
            log::warn!(
                "clients of --listen that send no request take all connections; from now on the oldest of them are closed\n\
                 hint: use --listen unix:/PATH if you do not trust all users of this host; this lists the clients:\n    ss -tnp"
            );
        }
        true
    }
}

impl SharedPlaces {
    fn lock(&self) -> MutexGuard<'_, PlacesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>) -> (ConnectionPlace, oneshot::Receiver<()>) {
        let (stay, leave) = oneshot::channel();
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.taken.insert(number, (ConnectionProgress::Requests, stay));
        drop(state);
        (ConnectionPlace { shared: Arc::clone(self), number }, leave)
    }

    fn set(&self, number: ConnectionNumber, to: ConnectionProgress) {
        if let Some((progress, _)) = self.lock().taken.get_mut(&number) {
            *progress = to;
        }
        self.changed.notify_waiters();
    }

    /// Begins the answer of a connection, if it may. Otherwise returns the time after which a client that does not read has to
    /// leave; `None` if no answer is being sent.
    fn begin_answer(&self, number: ConnectionNumber) -> Result<(), Option<Duration>> {
        let mut state = self.lock();
        let (mut answers, mut slowest) = (0, None);
        for (number, (progress, _)) in &state.taken {
            match *progress {
                ConnectionProgress::Requests | ConnectionProgress::Queued => continue,
                ConnectionProgress::Answering => {}
                ConnectionProgress::Sending { since } => {
                    slowest = [slowest, Some((since, *number))].into_iter().flatten().min();
                }
            }
            answers += 1;
        }
        if answers >= MAX_ANSWERS {
            let Some((since, slowest)) = slowest else { return Err(None) };
            let rest = (since + READ_TIME).since(clock::now());
            if !rest.is_zero() {
                return Err(Some(rest));
            }
            state.taken.remove(&slowest);
        }
        if let Some((progress, _)) = state.taken.get_mut(&number) {
            *progress = ConnectionProgress::Answering;
        }
        Ok(())
    }
}

impl ConnectionPlace {
    /// Waits for the turn of this connection, whose request is complete.
    pub(super) async fn begin_answer(&self) {
        self.shared.set(self.number, ConnectionProgress::Queued);
        // Requests wait in the order in which they came. The semaphore is never closed.
        let _turn = self.shared.turn.acquire().await;
        loop {
            let changed = self.shared.changed.notified();
            match self.shared.begin_answer(self.number) {
                Ok(()) => return,
                Err(None) => changed.await,
                Err(Some(rest)) => drop(timeout(rest, changed).await),
            }
        }
    }

    /// Notes that the answer of this connection is complete, and only has to be sent.
    pub(super) fn send_answer(&self) {
        self.shared.set(self.number, ConnectionProgress::Sending { since: clock::now() });
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.shared.lock().taken.remove(&self.number);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn the_oldest_connection_without_a_request_leaves() {
        let places = Places::with_limit(3);
        let (first, mut first_leaves) = places.take().await;
        let (_second, mut second_leaves) = places.take().await;
        let (_third, mut third_leaves) = places.take().await;
        first.begin_answer().await;
        let (_fourth, mut fourth_leaves) = places.take().await;
        assert_eq!(second_leaves.try_recv(), Err(TryRecvError::Closed));
        for stays in [&mut first_leaves, &mut third_leaves, &mut fourth_leaves] {
            assert_eq!(stays.try_recv(), Err(TryRecvError::Empty));
        }
    }

    #[tokio::test]
    async fn a_complete_request_is_not_dropped_for_a_new_connection() {
        let places = Places::with_limit(2);
        let (first, mut first_leaves) = places.take().await;
        let (second, mut second_leaves) = places.take().await;
        first.begin_answer().await;
        second.begin_answer().await;
        assert!(timeout(SHORT, places.take()).await.is_err() && !places.close_oldest());
        assert_eq!(first_leaves.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(second_leaves.try_recv(), Err(TryRecvError::Empty));
        let (third, ()) = tokio::join!(timeout(LONG, places.take()), async { drop(second) });
        assert!(third.is_ok(), "the end of a connection frees its place");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_turn() {
        let places = Places::with_limit(4 * MAX_ANSWERS);
        let mut answers = Vec::new();
        for _ in 0..MAX_ANSWERS {
            let (place, leave) = places.take().await;
            place.begin_answer().await;
            answers.push((place, leave));
        }
        let (next, mut next_leaves) = places.take().await;
        assert!(timeout(2 * READ_TIME, next.begin_answer()).await.is_err(), "all answers are being made");
        let began = clock::now();
        answers[3].0.send_answer();
        answers[1].0.send_answer();
        timeout(LONG, next.begin_answer()).await.unwrap();
        assert!(clock::now().since(began) >= READ_TIME, "it had time to read");
        assert_eq!(answers[3].1.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(answers[1].1.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(next_leaves.try_recv(), Err(TryRecvError::Empty));
    }

    #[tokio::test]
    async fn requests_get_their_turn_in_their_order() {
        let places = Places::with_limit(4 * MAX_ANSWERS);
        let mut answers = Vec::new();
        for _ in 0..MAX_ANSWERS {
            let (place, _leave) = places.take().await;
            place.begin_answer().await;
            answers.push(place);
        }
        let (one, _one_leaves) = places.take().await;
        let (other, _other_leaves) = places.take().await;
        let order = Mutex::new(Vec::new());
        let turn = async |place: &ConnectionPlace, name| {
            place.begin_answer().await;
            order.lock().unwrap().push(name);
        };
        let free = async {
            tokio::task::yield_now().await;
            answers.clear();
        };
        let ((), (), ()) = tokio::join!(turn(&other, "other"), turn(&one, "one"), free);
        assert_eq!(*order.lock().unwrap(), ["other", "one"]);
    }
}
