//! Recent events of a running agent, and the clients that follow them.
//!
//! All clients read the same bounded memory of recent events, each at its own place. So a client needs no memory of its own, a slow
//! one holds up nothing, and one that is overtaken by the memory's end gets the number of events that it missed.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, net::UnixStream, sync::Notify, time::timeout};

use super::{Head, server::QueryClient};
use closewait_engine::time::BootTime;

/// Maximum number of recent events.
pub const MAX_EVENTS: usize = 4096;
/// Maximum size of all recent events, bytes.
pub const MAX_EVENT_BYTES: usize = 4 << 20;
/// Maximum number of clients that follow events: a quarter of all clients, so that others are still served.
const MAX_FOLLOWERS: usize = super::MAX_CLIENTS / 4;
/// Time after which the agent gives up a client that does not read one event.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// Kind of an event, for filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// Incident, or state of the agent.
    Incident,
    /// Stuck socket, or dwell times.
    Stuck,
    /// Any other socket. The memory has these events only while a client follows.
    Socket,
}

/// Format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventForm {
    /// Lines for people.
    Text,
    /// A line of JSON.
    Json,
}

/// Recent event.
#[derive(Debug)]
pub struct RecentEvent {
    /// Time of the event.
    pub at: BootTime,
    /// Kind of the event.
    pub kind: EventKind,
    /// Line of JSON.
    pub json: String,
    /// Lines for people; empty if there are none.
    pub text: String,
}

/// Part of the stream of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamItem {
    /// The memory of recent events reaches back for this time only.
    Begins(Duration),
    /// An event, with the end of its last line.
    Event(EventKind, String),
    /// Number of events that the client missed here.
    Missed(u64),
}

/// Memory of recent events. Clones share it.
#[derive(Clone, Debug)]
pub struct EventLog(Arc<SharedEvents>);

#[derive(Debug)]
struct SharedEvents {
    recent: Mutex<RecentEvents>,
    max_bytes: usize,
    /// Notified when an event arrives, and at the end.
    changed: Notify,
    followers: AtomicUsize,
    /// Notified when a follower has gone.
    left: Notify,
}

#[derive(Debug, Default)]
struct RecentEvents {
    events: VecDeque<Arc<RecentEvent>>,
    /// Number of events before the first that is stored.
    dropped: u64,
    bytes: usize,
    ended: bool,
}

/// Next step of a follower.
enum FollowStep {
    Event(Arc<RecentEvent>),
    Missed(u64),
    Wait,
    End,
}

impl EventLog {
    /// Creates an empty memory of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self(Arc::new(SharedEvents {
            recent: Mutex::default(),
            max_bytes,
            changed: Notify::new(),
            followers: AtomicUsize::new(0),
            left: Notify::new(),
        }))
    }

    /// Whether events of this kind are stored now.
    pub fn wants(&self, kind: EventKind) -> bool {
        kind != EventKind::Socket || self.followers() > 0
    }

    /// Adds an event. Drops the oldest ones over the limits.
    pub fn add(&self, event: RecentEvent) {
        let mut recent = self.lock();
        recent.bytes += event.size();
        recent.events.push_back(Arc::new(event));
        while recent.events.len() > MAX_EVENTS || recent.bytes > self.0.max_bytes {
            let Some(oldest) = recent.events.pop_front() else { break };
            recent.bytes -= oldest.size();
            recent.dropped += 1;
        }
        drop(recent);
        self.0.changed.notify_waiters();
    }

    /// Ends the stream: each client gets the rest, and then the end.
    pub fn end(&self) {
        self.lock().ended = true;
        self.0.changed.notify_waiters();
    }

    /// Waits until no client follows, at most for `patience`.
    pub async fn drained(&self, patience: Duration) {
        let gone = async {
            loop {
                let mut left = pin!(self.0.left.notified());
                left.as_mut().enable();
                if self.followers() == 0 {
                    return;
                }
                left.await;
            }
        };
        // A slow client gets no more.
        let _in_time = timeout(patience, gone).await;
    }

    /// Sends events to a client in the background: those of the last time `since` at `now`, then each new one.
    pub fn follow(&self, client: QueryClient, now: BootTime, since: Option<Duration>, form: EventForm) {
        if self.followers() >= MAX_FOLLOWERS {
            return client.refuse(format!("{MAX_FOLLOWERS} clients follow its events already; end one of them"));
        }
        self.0.followers.fetch_add(1, Ordering::Relaxed);
        let follower = Follower { log: self.clone(), form };
        let (next, begins) = self.start(now, since);
        tokio::spawn(async move {
            let mut stream = client.into_stream();
            if let Err(error) = follower.send(&mut stream.0, next, begins).await {
                log::debug!("a client no longer follows the events: {error}");
            }
        });
    }

    /// Returns the number of the first event for a client, and the time for which events are stored if that is too short.
    fn start(&self, now: BootTime, since: Option<Duration>) -> (u64, Option<Duration>) {
        let recent = self.lock();
        let Some(since) = since else { return (recent.dropped + recent.events.len() as u64, None) };
        let is_before = |event: &Arc<RecentEvent>| now.since(event.at) > since;
        let before = recent.events.iter().take_while(|event| is_before(event)).count();
        let oldest = recent.events.front().map(|event| now.since(event.at));
        let begins = oldest.filter(|oldest| recent.dropped > 0 && *oldest < since);
        (recent.dropped + before as u64, begins)
    }

    fn step(&self, next: u64) -> FollowStep {
        let recent = self.lock();
        if let Some(missed) = recent.dropped.checked_sub(next).filter(|missed| *missed > 0) {
            return FollowStep::Missed(missed);
        }
        let place = usize::try_from(next - recent.dropped).unwrap_or(usize::MAX);
        match recent.events.get(place) {
            Some(event) => FollowStep::Event(Arc::clone(event)),
            None if recent.ended => FollowStep::End,
            None => FollowStep::Wait,
        }
    }

    fn followers(&self) -> usize {
        self.0.followers.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, RecentEvents> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecentEvent {
    fn size(&self) -> usize {
        size_of::<Self>() + self.json.len() + self.text.len()
    }
}

/// Client that follows events.
struct Follower {
    log: EventLog,
    form: EventForm,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.log.0.followers.fetch_sub(1, Ordering::Relaxed);
        self.log.0.left.notify_waiters();
    }
}

impl Follower {
    /// Sends the first line of an answer, then items in frames, until the stream ends or the client has gone.
    async fn send(&self, stream: &mut UnixStream, mut next: u64, begins: Option<Duration>) -> io::Result<()> {
        write(stream, &Head::new(None).line()).await?;
        let mut frames: u64 = 0;
        if let Some(begins) = begins {
            write(stream, &frame(&StreamItem::Begins(begins))?).await?;
            frames += 1;
        }
        loop {
            let mut changed = pin!(self.log.0.changed.notified());
            changed.as_mut().enable();
            let item = match self.log.step(next) {
                FollowStep::Event(event) => {
                    next += 1;
                    let line = match self.form {
                        EventForm::Text => &event.text,
                        EventForm::Json => &event.json,
                    };
                    if line.is_empty() {
                        continue;
                    }
                    StreamItem::Event(event.kind, line.clone())
                }
                FollowStep::Missed(missed) => {
                    next += missed;
                    StreamItem::Missed(missed)
                }
                FollowStep::Wait => {
                    tokio::select! {
                        () = changed => continue,
                        () = gone(stream) => return Ok(()),
                    }
                }
                FollowStep::End => break,
            };
            write(stream, &frame(&item)?).await?;
            frames += 1;
        }
        let mut end = 0_u32.to_le_bytes().to_vec();
        end.extend(frames.to_le_bytes());
        write(stream, &end).await?;
        stream.shutdown().await
    }
}

/// Encodes an item with its length.
fn frame(item: &StreamItem) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(item).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &bytes].concat())
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    timeout(STALL_LIMIT, stream.write_all(bytes)).await?
}

/// Waits until the client has closed the connection. It has nothing more to say.
async fn gone(stream: &UnixStream) {
    let mut ignored = [0; 64];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut ignored) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: u64, length: usize) -> RecentEvent {
        RecentEvent {
            at: BootTime(second * 1_000_000_000),
            kind: EventKind::Incident,
            json: "x".repeat(length),
            text: String::new(),
        }
    }

    /// Returns what a follower at `next` gets until it has to wait: the lengths of events, and negative numbers of missed ones.
    fn rest(log: &EventLog, mut next: u64) -> Vec<i64> {
        let mut got = Vec::new();
        loop {
            match log.step(next) {
                FollowStep::Event(event) => {
                    next += 1;
                    got.push(event.json.len() as i64);
                }
                FollowStep::Missed(missed) => {
                    next += missed;
                    got.push(-(missed as i64));
                }
                FollowStep::Wait | FollowStep::End => return got,
            }
        }
    }

    #[test]
    fn the_memory_is_bounded_in_events_and_bytes_and_counts_what_a_reader_missed() {
        let log = EventLog::new(1 << 20);
        for second in 0..MAX_EVENTS as u64 + 10 {
            log.add(event(second, 1));
        }
        assert_eq!(log.lock().events.len(), MAX_EVENTS);
        let got = rest(&log, 3);
        assert_eq!((got[0], got.len()), (-7, 1 + MAX_EVENTS));
        log.add(event(9000, 1 << 19));
        log.add(event(9001, (1 << 19) - 200));
        assert!(log.lock().bytes <= 1 << 20);
        assert_eq!(rest(&log, MAX_EVENTS as u64 + 11), [(1 << 19) - 200]);
        log.add(event(9002, 2 << 20));
        let stored = |recent: &RecentEvents| (recent.events.len(), recent.bytes);
        assert_eq!(stored(&log.lock()), (0, 0), "one that is too long is missed, too");
        assert_eq!(rest(&log, MAX_EVENTS as u64 + 12), [-1]);
    }

    #[test]
    fn the_past_begins_at_the_requested_time_and_a_memory_that_is_too_short_is_told() {
        let log = EventLog::new(1 << 20);
        (0..10).for_each(|second| log.add(event(second, second as usize + 1)));
        let now = BootTime(10_000_000_000);
        let since = |seconds| log.start(now, Some(Duration::from_secs(seconds)));
        assert_eq!(log.start(now, None), (10, None));
        assert_eq!(since(3), (7, None));
        assert_eq!(since(3600), (0, None), "nothing was dropped");
        (10..10 + MAX_EVENTS as u64).for_each(|second| log.add(event(second, 1)));
        let now = BootTime((10 + MAX_EVENTS as u64) * 1_000_000_000);
        let reaches = Duration::from_secs(MAX_EVENTS as u64);
        assert_eq!(log.start(now, Some(Duration::from_secs(86_400))), (10, Some(reaches)));
        assert_eq!(log.start(now, Some(Duration::from_secs(1))).1, None);
    }

    #[test]
    fn sockets_that_are_not_stuck_are_stored_only_for_a_follower() {
        let log = EventLog::new(1 << 20);
        assert!(log.wants(EventKind::Incident) && log.wants(EventKind::Stuck) && !log.wants(EventKind::Socket));
        log.0.followers.fetch_add(1, Ordering::Relaxed);
        let follower = Follower { log: log.clone(), form: EventForm::Json };
        assert!(log.wants(EventKind::Socket));
        drop(follower);
        assert!(!log.wants(EventKind::Socket));
    }
}
