//! Paths of cgroups by their ids.
//!
//! The id that the kernel gives to programs is that of the kernfs node of the cgroup's folder, which is also its
//! inode (`cgroup_id` in include/linux/cgroup.h and `kernfs_ino` in include/linux/kernfs.h, v5.10; on 64-bit
//! machines). A file handle of cgroup2 consists of only that id (`__kernfs_fh_to_dentry` in fs/kernfs/mount.c,
//! v5.10), so the agent opens the folder by it, however many others there are. That takes CAP_DAC_READ_SEARCH
//! (`do_handle_open` in fs/fhandle.c, v5.10). Without it, the agent scans the folders, a few milliseconds at a time.

mod handle;
mod scan;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, TryLockError},
    time::Duration,
};

use closewait_engine::text::harmless_path;

use self::{handle::Opened, scan::FolderScan};
use super::{
    deadline::{self, Patience, ReadResult, Subject},
    mountinfo::{mounts, unescape},
};

/// List of the mounts of this process.
const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Maximum number of paths in the cache, including those of removed cgroups. Beyond it, the cache drops the lowest
/// ids, which are the oldest.
const MAX_PATHS: usize = 65_536;
/// Time that one call spends on the scan of folders.
const SCAN_BUDGET: Duration = Duration::from_millis(20);

/// Reason why the path of a cgroup is unknown.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The list of mounts cannot be read.
    #[error("reading {path} failed: {error}; mount procfs", path = .path.display())]
    Mountinfo {
        /// The list.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// No mount of the list is a cgroup v2.
    #[error("no cgroup2 is mounted: cgroups of sockets stay unknown; mount one, as at /sys/fs/cgroup/unified")]
    NotMounted,
    /// The folder of the mount cannot be opened.
    #[error("opening {} failed: {error}; cgroups of sockets stay unknown", harmless_path(path.as_os_str().as_encoded_bytes()))]
    Open {
        /// The folder.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
}

/// Result of a search for a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Path from the root of the mount; any user may have chosen its bytes.
    Path(Vec<u8>),
    /// The cgroup does not exist (any more), or is outside of the mounted part. The kernel does not reuse ids.
    Gone,
    /// The search did not find it, and was incomplete for this reason.
    Unknown(String),
}

/// Paths of the cgroups of one mount of cgroup v2.
#[derive(Debug)]
pub struct Cgroups {
    path: PathBuf,
    mount: Arc<File>,
    /// Paths by id, including those of removed cgroups: sockets outlive their cgroup.
    paths: BTreeMap<u64, Vec<u8>>,
    /// Scan of the folders; `None` as long as folders can be opened by their ids.
    scan: Option<Arc<Mutex<FolderScan>>>,
}

impl Cgroups {
    /// Opens the cgroup mount of this process, preferably of the whole hierarchy.
    ///
    /// # Errors
    ///
    /// If there is no such mount.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new(MOUNTINFO);
        let text = fs::read(path).map_err(|error| CgroupError::Mountinfo { path: path.to_owned(), error })?;
        Self::at(mount(&text).ok_or(CgroupError::NotMounted)?)
    }

    /// Opens the cgroup mount at this folder.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn at(mount: impl Into<PathBuf>) -> Result<Self, CgroupError> {
        let path = mount.into();
        match File::open(&path) {
            Ok(file) => Ok(Self { path, mount: Arc::new(file), paths: BTreeMap::new(), scan: None }),
            Err(error) => Err(CgroupError::Open { path, error }),
        }
    }

    /// Returns the folder of the mount.
    pub fn mount(&self) -> &Path {
        &self.path
    }

    /// Finds the paths of these cgroups, and hands each to `each`. Takes no longer than `patience` allows.
    pub fn look_up(&mut self, ids: &[u64], patience: &mut Patience, mut each: impl FnMut(u64, Lookup)) {
        let mut asked = Vec::new();
        for id in ids {
            match self.paths.get(id) {
                Some(path) => each(*id, Lookup::Path(path.clone())),
                None => asked.push(*id),
            }
        }
        if asked.is_empty() {
            return;
        }
        let (mut left, mut refused) = (Vec::new(), false);
        if self.scan.is_none() {
            for (id, opened) in self.open(asked, patience) {
                match opened {
                    Ok(Opened::Path(path)) => {
                        self.remember(id, path.clone());
                        each(id, Lookup::Path(path));
                    }
                    Ok(Opened::Gone) => each(id, Lookup::Gone),
                    Ok(Opened::NotAllowed) => {
                        refused = true;
                        left.push(id);
                    }
                    Ok(Opened::Failed(error)) => each(id, Lookup::Unknown(format!("opening it failed: {error}"))),
                    Err(why) => each(id, Lookup::Unknown(why)),
                }
            }
        } else {
            left = asked;
        }
        if refused && self.scan.is_none() {
            self.scan = Some(Arc::new(Mutex::new(FolderScan::of(self.path.clone()))));
        }
        if left.is_empty() {
            return;
        }
        let step = self.continue_scan(patience);
        for id in left {
            match (&step, self.paths.get(&id)) {
                (_, Some(path)) => each(id, Lookup::Path(path.clone())),
                (Ok(true), None) => each(id, Lookup::Gone),
                (Ok(false), None) => each(
                    id,
                    Lookup::Unknown("not all folders have been scanned yet; grant CAP_DAC_READ_SEARCH".to_owned()),
                ),
                (Err(why), None) => each(id, Lookup::Unknown(why.clone())),
            }
        }
    }

    /// Opens these cgroups by their ids.
    fn open(&self, ids: Vec<u64>, patience: &mut Patience) -> Vec<(u64, Result<Opened, String>)> {
        let mut all = Vec::new();
        let mount = Arc::clone(&self.mount);
        let subject = Subject::Path(self.path.clone());
        let work = move |id: &u64, job: &deadline::ItemJob<Opened>| {
            if job.about(subject.clone()).is_ok() {
                job.step("its folder");
                job.put(handle::open(&mount, *id));
            }
        };
        let mut answered = BTreeMap::new();
        deadline::each(ids.clone(), patience, work, |id, result| match result {
            ReadResult::Value(opened) => drop(answered.insert(*id, Ok(opened))),
            ReadResult::Unanswered(why) => drop(answered.entry(*id).or_insert_with(|| Err(why.to_string()))),
        });
        let waits = || Err("an earlier read of its folder has not been answered".to_owned());
        all.extend(ids.into_iter().map(|id| (id, answered.remove(&id).unwrap_or_else(waits))));
        all
    }

    /// Scans for some more milliseconds. Returns whether a whole scan has ended that began after all folders of this
    /// call existed.
    fn continue_scan(&mut self, patience: &mut Patience) -> Result<bool, String> {
        let Some(scan) = self.scan.clone() else { return Ok(false) };
        let work = move || match scan.try_lock() {
            Ok(mut scan) => Some(scan.continue_for(SCAN_BUDGET)),
            // A thread that was left behind still holds it.
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => None,
        };
        match deadline::run(Subject::Path(self.path.clone()), "scanning the folders of cgroups", patience, work) {
            Ok(Some(step)) => {
                for (id, path) in step.found {
                    self.remember(id, path);
                }
                Ok(step.whole)
            }
            Ok(None) => Err("an earlier scan of the folders of cgroups has not ended".to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }

    fn remember(&mut self, id: u64, path: Vec<u8>) {
        self.paths.insert(id, path);
        // Ids grow, so the first is the oldest.
        if self.paths.len() > MAX_PATHS {
            self.paths.pop_first();
        }
    }
}

/// Returns the mount point of cgroup v2 from the text of `mountinfo` (proc_pid_mountinfo(5)): the mount with the largest part of
/// the hierarchy, and of several such mounts the first one.
fn mount(text: &[u8]) -> Option<PathBuf> {
    let cgroup2 = mounts(text).filter(|mount| mount.kind == b"cgroup2");
    let mount = cgroup2.min_by_key(|mount| levels_below_top(mount.root))?;
    Some(PathBuf::from(OsString::from_vec(unescape(mount.point))))
}

/// Returns the place of a mount's root in the hierarchy: lower for a larger part of it. `/` is the cgroup at which this process'
/// cgroup namespace begins, `/../..` one two levels above it (`cgroup_show_path` in kernel/cgroup/cgroup.c, v6.18).
fn levels_below_top(root: &[u8]) -> isize {
    let levels = root.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    levels.fold(0, |sum, name| if name == b".." { sum - 1 } else { sum + 1 })
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop(mount(text));
}

#[cfg(test)]
mod tests;
