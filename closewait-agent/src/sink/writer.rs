//! Hands lines to whoever reads them, on a thread of its own: a slow reader never holds up the tracker.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;

/// How often it is looked whether the reader is still there while there is nothing to write.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What became of some lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// They will be written.
    Queued,
    /// The reader is so far behind that they were dropped.
    Full,
}

/// A queue of bytes with a limit, and the thread that writes them.
#[derive(Debug)]
pub struct Writer {
    queue: Sender<Vec<u8>>,
    done: Receiver<()>,
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    ended: Notify,
    error: Mutex<Option<io::Error>>,
}

impl Writer {
    /// Writes to `to`, with at most `limit` bytes waiting.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn new(to: impl Write + AsFd + Send + 'static, limit: usize) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel();
        let (signal_done, done) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        thread::Builder::new().name("closewait-out".to_owned()).spawn(move || {
            if let Err(error) = write_all(to, &lines, &for_thread) {
                *for_thread.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            for_thread.ended.notify_one();
            // Nobody waits any more if this fails.
            let _nobody: Result<(), mpsc::SendError<()>> = signal_done.send(());
        })?;
        Ok(Self { queue, done, shared, limit })
    }

    /// Queues `bytes`, or drops them if too much is waiting already.
    pub fn send(&self, bytes: Vec<u8>) -> Backlog {
        let waiting = self.shared.queued_bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting.saturating_add(bytes.len()) > self.limit {
            return Backlog::Full;
        }
        self.shared.queued_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        // If the thread is gone, `ended` tells.
        let _gone: Result<(), mpsc::SendError<Vec<u8>>> = self.queue.send(bytes);
        Backlog::Queued
    }

    /// Returns when nothing can be written any more, because the reader has gone or writing failed.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Waits until all is written, but no longer than `patience`.
    ///
    /// # Errors
    ///
    /// If writing failed. A reader that has gone is no error: it has seen what it wanted.
    pub fn finish(self, patience: Duration) -> io::Result<()> {
        let Self { queue, done, shared, limit: _ } = self;
        drop(queue);
        if done.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the reader of standard output did not take the last lines",
            ));
        }
        let error = shared.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        match error {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Some(_) | None => Ok(()),
        }
    }
}

fn write_all(mut to: impl Write + AsFd, lines: &Receiver<Vec<u8>>, shared: &Shared) -> io::Result<()> {
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(bytes) => {
                to.write_all(&bytes)?;
                to.flush()?;
                shared.queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            Err(RecvTimeoutError::Timeout) if reader_is_gone(to.as_fd()) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Whether `fd` is a pipe or a socket whose other end was closed.
fn reader_is_gone(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `poll` is one valid entry, and the call does not wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (io::PipeReader, Writer) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Writer::new(writer, 10).unwrap())
    }

    #[test]
    fn what_is_sent_arrives_in_order() {
        let (mut reader, writer) = pipe();
        assert_eq!(writer.send(b"one ".to_vec()), Backlog::Queued);
        assert_eq!(writer.send(b"two".to_vec()), Backlog::Queued);
        writer.finish(Duration::from_secs(5)).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn a_reader_that_does_not_read_loses_lines_but_holds_up_nobody() {
        let (reader, writer) = pipe();
        // Larger than a pipe, so that the thread stays in its write.
        assert_eq!(writer.send(vec![b'x'; 1 << 20]), Backlog::Queued);
        assert_eq!(writer.send(b"more".to_vec()), Backlog::Full);
        drop(reader);
        writer.finish(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed_without_a_line_to_write() {
        let (reader, writer) = pipe();
        drop(reader);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let noticed = async { tokio::time::timeout(Duration::from_secs(10), writer.ended()).await };
        assert!(runtime.block_on(noticed).is_ok());
    }
}
