//! Memory limits of this process's cgroups. Facts only; [`super::limits`] draws the conclusions.

use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::mountinfo::{Mount, mounts, unescape};

/// Memory limit of a cgroup, and the unused part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes that the processes of the cgroup may use.
    pub bytes: u64,
    /// Unused bytes. Page cache does not count as used: the kernel reclaims it first.
    pub left: u64,
    /// Folder of the cgroup.
    pub cgroup: PathBuf,
}

/// Version of the cgroup hierarchy, which decides the names of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    V1,
    V2,
}

/// Returns the limit with the fewest unused bytes, among the cgroup of this process and the visible ones above it;
/// `None` if none has a limit.
pub fn find() -> Option<MemoryLimit> {
    find_in(Path::new("/proc/self"), Path::new("/"))
}

/// Finds the limit of a process by its folder, with mount points below `root`.
fn find_in(process: &Path, root: &Path) -> Option<MemoryLimit> {
    let mountinfo = fs::read(process.join("mountinfo")).ok()?;
    let cgroups = fs::read(process.join("cgroup")).ok()?;
    let found = [CgroupVersion::V2, CgroupVersion::V1].into_iter().filter_map(|version| {
        let own = own_cgroup(&cgroups, version)?;
        // Another mount of the same hierarchy may show only a part of it.
        mounts(&mountinfo).filter_map(|mount| hierarchy(mount, version)).find_map(|(shown, point)| {
            let below = own.strip_prefix(&shown).ok()?;
            let top = root.join(point.strip_prefix("/").unwrap_or(&point));
            Some((version, top.join(below), top))
        })
    });
    let limits = found.flat_map(|(version, own, top)| {
        let levels: Vec<PathBuf> =
            own.ancestors().take_while(|level| level.starts_with(&top)).map(Path::to_owned).collect();
        levels.into_iter().filter_map(move |level| limit_of(level, version))
    });
    limits.min_by_key(|limit| limit.left)
}

/// Returns the path of the process's cgroup that accounts memory (cgroups(7)).
fn own_cgroup(text: &[u8], version: CgroupVersion) -> Option<PathBuf> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (_number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            CgroupVersion::V1 => controllers.split(|byte| *byte == b',').any(|controller| controller == b"memory"),
            CgroupVersion::V2 => controllers.is_empty(),
        };
        is_it.then(|| path_of(path.to_owned()))
    })
}

/// Returns the part of the hierarchy that a mount shows, and its mount point, if that hierarchy accounts memory.
fn hierarchy(mount: Mount<'_>, version: CgroupVersion) -> Option<(PathBuf, PathBuf)> {
    let is_it = match version {
        CgroupVersion::V1 => mount.kind == b"cgroup" && mount.options().any(|option| option == b"memory"),
        CgroupVersion::V2 => mount.kind == b"cgroup2",
    };
    is_it.then(|| (path_of(unescape(mount.root)), path_of(unescape(mount.point))))
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Reads the limit of a cgroup; `None` if it has none.
fn limit_of(cgroup: PathBuf, version: CgroupVersion) -> Option<MemoryLimit> {
    let (limits, used) = match version {
        // Above `high`, the kernel slows processes down until it has reclaimed memory, and the agent has none to
        // reclaim.
        CgroupVersion::V2 => (&["memory.max", "memory.high"][..], &["anon", "slab_unreclaimable"][..]),
        CgroupVersion::V1 => (&["memory.limit_in_bytes"][..], &["total_rss"][..]),
    };
    let number = |name: &&str| -> Option<u64> { fs::read_to_string(cgroup.join(name)).ok()?.trim().parse().ok() };
    // For no limit, version 1 has a number near 2^63, version 2 a word.
    let bytes = limits.iter().filter_map(number).filter(|bytes| *bytes < 1 << 60).min()?;
    let stat = fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
    let counts = stat.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| used.contains(name));
    let used: u64 = counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).fold(0, u64::saturating_add);
    Some(MemoryLimit { bytes, left: bytes.saturating_sub(used), cgroup })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::testing::Fixture;

    const V2: &str = "31 23 0:28 / /cg rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    const V1: &str =
        "31 23 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n30 23 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n";

    /// Finds the limit of a process with this `mountinfo` and `cgroup`, and these files of cgroups.
    fn find(mounts: &str, cgroup: &str, files: &[(&str, &str)]) -> Option<(u64, u64, String)> {
        let fixture = Fixture::new("memory-limit");
        fixture.file("proc/mountinfo", mounts.as_bytes());
        fixture.file("proc/cgroup", cgroup.as_bytes());
        for (name, text) in files {
            fixture.file(name, text.as_bytes());
        }
        let found = find_in(&fixture.path().join("proc"), fixture.path())?;
        let cgroup = found.cgroup.strip_prefix(fixture.path()).unwrap().display().to_string();
        Some((found.bytes, found.left, cgroup))
    }

    #[test]
    fn the_lowest_limit_of_all_levels_counts() {
        let files = [
            ("cg/a.slice/b.service/memory.max", "67108864\n"),
            ("cg/a.slice/memory.max", "max\n"),
            ("cg/a.slice/memory.high", "50000000\n"),
            ("cg/memory.max", "40000000"),
        ];
        let found = |files| find(V2, "0::/a.slice/b.service\n", files).unwrap();
        assert_eq!(found(&files), (40_000_000, 40_000_000, "cg".to_owned()));
        assert_eq!(found(&files[..3]), (50_000_000, 50_000_000, "cg/a.slice".to_owned()));
        assert_eq!(found(&files[..2]), (67_108_864, 67_108_864, "cg/a.slice/b.service".to_owned()));
        assert_eq!(find(V2, "0::/a.slice/b.service\n", &files[1..2]), None);
    }

    #[test]
    fn what_others_of_the_cgroup_use_is_not_left() {
        let stat = "anon 20000000\nfile 90000000\nslab_unreclaimable 1000000\n";
        let files = [("cg/a/memory.max", "60000000\n"), ("cg/memory.max", "70000000\n"), ("cg/memory.stat", stat)];
        assert_eq!(find(V2, "0::/a\n", &files), Some((70_000_000, 49_000_000, "cg".to_owned())));
    }

    #[test]
    fn version_1_has_other_names() {
        let cgroup = "5:cpu:/x\n4:memory,pids:/docker/1\n0::/\n";
        let files = [
            ("cg/memory/docker/1/memory.limit_in_bytes", "67108864\n"),
            ("cg/memory/docker/1/memory.stat", "total_cache 5\ntotal_rss 108864\n"),
            ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(find(V1, cgroup, &files), Some((67_108_864, 67_000_000, "cg/memory/docker/1".to_owned())));
        assert_eq!(find(V1, cgroup, &files[2..]), None);
    }

    #[test]
    fn in_a_container_the_mount_shows_a_part_of_the_hierarchy() {
        let mounts = "31 23 0:28 /docker/1 /cg/memory ro - cgroup cgroup rw,memory\n";
        let files = [("cg/memory/memory.limit_in_bytes", "67108864\n")];
        assert_eq!(
            find(mounts, "4:memory:/docker/1\n", &files),
            Some((67_108_864, 67_108_864, "cg/memory".to_owned()))
        );
        // In a cgroup namespace of its own, its cgroup is the root.
        assert!(find(V2, "0::/\n", &[("cg/memory.max", "67108864\n")]).is_some());
        // A cgroup outside of the mount cannot be read.
        assert_eq!(find(mounts, "4:memory:/other\n", &files), None);
        assert_eq!(find("", "0::/\n", &[]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(line in "[ :,/\\\\a-z0-9-]{0,60}") {
            for version in [CgroupVersion::V1, CgroupVersion::V2] {
                drop(mounts(line.as_bytes()).filter_map(|mount| hierarchy(mount, version)).last());
                drop(own_cgroup(line.as_bytes(), version));
            }
        }
    }
}
