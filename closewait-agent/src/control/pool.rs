//! Bytes of all answers in flight, with one limit for all.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Number of bytes that all connections together may use, and that they use now.
#[derive(Debug)]
pub(super) struct BytePool {
    limit: usize,
    used: AtomicUsize,
    /// Notified whenever bytes are released.
    released: Notify,
}

impl BytePool {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), released: Notify::new() })
    }

    /// Returns the limit in bytes.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of used bytes up to which answers stay uncompressed.
    pub(super) fn plain_limit(&self) -> usize {
        self.limit / 4
    }

    /// Waits until an eighth of the limit is free: enough for the compressed rows of tens of thousands of sockets at
    /// the default limit.
    pub(super) async fn has_room(&self) {
        while self.used.load(Ordering::Relaxed) > self.limit - self.limit / 8 {
            self.released.notified().await;
        }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Share of the limit that one answer uses. Released when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<BytePool>,
    bytes: usize,
}

impl Lease {
    pub(super) fn new(pool: Arc<BytePool>) -> Self {
        Self { pool, bytes: 0 }
    }

    pub(super) fn pool(&self) -> &BytePool {
        &self.pool
    }

    /// Takes `bytes` more, if all answers together then use at most `limit` bytes. Returns whether it did.
    pub(super) fn take(&mut self, bytes: usize, limit: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let taken = self.pool.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Takes or releases bytes until the lease has `bytes`, if all answers together then use at most `limit` bytes.
    /// Returns whether it did.
    pub(super) fn resize(&mut self, bytes: usize, limit: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) {
            return self.take(more, limit);
        }
        if bytes < self.bytes {
            self.release(self.bytes - bytes);
        }
        true
    }

    /// Releases `bytes`.
    pub(super) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.released.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_stays_below_the_limit_and_comes_back() {
        let pool = BytePool::new(100);
        let mut first = Lease::new(Arc::clone(&pool));
        let mut second = Lease::new(Arc::clone(&pool));
        assert!(first.take(60, 100) && !second.take(41, 100) && second.take(40, 100));
        first.release(10);
        assert_eq!(pool.used(), 90);
        assert!(!first.take(usize::MAX, usize::MAX), "no overflow");
        assert!(first.resize(60, 100) && !first.resize(61, 100) && pool.used() == 100);
        assert!(first.resize(50, 1) && pool.used() == 90, "less is always possible");
        drop(first);
        assert_eq!(pool.used(), 40);
        second.release(1000);
        assert_eq!(pool.used(), 0, "never more than was taken");
    }
}
