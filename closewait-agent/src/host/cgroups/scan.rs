//! Interruptible scan of all folders of cgroups.

use std::{
    fs::{self, ReadDir},
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::PathBuf,
    time::Duration,
};

use crate::clock;

/// Maximum number of folders in a scan.
const MAX_FOLDERS: usize = 65_536;
/// Maximum depth of folders in a scan.
const MAX_DEPTH: usize = 32;
/// Number of entries between two checks of the clock.
const ENTRIES_PER_CHECK: usize = 64;

/// Folders that one step of a scan found.
#[derive(Debug, Default)]
pub(super) struct FolderScanStep {
    /// Id of each folder, and its path from the root of the mount.
    pub(super) found: Vec<(u64, Vec<u8>)>,
    /// Whether a scan from the root ended in this step and read every folder.
    pub(super) whole: bool,
}

/// Scan of the folders below a root.
#[derive(Debug)]
pub(super) struct FolderScan {
    root: PathBuf,
    /// Folders that are not listed yet.
    waiting: Vec<Folder>,
    /// Folder that is being listed.
    current: Option<(ReadDir, Folder)>,
    seen: usize,
    complete: bool,
}

#[derive(Debug)]
struct Folder {
    folder: PathBuf,
    path: Vec<u8>,
    depth: usize,
}

impl FolderScan {
    pub(super) fn of(root: PathBuf) -> Self {
        Self { root, waiting: Vec::new(), current: None, seen: 0, complete: true }
    }

    /// Continues for the time in `budget`; starts at the root if the last call finished.
    pub(super) fn continue_for(&mut self, budget: Duration) -> FolderScanStep {
        let began = clock::now();
        self.continue_until(MAX_FOLDERS, || clock::now().since(began) >= budget)
    }

    fn continue_until(&mut self, max_folders: usize, mut over: impl FnMut() -> bool) -> FolderScanStep {
        let mut step = FolderScanStep::default();
        let from_root = self.waiting.is_empty() && self.current.is_none();
        if from_root {
            self.begin(&mut step);
        }
        loop {
            if self.current.is_none() {
                let Some(next) = self.waiting.pop() else { break };
                // A cgroup can be removed meanwhile.
                match fs::read_dir(&next.folder) {
                    Ok(entries) => self.current = Some((entries, next)),
                    Err(error) => self.complete &= super::super::proc::is_gone(&error),
                }
            }
            self.list(max_folders, &mut step);
            if over() {
                return step;
            }
        }
        step.whole = from_root && self.complete;
        step
    }

    fn begin(&mut self, step: &mut FolderScanStep) {
        (self.seen, self.complete) = (1, true);
        match fs::metadata(&self.root) {
            Ok(root) => step.found.push((root.ino(), b"/".to_vec())),
            Err(_unmounted) => self.complete = false,
        }
        self.waiting.push(Folder { folder: self.root.clone(), path: Vec::new(), depth: 0 });
    }

    /// Reads some entries of the current folder.
    fn list(&mut self, max_folders: usize, step: &mut FolderScanStep) {
        let Some((entries, current)) = &mut self.current else { return };
        for _ in 0..ENTRIES_PER_CHECK {
            let Some(entry) = entries.next() else {
                self.current = None;
                return;
            };
            let Ok(entry) = entry else { continue };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if self.seen >= max_folders || current.depth >= MAX_DEPTH {
                self.complete = false;
                self.current = None;
                return;
            }
            self.seen += 1;
            let mut path = current.path.clone();
            path.push(b'/');
            path.extend(entry.file_name().as_encoded_bytes());
            step.found.push((entry.ino(), path.clone()));
            self.waiting.push(Folder { folder: entry.path(), path, depth: current.depth + 1 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::testing::Fixture, *};

    fn whole(scan: &mut FolderScan, max_folders: usize) -> (Vec<Vec<u8>>, bool) {
        let FolderScanStep { found, whole } = scan.continue_until(max_folders, || false);
        let mut paths: Vec<_> = found.into_iter().map(|(_id, path)| path).collect();
        paths.sort_unstable();
        (paths, whole)
    }

    fn folder(fixture: &Fixture, path: &str) {
        fs::create_dir_all(fixture.path().join(path)).unwrap();
    }

    #[test]
    fn every_folder_is_found_with_its_inode() {
        let fixture = Fixture::new("scan");
        folder(&fixture, "system.slice/a.service");
        fixture.file("system.slice/cgroup.procs", b"");
        let mut scan = FolderScan::of(fixture.path().to_owned());
        let FolderScanStep { found, .. } = scan.continue_until(MAX_FOLDERS, || false);
        let inode = fs::metadata(fixture.path().join("system.slice/a.service")).unwrap().ino();
        assert!(found.contains(&(inode, b"/system.slice/a.service".to_vec())), "{found:?}");
        let all = [&b"/"[..], b"/system.slice", b"/system.slice/a.service"].map(<[u8]>::to_vec).to_vec();
        assert_eq!(whole(&mut scan, MAX_FOLDERS), (all, true));
    }

    #[test]
    fn an_interrupted_scan_continues_where_it_stopped() {
        let fixture = Fixture::new("scan");
        for name in 0..300 {
            folder(&fixture, &format!("{}/{name}", name % 3));
        }
        let mut scan = FolderScan::of(fixture.path().to_owned());
        let (mut paths, mut calls) = (Vec::new(), 0);
        while calls == 0 || scan.current.is_some() || !scan.waiting.is_empty() {
            let FolderScanStep { found, whole } = scan.continue_until(MAX_FOLDERS, || true);
            assert!(!whole, "only a call that sees everything can say that something is not there");
            paths.extend(found.into_iter().map(|(_id, path)| path));
            calls += 1;
        }
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), 304);
        assert!(calls > 3, "{calls}");
    }

    #[test]
    fn a_scan_ends_at_its_limit_and_reports_that() {
        let fixture = Fixture::new("scan");
        for name in 0..20 {
            folder(&fixture, &format!("many/{name}"));
        }
        let mut scan = FolderScan::of(fixture.path().to_owned());
        let (paths, complete) = whole(&mut scan, 5);
        assert_eq!((paths.len(), complete), (5, false));
        let mut deep = fixture.path().to_owned();
        deep.extend(vec!["d"; MAX_DEPTH + 2]);
        fs::create_dir_all(&deep).unwrap();
        assert!(!whole(&mut scan, MAX_FOLDERS).1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_survived() {
        let mut scan = FolderScan::of(Fixture::new("scan").path().join("none"));
        assert_eq!(whole(&mut scan, MAX_FOLDERS), (vec![], false));
    }
}
