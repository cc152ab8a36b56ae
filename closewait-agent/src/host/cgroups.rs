//! The path of a cgroup, from its id.
//!
//! The id that the kernel gives to programs is the inode of the cgroup's folder (`cgroup_id` in include/linux/cgroup.h
//! and `kernfs_ino` in include/linux/kernfs.h, v6.18; Linux 5.5 on 64-bit machines), so one walk over the folders knows
//! them all.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::netns::unescape;

/// Where the kernel lists the mounts of this process.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// More folders are not walked.
const MAX_FOLDERS: usize = 65_536;

/// Deeper folders are not walked.
const MAX_DEPTH: usize = 32;

/// An unknown id lets the folders be walked anew, but not more often than this: an id of a cgroup that is gone, or of
/// another machine in a recording, stays unknown.
const WALK_EVERY: Duration = Duration::from_secs(5);

/// Why no path of a cgroup can be told.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The list of mounts cannot be read.
    #[error("reading {path} failed: {source}; mount procfs", path = .path.display())]
    Mountinfo {
        /// The list.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It names no cgroup v2.
    #[error("no cgroup2 is mounted: sockets cannot be told apart by cgroup; mount one, as at /sys/fs/cgroup/unified")]
    NotMounted,
}

/// Paths of the cgroups of one mount of cgroup v2.
#[derive(Clone, Debug)]
pub struct Cgroups {
    mount: PathBuf,
    /// Also those that are gone since an earlier walk: sockets outlive their cgroup.
    paths: BTreeMap<u64, Vec<u8>>,
    walked: Option<Duration>,
    complete: bool,
}

impl Cgroups {
    /// Those of the mount that this process sees, of the whole hierarchy if there is one.
    ///
    /// # Errors
    ///
    /// If there is no such mount.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new(MOUNTINFO);
        let text = fs::read(path).map_err(|source| CgroupError::Mountinfo { path: path.to_owned(), source })?;
        mount(&text).map(Self::at).ok_or(CgroupError::NotMounted)
    }

    /// Those of the mount at this folder.
    pub fn at(mount: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into(), paths: BTreeMap::new(), walked: None, complete: true }
    }

    /// The folder of the mount.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Whether the last walk saw every folder.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The path of the cgroup with this id, from the root of the mount, as bytes that anybody may have chosen. Walks the
    /// folders if it is unknown and they have not been walked in the last five seconds; `now` is on any clock that does
    /// not go back.
    pub fn path(&mut self, id: u64, now: Duration) -> Option<&[u8]> {
        let may_walk = self.walked.is_none_or(|walked| now.saturating_sub(walked) >= WALK_EVERY);
        if may_walk && !self.paths.contains_key(&id) {
            self.walked = Some(now);
            self.walk(MAX_FOLDERS);
        }
        self.paths.get(&id).map(Vec::as_slice)
    }

    fn walk(&mut self, max_folders: usize) {
        let mut found = BTreeMap::new();
        self.complete = true;
        match fs::metadata(&self.mount) {
            Ok(root) => drop(found.insert(root.ino(), b"/".to_vec())),
            Err(_unmounted) => self.complete = false,
        }
        let mut folders = vec![(self.mount.clone(), Vec::new(), 0)];
        while let Some((folder, path, depth)) = folders.pop() {
            // A cgroup can be removed meanwhile.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if found.len() >= max_folders || depth >= MAX_DEPTH {
                    self.complete = false;
                    break;
                }
                let mut path: Vec<u8> = path.clone();
                path.push(b'/');
                path.extend(entry.file_name().as_encoded_bytes());
                found.insert(entry.ino(), path.clone());
                folders.push((entry.path(), path, depth + 1));
            }
        }
        if self.paths.len().saturating_add(found.len()) > 2 * max_folders {
            self.paths.clear();
        }
        self.paths.extend(found);
    }
}

/// Where cgroup v2 is mounted, by the text of `mountinfo` (proc_pid_mountinfo(5)): the first mount of its root, else the
/// first that there is.
fn mount(text: &[u8]) -> Option<PathBuf> {
    let mounts = || {
        text.split(|byte| *byte == b'\n').filter_map(|line| {
            let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
            let separator = fields.iter().position(|field| *field == b"-")?;
            (*fields.get(separator + 1)? == b"cgroup2").then_some((*fields.get(3)?, *fields.get(4)?))
        })
    };
    let (_root, path) = mounts().find(|(root, _path)| *root == b"/").or_else(|| mounts().next())?;
    Some(PathBuf::from(OsString::from_vec(unescape(path))))
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop(mount(text));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::Fixture, *};

    const LATER: Duration = Duration::from_secs(100);

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    fn folder(fixture: &Fixture, path: &str) -> u64 {
        let path = fixture.path().join(path);
        fs::create_dir_all(&path).unwrap();
        inode(&path)
    }

    #[test]
    fn finds_the_mount_in_both_kinds_of_hosts() {
        let unified = b"31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount(unified), Some("/sys/fs/cgroup".into()));
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                       32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                       41 31 0:38 / /sys/fs/cgroup/a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(hybrid), Some("/sys/fs/cgroup/a b".into()));
        let part = b"1 2 0:3 /pod /part rw - cgroup2 c rw\n4 5 0:3 / /whole rw - cgroup2 c rw\n";
        assert_eq!(mount(part), Some("/whole".into()));
        assert_eq!(mount(b"1 2 0:3 / /x rw - tmpfs cgroup2 rw\n"), None);
    }

    #[test]
    fn an_id_is_the_inode_of_a_folder() {
        let fixture = Fixture::new("cgroups");
        let id = folder(&fixture, "system.slice/a.service");
        fixture.file("system.slice/cgroup.procs", b"");
        let mut cgroups = Cgroups::at(fixture.path());
        assert_eq!(cgroups.path(id, LATER), Some(&b"/system.slice/a.service"[..]));
        assert_eq!(cgroups.path(inode(fixture.path()), LATER), Some(&b"/"[..]));
        assert!(cgroups.is_complete());
        assert_eq!(cgroups.paths.len(), 3);
    }

    #[test]
    fn a_new_folder_is_found_at_the_next_walk_and_one_that_is_gone_stays_known() {
        let fixture = Fixture::new("cgroups");
        let gone = folder(&fixture, "gone");
        let mut cgroups = Cgroups::at(fixture.path());
        assert!(cgroups.path(gone, LATER).is_some());
        let new = folder(&fixture, "new");
        fs::remove_dir(fixture.path().join("gone")).unwrap();
        assert_eq!(cgroups.path(new, LATER + WALK_EVERY / 2), None);
        assert_eq!(cgroups.path(new, LATER + WALK_EVERY), Some(&b"/new"[..]));
        assert_eq!(cgroups.path(gone, LATER + WALK_EVERY * 9), Some(&b"/gone"[..]));
    }

    #[test]
    fn a_walk_ends_where_there_are_too_many_and_says_so() {
        let fixture = Fixture::new("cgroups");
        for name in 0..20 {
            folder(&fixture, &format!("many/{name}"));
        }
        let mut cgroups = Cgroups::at(fixture.path());
        cgroups.walk(5);
        assert_eq!((cgroups.paths.len(), cgroups.is_complete()), (5, false));
        let mut deep = fixture.path().to_owned();
        deep.extend(vec!["d"; MAX_DEPTH + 2]);
        fs::create_dir_all(&deep).unwrap();
        cgroups.walk(MAX_FOLDERS);
        assert!(!cgroups.is_complete());
    }

    #[test]
    fn a_folder_that_is_no_mount_is_survived() {
        let mut cgroups = Cgroups::at("/nonexistent");
        assert_eq!(cgroups.path(1, LATER), None);
        assert!(!cgroups.is_complete());
    }

    #[test]
    fn the_root_of_this_machine_has_its_inode_as_its_id() {
        match Cgroups::find() {
            Ok(mut cgroups) => {
                let root = inode(cgroups.mount());
                assert_eq!(cgroups.path(root, LATER), Some(&b"/"[..]));
                for entry in fs::read_dir(cgroups.mount()).unwrap().flatten() {
                    if entry.file_type().unwrap().is_dir() {
                        let path = cgroups.path(inode(&entry.path()), LATER).map(<[u8]>::to_vec);
                        let name = entry.file_name();
                        // Others may make one right now.
                        assert!(path.is_none_or(|path| path[1..] == *name.as_encoded_bytes()));
                    }
                }
            }
            // Where there is no cgroup v2, that is what is said.
            Err(error) => assert!(matches!(error, CgroupError::NotMounted), "{error}"),
        }
    }

    proptest! {
        #[test]
        fn any_list_of_mounts_is_survived(text: Vec<u8>) {
            drop(mount(&text));
            drop(mount(&[b"1 2 0:3 / ", text.as_slice(), b" - cgroup2 c rw"].concat()));
        }
    }
}
