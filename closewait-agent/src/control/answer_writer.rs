//! Answer that is sent while it is made, as far as its client reads it at once. Nothing waits for the client here.

use std::io::{self, Write as _};

use super::{
    body::{BodyWriter, full},
    frames::{MAX_FRAME, MAX_REFUSAL, REFUSAL},
    pool::Lease,
    server::QueryClient,
};

/// Minimum size of complete frames to send before the answer is complete, bytes. A short answer is sent at once.
const SEND: usize = 16 * 1024;
/// Maximum number of bytes that wait for a client that reads more slowly than the agent writes. Later ones are queued
/// in a `Body`.
const MAX_WAITING: usize = 128 * 1024;

/// Writer of an answer in frames that sends while it writes. A write fails if all answers in flight together exceed
/// the limit.
#[derive(Debug)]
pub struct AnswerWriter {
    client: QueryClient,
    /// Bytes to send next: the first line, then complete frames. The first may have been sent in part.
    waiting: Vec<u8>,
    /// Lease for the waiting bytes.
    lease: Lease,
    /// Whether a part of the answer was sent.
    began: bool,
    /// Rest of the answer, if the client is too slow. It begins with a frame.
    queue: Option<BodyWriter>,
    frames: u64,
}

impl AnswerWriter {
    /// Begins an answer with its first line.
    pub(super) fn new(client: QueryClient, head: Vec<u8>) -> Self {
        let lease = Lease::new(client.pool());
        Self { client, waiting: head, lease, began: false, queue: None, frames: 0 }
    }

    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// If all answers in flight together exceed the limit, or the frame is empty or too long.
    pub fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|_| (1..=MAX_FRAME).contains(&bytes.len()));
        let length = length.ok_or_else(|| io::Error::other(format!("a part of it has {} bytes", bytes.len())))?;
        self.write([&length.to_le_bytes(), bytes])?;
        self.frames += 1;
        Ok(())
    }

    fn write(&mut self, parts: [&[u8]; 2]) -> io::Result<()> {
        if let Some(queue) = &mut self.queue {
            return parts.into_iter().try_for_each(|part| queue.write_all(part));
        }
        parts.into_iter().for_each(|part| self.waiting.extend_from_slice(part));
        if self.waiting.len() >= SEND {
            self.send();
        }
        if self.waiting.len() > MAX_WAITING {
            self.queue = Some(BodyWriter::new(self.client.pool()));
        }
        self.resize_lease()
    }

    /// Sends as much as the client accepts at once.
    fn send(&mut self) {
        let mut sent = 0;
        // The task that sends the rest gets the error again.
        while let Some(rest) = self.waiting.get(sent..).filter(|rest| !rest.is_empty())
            && let Ok(bytes @ 1..) = self.client.send_now(rest)
        {
            sent += bytes;
        }
        self.began |= sent > 0;
        self.waiting.drain(..sent);
    }

    fn resize_lease(&mut self) -> io::Result<()> {
        let limit = self.lease.pool().limit();
        if self.lease.resize(self.waiting.len(), limit) { Ok(()) } else { Err(full(self.lease.pool())) }
    }

    /// Ends the answer. The rest is sent in the background: a slow client delays no other.
    pub fn finish(mut self) {
        if let Err(error) = self.write([&0_u32.to_le_bytes(), &self.frames.to_le_bytes()]) {
            return self.refuse(&error.to_string());
        }
        let body = match self.queue.take().map(BodyWriter::finish).transpose() {
            Ok(body) => body,
            Err(error) => return self.refuse(&error.to_string()),
        };
        self.send();
        // Fewer bytes wait than before.
        let _fits = self.resize_lease();
        self.client.send((self.waiting, self.lease), body);
    }

    /// Ends the answer with the reason for its failure, even if a part was sent. Drops the queued bytes.
    pub fn refuse(mut self, why: &str) {
        self.queue = None;
        if !self.began {
            return self.client.refuse(why.to_owned());
        }
        let why = why.get(..why.floor_char_boundary(MAX_REFUSAL)).unwrap_or_default();
        self.waiting.extend_from_slice(&REFUSAL.to_le_bytes());
        self.waiting.extend_from_slice(&u32::try_from(why.len()).unwrap_or(0).to_le_bytes());
        self.waiting.extend_from_slice(why.as_bytes());
        self.send();
        let _fits = self.resize_lease();
        self.client.send((self.waiting, self.lease), None);
    }
}
