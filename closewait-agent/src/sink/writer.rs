//! Writes bytes on its own thread, through a queue with a limit: a slow reader or a hanging disk never delays the
//! thread that sends.
//!
//! Standard output, requests to the hook helper, the log and the recording use it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::event::PollFlags;
use tokio::sync::Notify;

use crate::{
    clock,
    host::poll::{poll, reader_is_gone},
};
use closewait_engine::time::BootTime;

/// Interval between two checks of the reader, while there is nothing to write.
const READER_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time that a piece waits for an earlier piece of another writer ([`Writer::send_after`]).
const MAX_HOLD: Duration = Duration::from_millis(100);
/// Pause after a descriptor was reported as writable and was not.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Result of [`Writer::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// The bytes will be written.
    Queued,
    /// The bytes were dropped: too many are waiting already.
    Full,
}

/// Settings of a writer.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Name of the thread, at most 15 bytes.
    pub name: &'static str,
    /// Maximum number of bytes that may wait.
    pub limit: usize,
    /// Whether the thread ends as soon as the reader of a pipe has gone, even if there is nothing to write.
    pub watches_reader: bool,
    /// Function to call on the thread before anything is written.
    pub at_start: fn(),
}

/// Queue of bytes with a limit, and the thread that writes them.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<WriteQueue>,
    limit: usize,
}

/// Position in the queue of a writer: behind everything that was sent before.
#[derive(Clone, Debug)]
pub struct Mark {
    shared: Arc<WriteQueue>,
    /// Number of pieces sent before it.
    pieces: u64,
}

#[derive(Debug, Default)]
struct WriteQueue {
    state: Mutex<QueueState>,
    /// Signals that a piece was sent, or the queue was closed.
    arrived: Condvar,
    /// Signals that a piece was written, or the thread has ended.
    progressed: Condvar,
    ended: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<Chunk>,
    /// Number of bytes that wait, including those that are being written.
    waiting_bytes: usize,
    /// Number of pieces that were sent.
    sent: u64,
    /// Number of pieces that were written.
    written: u64,
    /// Whether no more pieces will come.
    closed: bool,
    /// Whether the thread has ended.
    ended: bool,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    after: Option<Mark>,
}

/// Next step of the writer thread.
enum WriterStep {
    Write(Chunk),
    CheckReader,
    End,
}

impl Writer {
    /// Writes lines to `to`, with at most `limit` bytes waiting, and ends when their reader has gone.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn new(to: impl Write + AsFd + Send + 'static, limit: usize) -> io::Result<Self> {
        Self::start(to, Settings { name: "closewait-out", limit, watches_reader: true, at_start: || () })
    }

    /// Starts a thread that writes to `to`.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(to: impl Write + AsFd + Send + 'static, settings: Settings) -> io::Result<Self> {
        let Settings { name, limit, watches_reader, at_start } = settings;
        let shared = Arc::new(WriteQueue::default());
        let for_thread = Arc::clone(&shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            at_start();
            let error = write_all(to, &for_thread, watches_reader).err();
            let mut state = for_thread.lock();
            state.ended = true;
            state.error = error;
            // The thread will not write these.
            state.waiting.clear();
            drop(state);
            for_thread.progressed.notify_all();
            for_thread.ended.notify_one();
        })?;
        Ok(Self { shared, limit })
    }

    /// Queues `bytes`, or drops them if too many bytes are waiting already.
    pub fn send(&self, bytes: Vec<u8>) -> Backlog {
        self.send_after(bytes, None)
    }

    /// Queues `bytes`, to be written after everything before `after`. If the other writer is late by more than 100
    /// ms, this one stops waiting for it until it has caught up.
    pub fn send_after(&self, bytes: Vec<u8>, after: Option<Mark>) -> Backlog {
        let mut state = self.shared.lock();
        if state.has_room(bytes.len(), self.limit) {
            self.queue(&mut state, Chunk { bytes, after });
            Backlog::Queued
        } else {
            Backlog::Full
        }
    }

    /// Queues a few bytes beyond the limit, and nothing after them.
    pub fn send_last(&self, bytes: Vec<u8>) {
        let mut state = self.shared.lock();
        self.queue(&mut state, Chunk { bytes, after: None });
        state.closed = true;
    }

    fn queue(&self, state: &mut QueueState, piece: Chunk) {
        // When the thread has ended, [`Writer::ended`] and [`Writer::failure`] report it.
        if state.closed || state.ended {
            return;
        }
        state.waiting_bytes += piece.bytes.len();
        state.sent += 1;
        state.waiting.push_back(piece);
        self.shared.arrived.notify_one();
    }

    /// Waits until `length` more bytes may wait, at most for `patience`. Returns whether they may.
    pub fn wait_for_room(&self, length: usize, patience: Duration) -> bool {
        let has_room = |state: &QueueState| state.ended || state.has_room(length, self.limit);
        self.shared.wait(has_room, clock::now() + patience)
    }

    /// Returns the number of bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().waiting_bytes
    }

    /// Returns the mark behind everything that was sent so far.
    pub fn mark(&self) -> Mark {
        Mark { shared: Arc::clone(&self.shared), pieces: self.shared.lock().sent }
    }

    /// Returns when nothing can be written any more, because the reader has gone or writing failed.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Returns the error that ended the output, once; `None` while the thread writes.
    pub fn failure(&self) -> Option<io::Error> {
        let mut state = self.shared.lock();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the thread that writes has ended");
        state.ended.then(|| state.error.take().unwrap_or_else(gone))
    }

    /// Closes the queue: the thread ends when it has written all waiting pieces.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until everything is written, at most for `patience`.
    ///
    /// # Errors
    ///
    /// If writing failed, or took too long. A reader that has gone is no error: it has seen what it wanted.
    pub fn finish(self, patience: Duration) -> io::Result<()> {
        let written = self.write_out(patience);
        written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
    }

    /// Waits until everything is written, at most for `patience`.
    ///
    /// # Errors
    ///
    /// If writing failed, took too long, or the reader has gone.
    pub fn write_out(self, patience: Duration) -> io::Result<()> {
        self.close();
        if !self.shared.wait(|state| state.ended, clock::now() + patience) {
            let waiting = self.waiting_bytes();
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the last {waiting} bytes were not taken")));
        }
        self.shared.lock().error.take().map_or(Ok(()), Err)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Mark {
    /// Waits until everything before the mark is written, or never will be, at most for `patience`. Returns whether
    /// that is so.
    pub fn wait(&self, patience: Duration) -> bool {
        self.shared.wait(|state| state.ended || state.written >= self.pieces, clock::now() + patience)
    }
}

impl QueueState {
    /// Whether `length` more bytes fit. A piece that is longer than the limit fits alone.
    fn has_room(&self, length: usize, limit: usize) -> bool {
        self.waiting_bytes == 0 || self.waiting_bytes.saturating_add(length) <= limit
    }
}

impl WriteQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits until `done` is true. Returns whether that happened before `until`.
    fn wait(&self, done: impl Fn(&QueueState) -> bool, until: BootTime) -> bool {
        let mut state = self.lock();
        while !done(&state) {
            let rest = until.since(clock::now());
            if rest.is_zero() {
                return false;
            }
            (state, _) = self.progressed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn next(&self) -> WriterStep {
        let mut state = self.lock();
        loop {
            if let Some(piece) = state.waiting.pop_front() {
                return WriterStep::Write(piece);
            }
            if state.closed {
                return WriterStep::End;
            }
            let waited = self.arrived.wait_timeout(state, READER_CHECK_INTERVAL);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            if timeout.timed_out() && state.waiting.is_empty() && !state.closed {
                return WriterStep::CheckReader;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn wrote(&self, length: usize) {
        let mut state = self.lock();
        state.waiting_bytes -= length;
        state.written += 1;
        drop(state);
        self.progressed.notify_all();
    }
}

fn write_all(mut to: impl Write + AsFd, shared: &WriteQueue, watches_reader: bool) -> io::Result<()> {
    let mut late = false;
    loop {
        match shared.next() {
            WriterStep::Write(Chunk { bytes, after }) => {
                if let Some(after) = after {
                    late = !after.wait(if late { Duration::ZERO } else { MAX_HOLD });
                }
                write_fully(&mut to, &bytes)?;
                if shared.is_idle() {
                    flush_fully(&mut to)?;
                }
                shared.wrote(bytes.len());
            }
            WriterStep::CheckReader if watches_reader && reader_is_gone(to.as_fd()) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            WriterStep::CheckReader => {}
            WriterStep::End => return flush_fully(&mut to),
        }
    }
}

/// Writes all of `bytes`, even to a non-blocking descriptor: another process that shares it may have set
/// `O_NONBLOCK`.
///
/// # Errors
///
/// If a write fails.
pub fn write_fully(to: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    let mut refused = false;
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                refused = false;
            }
            Err(error) => refused = try_again(to.as_fd(), error, refused)?,
        }
    }
    Ok(())
}

fn flush_fully(to: &mut (impl Write + AsFd)) -> io::Result<()> {
    let mut refused = false;
    while let Err(error) = to.flush() {
        refused = try_again(to.as_fd(), error, refused)?;
    }
    Ok(())
}

/// Waits until another attempt may succeed, if one may. Returns whether the descriptor was not ready.
fn try_again(fd: BorrowedFd<'_>, error: io::Error, refused: bool) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::Interrupted {
        return Ok(refused);
    }
    if error.kind() != io::ErrorKind::WouldBlock {
        return Err(error);
    }
    // A descriptor that is reported as ready and then is not must not keep a CPU busy.
    if refused {
        thread::sleep(RETRY_INTERVAL);
    }
    poll(fd, PollFlags::OUT, Duration::from_secs(1));
    Ok(true)
}

#[cfg(test)]
mod tests;
