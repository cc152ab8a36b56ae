//! File systems of the files that a process has mapped, by their devices.

use std::{cell::LazyCell, collections::BTreeMap, io, os::unix::fs::MetadataExt as _, path::Path};

use closewait_stacks::live::read_living;
use rustix::fs::MemfdFlags;

use super::{
    is_refused,
    mounts::{Behind, MountMark, Mounts, SERVED},
    program::{MAX_MOUNTINFO_BYTES, backing_file},
    read,
};

/// Maximum number of devices that are looked up; files on others count as those on an unknown file system.
const MAX_DEVICES: usize = 64;

/// File system of a device, as a read of its mapped pages sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Memory that has no file system, such as that of `memfd_create` and System V.
    Memory,
    /// A file system on disks or in memory of this machine.
    Local,
    /// Nodes of devices (`devtmpfs`).
    Nodes,
    /// A file system of this type, which may not answer.
    Served(&'static str),
}

/// Returns the file systems of these devices, which are written as in `/proc/PID/maps`: `fe:01`. One that no list of mounts has may not
/// answer: it is hidden below another mount, or was unmounted (`umount --lazy`).
///
/// Files of an overlayfs have the device of their layer before Linux 6.8, which only the host's list may have (`ovl_mmap`,
/// fs/overlayfs/file.c at v5.10).
///
/// # Errors
///
/// If the process has ended.
pub fn device_kinds<'a>(
    process: &Path,
    devices: impl Iterator<Item = &'a str>,
) -> io::Result<BTreeMap<&'a str, DeviceKind>> {
    let list = |path: &Path| match read(path, MAX_MOUNTINFO_BYTES) {
        Err(error) if is_refused(&error) => Ok(Vec::new()),
        list => list,
    };
    let own = read_living(process, |_| true, |folder| list(&folder.join("mountinfo")))?;
    let own = Mounts::parse(&own);
    // The host's first process has the mounts of container runtimes, and the mounts below them.
    let [host, agent] = ["/proc/1/mountinfo", "/proc/self/mountinfo"]
        .map(|path| LazyCell::new(move || list(Path::new(path)).unwrap_or_default()));
    let layers = || Ok(if host.is_empty() { agent.clone() } else { host.clone() });
    let memory = memory_device();
    let mut kinds = BTreeMap::new();
    for device in devices {
        if kinds.len() >= MAX_DEVICES || kinds.contains_key(device) {
            continue;
        }
        let mark = decimal(device).unwrap_or_default();
        let behind =
            |mounts: &Mounts<'_>| mounts.behind(MountMark::Device(mark.as_bytes()), layers, &backing_file).ok()?;
        let kind = if memory.as_deref() == Some(device) {
            DeviceKind::Memory
        } else {
            let elsewhere = || [&host, &agent].into_iter().find_map(|list| behind(&Mounts::parse(list)));
            behind(&own).or_else(elsewhere).map_or(DeviceKind::UNKNOWN, |behind| DeviceKind::of(&behind))
        };
        kinds.insert(device, kind);
    }
    Ok(kinds)
}

impl DeviceKind {
    /// A file system of which nothing is known.
    pub const UNKNOWN: Self = Self::Served("an unknown file system");

    fn of(behind: &Behind) -> Self {
        match behind {
            Behind::Local => Self::Local,
            Behind::Served(kind) if kind == "devtmpfs" => Self::Nodes,
            Behind::Served(kind) => {
                let stem = kind.split('.').next().unwrap_or_default();
                SERVED.into_iter().find(|served| *served == stem).map_or(Self::UNKNOWN, Self::Served)
            }
        }
    }
}

/// Returns the device of shared memory without a file system of its own, as `/proc/PID/maps` has it; `None` if it is unknown. The kernel
/// has one mount for all of it, which no list has (`shm_mnt`, mm/shmem.c at v5.10).
fn memory_device() -> Option<String> {
    let file = std::fs::File::from(rustix::fs::memfd_create(c"closewait", MemfdFlags::CLOEXEC).ok()?);
    let device = file.metadata().ok()?.dev();
    Some(format!("{:02x}:{:02x}", libc::major(device), libc::minor(device)))
}

/// Returns a device of `/proc/PID/maps` as `mountinfo` has it: `254:1` for `fe:01`.
fn decimal(device: &str) -> Option<String> {
    let (major, minor) = device.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(format!("{}:{}", number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_in_the_lists_of_mounts() {
        let own = Path::new("/proc/self");
        let proc = std::fs::metadata("/proc/version").unwrap().dev();
        let proc = format!("{:02x}:{:02x}", libc::major(proc), libc::minor(proc));
        let memory = memory_device().unwrap();
        let kinds = device_kinds(own, [memory.as_str(), &proc, "fff:fffff", "x"].into_iter()).unwrap();
        assert_eq!(kinds[memory.as_str()], DeviceKind::Memory);
        // Its files cannot be code.
        assert_eq!([kinds[proc.as_str()], kinds["fff:fffff"], kinds["x"]], [DeviceKind::UNKNOWN; 3]);
        assert!(device_kinds(Path::new("/proc/0"), ["x"].into_iter()).is_err());
    }

    #[test]
    fn not_more_devices_are_looked_up_than_the_limit() {
        let devices: Vec<_> = (0..1000).map(|minor| format!("fff:{minor:02x}")).collect();
        let kinds = device_kinds(Path::new("/proc/self"), devices.iter().map(String::as_str)).unwrap();
        assert_eq!(kinds.len(), MAX_DEVICES);
    }

    #[test]
    fn file_systems_have_the_name_of_their_kind() {
        let of = |kind: &str| DeviceKind::of(&Behind::Served(kind.to_owned()));
        assert_eq!([of("fuse.sshfs"), of("nfs4")], [DeviceKind::Served("fuse"), DeviceKind::Served("nfs4")]);
        assert_eq!([of("devtmpfs"), of("oddfs")], [DeviceKind::Nodes, DeviceKind::UNKNOWN]);
        assert_eq!(of("overlay, on an unknown file system"), DeviceKind::UNKNOWN);
    }
}
