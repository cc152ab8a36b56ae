//! Memory of a process that may be read without a wait for a file system, and without an access to a device.
//!
//! A read of `/proc/PID/mem` brings a page that is not loaded from its file, and holds the lock of the process's mappings meanwhile
//! (`access_remote_vm`, mm/memory.c at v5.10). If the file system does not answer, neither the process nor those who read its mappings go
//! on. A mapping of a device can have registers, of which a read changes something (`generic_access_phys`, mm/memory.c at v5.10).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use closewait_stacks::{Mapping, MemoryError};

use crate::host::proc::{DeviceKind, device_kinds};

/// Mappings of a process, each with the answer whether it may be read.
#[derive(Debug)]
pub(super) struct MemoryPlaces(Vec<MemoryPlace>);

/// Mapping of a process.
#[derive(Clone, Copy, Debug)]
struct MemoryPlace {
    start: u64,
    end: u64,
    /// Text for a mapping that may not be read.
    refused: Option<&'static str>,
    /// File system of a file with code that may not be read.
    code_on: Option<&'static str>,
}

/// Read that is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedRead {
    /// Reason for the reader.
    pub(super) error: MemoryError,
    /// File system of the file, if it has code.
    pub(super) code_on: Option<&'static str>,
}

impl MemoryPlaces {
    /// Returns the places of a process with these mappings, which are sorted by address.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub(super) fn of(process: &Path, mappings: &[Mapping]) -> io::Result<Self> {
        let with_file = || mappings.iter().filter(|mapping| !is_anonymous(mapping));
        let kinds = device_kinds(process, with_file().map(|mapping| mapping.device.as_str()))?;
        Ok(Self::with_kinds(mappings, &kinds))
    }

    fn with_kinds(mappings: &[Mapping], kinds: &BTreeMap<&str, DeviceKind>) -> Self {
        let file = |mapping: &Mapping| (mapping.inode, mapping.device.clone());
        let code: BTreeSet<_> = mappings.iter().filter(|mapping| mapping.executable).map(file).collect();
        let place = |mapping: &Mapping| {
            let kind = kinds.get(mapping.device.as_str()).copied().unwrap_or(DeviceKind::UNKNOWN);
            let refused = refused(mapping, kind);
            let code_on = refused.filter(|_| matches!(kind, DeviceKind::Served(_)) && code.contains(&file(mapping)));
            MemoryPlace { start: mapping.start, end: mapping.end, refused, code_on }
        };
        Self(mappings.iter().map(place).collect())
    }

    /// Checks a read of `len` bytes at `address`.
    ///
    /// # Errors
    ///
    /// If a part of them is at a place that is not read, or that was not there when the mappings were read.
    pub(super) fn check(&self, address: u64, len: usize) -> Result<(), RefusedRead> {
        let unmapped = RefusedRead { error: MemoryError::Unreadable { address, len }, code_on: None };
        let end = address.checked_add(len as u64).ok_or(unmapped)?;
        let mut at = address;
        let first = self.0.partition_point(|place| place.end <= address);
        for place in self.0.get(first..).unwrap_or_default() {
            if at >= end {
                break;
            }
            if place.start > at {
                return Err(unmapped);
            }
            if let Some(on) = place.refused {
                return Err(RefusedRead { error: MemoryError::Refused(on), code_on: place.code_on });
            }
            at = place.end;
        }
        if at < end { Err(unmapped) } else { Ok(()) }
    }
}

/// Whether a mapping is of memory without a file, or of the kernel: `[heap]`, `[vdso]`.
fn is_anonymous(mapping: &Mapping) -> bool {
    mapping.inode == 0 && mapping.device == "00:00" && !mapping.path.starts_with('/')
}

/// Returns the place of a mapping that is not read; `None` if it may be read. `kind` is that of its device.
fn refused(mapping: &Mapping, kind: DeviceKind) -> Option<&'static str> {
    const DEVICE: &str = "a device";
    if is_anonymous(mapping) {
        return None;
    }
    let is_below = |folder| mapping.path.starts_with(folder);
    let is_shared_memory = is_below("/dev/shm/");
    match kind {
        DeviceKind::Memory => None,
        DeviceKind::Served(on) => Some(on),
        DeviceKind::Nodes => (mapping.path != "/dev/zero" || mapping.shared).then_some(DEVICE),
        DeviceKind::Local if is_shared_memory => None,
        DeviceKind::Local if is_below("/dev/") || is_below("/sys/") => Some(DEVICE),
        // Readers need no data that a program shares with others by a file.
        DeviceKind::Local => mapping.shared.then_some("a shared file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
1000-2000 r--p 00000000 fe:01 7 /usr/bin/app\n\
2000-3000 r-xp 00001000 fe:01 7 /usr/bin/app\n\
3000-4000 r--p 00000000 00:2a 8 /srv/lib.so\n\
4000-5000 r-xp 00001000 00:2a 8 /srv/lib.so\n\
5000-6000 r--p 00000000 00:2a 9 /srv/data\n\
6000-7000 rw-p 00000000 00:00 0 [heap]\n\
8000-9000 rw-s 00000000 fe:01 5 /var/cache\n\
9000-a000 rw-s 00000000 00:01 5 /memfd:x (deleted)\n\
a000-b000 rw-s 00000000 00:1c 5 /dev/shm/x\n\
b000-c000 r--p 00000000 00:1c 5 /dev/dri/card0\n\
c000-d000 rw-p 00000000 00:06 4 /dev/zero\n\
d000-e000 rw-p 00000000 00:06 4 /anywhere/mem\n\
e000-f000 r--p 00000000 00:16 5 /sys/devices/resource0\n\
f000-10000 rw-p 00000000 00:0f 5 anon_inode:[io_uring]\n";

    #[test]
    fn reads_of_memory_and_of_local_private_files_only_are_made() {
        let mappings: Vec<_> = MAPS.lines().map(|line| Mapping::parse(line).unwrap()).collect();
        let kinds = BTreeMap::from([
            ("fe:01", DeviceKind::Local),
            ("00:1c", DeviceKind::Local),
            ("00:16", DeviceKind::Local),
            ("00:2a", DeviceKind::Served("fuse")),
            ("00:01", DeviceKind::Memory),
            ("00:06", DeviceKind::Nodes),
        ]);
        let places = MemoryPlaces::with_kinds(&mappings, &kinds);
        let on = |address, len| match places.check(address, len) {
            Ok(()) => ("read", None),
            Err(RefusedRead { error: MemoryError::Refused(on), code_on }) => (on, code_on),
            Err(RefusedRead { error: _, code_on }) => ("unmapped", code_on),
        };
        assert_eq!([on(0x1000, 0x2000), on(0x1fff, 2), on(0x6000, 0x1000)], [("read", None); 3]);
        assert_eq!([on(0x2fff, 2), on(0x3000, 1), on(0x4fff, 1)], [("fuse", Some("fuse")); 3]);
        assert_eq!(on(0x5000, 8), ("fuse", None), "it has no code");
        for (address, len) in [(0, 1), (0xfff, 2), (0x6fff, 2), (0x7000, 1), (0x10000, 1), (u64::MAX, 2)] {
            assert_eq!(on(address, len), ("unmapped", None), "{address:x}");
        }
        assert_eq!(on(0x8000, 1), ("a shared file", None));
        assert_eq!([on(0x9000, 0x2000), on(0xc000, 1)], [("read", None); 2]);
        assert_eq!([on(0xb000, 1), on(0xd000, 1), on(0xe000, 1)], [("a device", None); 3]);
        assert_eq!(on(0xf000, 1), ("an unknown file system", None));
    }
}
