//! Ring buffer with records of the tracepoint.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;

/// Reads the ring buffer when the kernel signals data.
pub struct RingReader {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl RingReader {
    /// Registers the ring with the running tokio runtime.
    ///
    /// # Errors
    ///
    /// If `epoll_ctl` fails.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, gives the same one each time, and keeps it until it is dropped, which
        // `AsyncFd` does after it has taken the descriptor out of epoll.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| error.into_parts().1)? })
    }

    /// Returns when the kernel has signaled data. Drain the ring until it is empty before waiting again: the kernel
    /// signals only once for all data that arrives before that.
    ///
    /// # Errors
    ///
    /// If the runtime has ended.
    pub async fn ready(&self) -> io::Result<()> {
        // Cleared before the ring is read, so that no signal during the read is lost.
        self.ring.readable().await?.clear_ready();
        Ok(())
    }

    /// Hands up to `limit` records to `each`. Returns whether the ring is empty.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> bool {
        let ring = self.ring.get_mut();
        for _ in 0..limit {
            let Some(record) = ring.next() else { return true };
            each(&record);
        }
        false
    }
}
