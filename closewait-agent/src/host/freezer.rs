//! Frozen state of a process's cgroup, and the file that thaws it.
//!
//! A frozen process cannot run, although its threads seem to wait in their last system calls. With cgroup v2,
//! `cgroup.events` has the effective state, whether the cgroup or one above it was frozen (`cgroup_freeze`,
//! kernel/cgroup/freezer.c at v5.10); with v1, `freezer.state` has it (`freezer_read`, kernel/cgroup/legacy_freezer.c
//! at v5.10).
//!
//! These reads can wait for locks of the kernel, so they run inside [`super::deadline`].

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    mountinfo::{mounts, unescape},
    proc::{self, CgroupPaths},
};

/// The kernel's list of the mounts of this process.
const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Maximum size of a list of mounts, bytes.
const MAX_MOUNTINFO: u64 = 4 << 20;
/// Maximum size of a cgroup's file, bytes.
const MAX_FILE: u64 = 4096;
/// Maximum number of parent cgroups in the search for the frozen one.
const MAX_DEPTH: usize = 32;

/// Freezer state of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezerState {
    /// Whether the process is frozen.
    pub frozen: bool,
    /// File that froze the process: `cgroup.freeze`, or `freezer.state` of cgroup v1.
    pub file: Option<PathBuf>,
}

/// Mount points of cgroup hierarchies with a freezer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    unified: Option<PathBuf>,
    freezer: Option<PathBuf>,
}

/// Reads whether a process is frozen; `None` if no hierarchy with a freezer is mounted, or the cgroup cannot be read.
pub fn state(paths: &CgroupPaths) -> Option<FreezerState> {
    /// Mounts at the first successful search: they stay while the host runs.
    static HIERARCHIES: OnceLock<Hierarchies> = OnceLock::new();
    let hierarchies = match HIERARCHIES.get() {
        Some(hierarchies) => hierarchies,
        None => {
            let found = Hierarchies::parse(&proc::read(Path::new(MOUNTINFO), MAX_MOUNTINFO).ok()?);
            if found == Hierarchies::default() {
                return None;
            }
            HIERARCHIES.get_or_init(|| found)
        }
    };
    hierarchies.state(paths)
}

impl Hierarchies {
    /// Parses the text of `mountinfo`. Uses only mounts of whole hierarchies, where the paths of `/proc/PID/cgroup`
    /// begin.
    fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for mount in mounts(text).filter(|mount| mount.root == b"/") {
            let of = match mount.kind {
                b"cgroup2" => &mut found.unified,
                b"cgroup" if mount.options().any(|option| option == b"freezer") => &mut found.freezer,
                _ => continue,
            };
            of.get_or_insert_with(|| PathBuf::from(OsStr::from_bytes(&unescape(mount.point))));
        }
        found
    }

    fn state(&self, paths: &CgroupPaths) -> Option<FreezerState> {
        let folder = |mount: &Option<PathBuf>, path: &Option<Vec<u8>>| below(mount.as_deref()?, path.as_deref()?);
        let unified = folder(&self.unified, &paths.unified).map(|(root, folder)| unified(&root, &folder));
        let freezer = folder(&self.freezer, &paths.freezer).map(|(root, folder)| legacy(&root, &folder));
        let states = [unified.flatten(), freezer.flatten()];
        let frozen = states.iter().flatten().find(|state| state.frozen).cloned();
        frozen.or_else(|| states.into_iter().flatten().next())
    }
}

/// Returns the root and the folder of a cgroup. `None` for a path outside of the visible part of the hierarchy, as in
/// a cgroup namespace (`cgroup_path_ns_locked`, kernel/cgroup/cgroup.c at v5.10).
fn below(mount: &Path, path: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let path = Path::new(OsStr::from_bytes(path.strip_prefix(b"/")?));
    let plain = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
    plain.then(|| (mount.to_owned(), mount.join(path)))
}

/// Reads the state from `cgroup.events`. The root has no such file, and cannot be frozen.
fn unified(root: &Path, folder: &Path) -> Option<FreezerState> {
    let frozen = match text(&folder.join("cgroup.events")) {
        Ok(events) => events.lines().find_map(|line| line.strip_prefix("frozen "))?.trim() == "1",
        Err(error) if folder == root && error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => return None,
    };
    let file = frozen.then(|| find_up(root, folder, "cgroup.freeze")).flatten();
    Some(FreezerState { frozen, file })
}

/// Reads the state from `freezer.state`. The root has no such file.
fn legacy(root: &Path, folder: &Path) -> Option<FreezerState> {
    let frozen = match text(&folder.join("freezer.state")) {
        Ok(state) => state.trim() == "FROZEN",
        Err(error) if folder == root && error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => return None,
    };
    let by = frozen.then(|| find_up(root, folder, "freezer.self_freezing")).flatten();
    Some(FreezerState { frozen, file: by.map(|by| by.with_file_name("freezer.state")) })
}

/// Returns the first file with this name that contains 1, from the folder upwards.
fn find_up(root: &Path, folder: &Path, name: &str) -> Option<PathBuf> {
    let above = folder.ancestors().take_while(|above| above.starts_with(root)).take(MAX_DEPTH);
    above.map(|above| above.join(name)).find(|file| text(file).is_ok_and(|text| text.trim() == "1"))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Fixture, *};

    fn paths(unified: &str, freezer: &str) -> CgroupPaths {
        let path = |path: &str| Some(path.as_bytes().to_vec());
        CgroupPaths { unified: path(unified), freezer: path(freezer), ..CgroupPaths::default() }
    }

    #[test]
    fn only_whole_hierarchies_with_a_freezer_are_used() {
        let text = b"1 2 0:3 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                     2 2 0:4 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     3 2 0:5 /pod /part rw - cgroup2 c rw\n4 2 0:5 / /a\\040b rw - cgroup2 c rw\n";
        let found = Hierarchies::parse(text);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/a b")));
        assert_eq!(found.freezer.as_deref(), Some(Path::new("/sys/fs/cgroup/freezer")));
        assert_eq!(Hierarchies::parse(b"3 2 0:5 / /x rw - tmpfs freezer rw\n"), Hierarchies::default());
    }

    #[test]
    fn a_cgroup_below_a_frozen_one_is_frozen_by_that() {
        let fixture = Fixture::new("freezer");
        fixture.file("v2/a/cgroup.freeze", b"1\n");
        fixture.file("v2/a/b/cgroup.freeze", b"0\n");
        fixture.file("v2/a/b/cgroup.events", b"populated 1\nfrozen 1\n");
        fixture.file("v2/c/cgroup.events", b"populated 1\nfrozen 0\n");
        fixture.file("v2/old/cgroup.events", b"populated 1\n");
        let hierarchies = Hierarchies { unified: Some(fixture.path().join("v2")), freezer: None };
        let state = |path| hierarchies.state(&paths(path, "/"));
        let file = Some(fixture.path().join("v2/a/cgroup.freeze"));
        assert_eq!(state("/a/b"), Some(FreezerState { frozen: true, file }));
        assert_eq!(state("/c"), Some(FreezerState { frozen: false, file: None }));
        assert_eq!(state("/"), Some(FreezerState { frozen: false, file: None }), "the root has no such file");
        assert_eq!([state("/old"), state("/none"), state("/../c"), state("/a/../c")], [None, None, None, None]);
    }

    #[test]
    fn the_freezer_of_v1_is_read_beside_that_of_v2() {
        let fixture = Fixture::new("freezer");
        fixture.file("v1/a/freezer.state", b"FROZEN\n");
        fixture.file("v1/a/freezer.self_freezing", b"1\n");
        fixture.file("v1/b/freezer.state", b"THAWED\n");
        fixture.file("v2/cgroup.events", b"populated 1\nfrozen 0\n");
        let (unified, freezer) = (Some(fixture.path().join("v2")), Some(fixture.path().join("v1")));
        let hierarchies = Hierarchies { unified, freezer };
        let file = Some(fixture.path().join("v1/a/freezer.state"));
        assert_eq!(hierarchies.state(&paths("/", "/a")), Some(FreezerState { frozen: true, file }));
        assert_eq!(hierarchies.state(&paths("/", "/b")), Some(FreezerState { frozen: false, file: None }));
        assert_eq!(hierarchies.state(&CgroupPaths::default()), None);
    }
}
