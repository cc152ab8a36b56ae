//! Kernel side of a running agent, as the event loop uses it. The event loop's tests use an implementation without a
//! kernel.

use std::{collections::HashSet, io, mem::offset_of};

use closewait_common::{
    Record,
    record::{SIZE, flag, kind},
};

use super::{
    program::{KernelProgramError, KernelPrograms, RefreshKind, Refreshed},
    ring::RingReader,
};
use crate::clock;
use closewait_engine::{
    model::{Counters, PassedSockets, PortCloses, SocketKey, WatchedPort},
    time::BootTime,
};

/// Source of records, and receiver of the engine's requests to the kernel.
pub trait RecordSource {
    /// Returns when there may be records to read. Drain the source until it is empty before waiting again.
    ///
    /// # Errors
    ///
    /// If the runtime has ended.
    fn ready(&self) -> impl Future<Output = io::Result<()>>;

    /// Hands up to `limit` records to `each`. Returns whether the source is empty.
    fn drain(&mut self, limit: usize, each: impl FnMut(&[u8])) -> bool;

    /// Returns the number of records that can wait.
    fn capacity(&self) -> usize;

    /// Reads sockets again. When this returns, a record of each that is still of this kind is written, except of those that have not
    /// changed, which it returns. `is_known` is whether the engine still has the facts of a socket's last refresh.
    fn refresh(&mut self, keys: &[SocketKey], kind: RefreshKind, is_known: impl Fn(SocketKey) -> bool) -> Refreshed;

    /// Returns the number of records of refreshes that were not drained. An empty source can have some: a record that another CPU is
    /// still writing hides the later ones.
    fn hidden_refreshes(&self) -> u64;

    /// Stops counting the records of earlier refreshes.
    fn forget_hidden_refreshes(&mut self);

    /// Takes note that all records of refreshes were drained and handled. `has` is whether the engine has the facts of
    /// a refresh of a socket at a time or later.
    fn records_handled(&mut self, has: impl Fn(SocketKey, BootTime) -> bool);

    /// Whether there can be sockets in CLOSE_WAIT that [`Self::announce`] has to announce.
    fn defers(&self) -> bool;

    /// Announces sockets that have entered at `until` or before. When this returns, a record of each that is still in CLOSE_WAIT can be
    /// drained, or has been. Returns whether all were announced; drain the source before the next call.
    fn announce(&mut self, until: BootTime) -> bool;

    /// Returns the counts of sockets that had no records, since the last call. `may_count` is whether the kernel may count sockets from
    /// now on; else each has its record.
    fn take_passed(&mut self, now: BootTime, may_count: bool) -> Vec<PassedSockets>;

    /// Returns the kernel's counters.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn counters(&self) -> Result<Counters, KernelProgramError>;

    /// Removes times of entry from the kernel, each unless another socket has entered at the address since.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    fn forget(&mut self, entries: &[(SocketKey, BootTime)]) -> Result<(), KernelProgramError>;

    /// Stores for the next agent that a window of the histograms ended at `at`, with these counters.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    fn keep_reported(&mut self, at: BootTime, counters: &Counters) -> Result<(), KernelProgramError>;

    /// Makes the kernel count the closes of these ports, and of no others.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    fn watch_ports(&mut self, ports: &[WatchedPort]) -> Result<(), KernelProgramError>;

    /// Returns the closes of those of `ports` that are watched.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    fn closes(&self, ports: &[WatchedPort]) -> Result<Vec<PortCloses>, KernelProgramError>;

    /// Stops the records. The last ones may still have to be drained.
    fn detach(&mut self);
}

/// Returns the address and the entry time of a record that [`KernelPrograms::announce`] has had written.
fn announcement(record: &[u8]) -> Option<(u64, u64)> {
    if record.len() != SIZE || record.get(offset_of!(Record, kind)) != Some(&kind::ENTER) {
        return None;
    }
    let flags = u32::from_ne_bytes(*record.get(offset_of!(Record, flags)..)?.first_chunk()?);
    let number = |at: usize| Some(u64::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let stay = (number(offset_of!(Record, sk))?, number(offset_of!(Record, entered_ns))?);
    (flags & flag::ANNOUNCED != 0).then_some(stay)
}

/// Whether a record in the ring buffer is that of a refreshed socket.
fn is_of_refresh(record: &[u8]) -> bool {
    matches!(record.get(offset_of!(Record, kind)), Some(&(kind::REFRESHED | kind::LINGERING)))
}

/// Attached kernel programs, and the ring buffer that they write to.
pub struct KernelSource {
    /// The programs. They end before the ring buffer does (docs/kernel-safety.md).
    pub programs: KernelPrograms,
    /// The ring buffer.
    pub ring: RingReader,
    /// Number of records that fit into the ring buffer.
    pub capacity: usize,
    /// Announced sockets whose records have not been drained.
    pub announced: HashSet<(u64, u64)>,
    /// Number of records of refreshes that have not been drained.
    pub unread_refreshes: u64,
}

impl RecordSource for KernelSource {
    fn ready(&self) -> impl Future<Output = io::Result<()>> {
        self.ring.ready()
    }

    fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> bool {
        let Self { programs, ring, announced, unread_refreshes, .. } = self;
        let now = clock::now();
        ring.drain(limit, |record| {
            programs.saw(record, now);
            if is_of_refresh(record) {
                *unread_refreshes = unread_refreshes.saturating_sub(1);
            }
            if announcement(record).is_none_or(|stay| announced.remove(&stay)) {
                each(record);
            }
        })
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn refresh(&mut self, keys: &[SocketKey], kind: RefreshKind, is_known: impl Fn(SocketKey) -> bool) -> Refreshed {
        let refreshed = self.programs.refresh(keys, kind, is_known);
        self.unread_refreshes += refreshed.written;
        refreshed
    }

    fn hidden_refreshes(&self) -> u64 {
        self.unread_refreshes
    }

    fn forget_hidden_refreshes(&mut self) {
        self.unread_refreshes = 0;
    }

    fn records_handled(&mut self, has: impl Fn(SocketKey, BootTime) -> bool) {
        self.programs.records_handled(has);
    }

    fn defers(&self) -> bool {
        self.programs.defers()
    }

    fn announce(&mut self, until: BootTime) -> bool {
        self.programs.announce(until, &mut self.announced)
    }

    fn take_passed(&mut self, now: BootTime, may_count: bool) -> Vec<PassedSockets> {
        self.programs.take_passed(now, may_count)
    }

    fn counters(&self) -> Result<Counters, KernelProgramError> {
        self.programs.counters()
    }

    fn forget(&mut self, entries: &[(SocketKey, BootTime)]) -> Result<(), KernelProgramError> {
        self.programs.forget(entries)
    }

    fn keep_reported(&mut self, at: BootTime, counters: &Counters) -> Result<(), KernelProgramError> {
        self.programs.keep_reported(at, counters)
    }

    fn watch_ports(&mut self, ports: &[WatchedPort]) -> Result<(), KernelProgramError> {
        self.programs.watch_ports(ports)
    }

    fn closes(&self, ports: &[WatchedPort]) -> Result<Vec<PortCloses>, KernelProgramError> {
        self.programs.closes(ports)
    }

    fn detach(&mut self) {
        self.programs.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use closewait_engine::testing::{record, record_bytes};

    #[test]
    fn only_an_announced_entry_names_its_stay() {
        let entry = record();
        assert_eq!(announcement(&record_bytes(&entry)), None);
        let announced = Record { flags: entry.flags | flag::ANNOUNCED, time_ns: 1, ..entry };
        assert_eq!(announcement(&record_bytes(&announced)), Some((entry.sk, entry.entered_ns)));
        for kind in [kind::LEAVE, kind::PRESENT] {
            assert_eq!(announcement(&record_bytes(&Record { kind, ..announced })), None);
        }
        assert_eq!(announcement(&record_bytes(&announced)[1..]), None);
    }
}
