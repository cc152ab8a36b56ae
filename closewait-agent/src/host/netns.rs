//! Network namespaces of this host.
//!
//! The search finds the namespaces of processes and those bound to a file (`ip netns add`). It misses a namespace
//! that only an open file or socket keeps alive, or only a thread other than the first of its process.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            ffi::OsStringExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::Mutex,
};

use closewait_engine::text::harmless_path;
use closewait_stacks::live::read_living;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    deadline::{self, ItemJob, Patience, ReadResult, Subject},
    lock,
    mountinfo::{Mount, mounts, unescape},
    on_fresh_thread, proc,
};

/// Maximum number of mounts to check on the way to a bind mount.
const MAX_NESTED: usize = 64;

/// Reason why a network namespace was not entered, or why some were not found.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// `setns` needs a capability that this process lacks.
    #[error(
        "setns into network namespace {inode} was refused: {error}; grant CAP_SYS_ADMIN, to a running agent with --enter-namespaces, or its sockets are missing"
    )]
    EnterDenied {
        /// The namespace.
        inode: u32,
        /// Error of the system.
        error: io::Error,
    },
    /// `setns` failed for another reason.
    #[error("setns into network namespace {inode} failed: {error}; try again, it may be going away")]
    Enter {
        /// The namespace.
        inode: u32,
        /// Error of the system.
        error: io::Error,
    },
    /// Links of other users' processes cannot be read.
    #[error("readlink of {} was refused: {error}; grant CAP_SYS_PTRACE, or if it is granted check the security modules: namespaces may be missing", harmless_path(path.as_os_str().as_encoded_bytes()))]
    LinkDenied {
        /// The first link that was refused.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// The processes and mounts of this host could not be listed.
    #[error("listing /proc failed: {error}; network namespaces may be missing")]
    List {
        /// Error of the system.
        error: io::Error,
    },
    /// A namespace could not be opened, for example because of too many open files.
    #[error("opening the network namespace at {} failed: {error}; raise the limit on open files if that is reached: namespaces may be missing", harmless_path(path.as_os_str().as_encoded_bytes()))]
    Open {
        /// Path of the namespace.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// A file system did not answer.
    #[error("looking for a network namespace at {}: {why}; namespaces may be missing until it answers", harmless_path(path.as_os_str().as_encoded_bytes()))]
    Unanswered {
        /// Path that may lead to a namespace.
        path: PathBuf,
        /// Description of the wait.
        why: String,
    },
    /// No thread could start to enter it.
    #[error(
        "starting a thread for network namespace {inode} failed: {error}; check the limits on processes and memory"
    )]
    Thread {
        /// The namespace.
        inode: u32,
        /// Error of the system.
        error: io::Error,
    },
}

/// Network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    /// Number in `net:[N]`, as in records of the kernel program.
    pub inode: u32,
    file: File,
}

/// Network namespaces that [`find`] found.
#[derive(Debug)]
pub struct NamespaceScan {
    /// The namespaces, that of this process first.
    pub namespaces: Vec<Netns>,
    /// The first reason why there may be more namespaces.
    pub denied: Option<NetnsError>,
}

/// Path that may lead to a namespace.
enum Origin {
    /// Folder of a process, which has a link to its namespace; pid 0 stands for this process.
    Link(u32, PathBuf),
    /// File that a namespace is bound to, by `mountinfo`.
    Bound(Bound),
}

/// Namespace that is bound to a file.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    inode: u32,
    path: PathBuf,
    /// Type of a file system on the way to it that may not answer.
    behind: Option<String>,
}

/// Result of reading the origin of a namespace.
enum OriginRead {
    /// A namespace.
    Is(Netns),
    /// The origin could not be read.
    Unseen(NetnsError),
}

/// Returns all network namespaces that can be found, that of this process first.
pub fn all() -> Vec<Netns> {
    find().namespaces
}

/// Finds namespaces as [`all`] does, and also returns the obstacles. Takes a second at most: paths of bind mounts can
/// lead through a file system that does not answer, and a namespace behind one is not found.
pub fn find() -> NamespaceScan {
    let mut patience = Patience::default();
    let mut found = NamespaceScan { namespaces: Vec::new(), denied: None };
    let mut origins = vec![Origin::Link(0, "/proc/self".into())];
    let listed =
        deadline::run(Subject::Path("/proc".into()), "the list of processes and mounts", &mut patience, origins_of_all);
    match listed {
        Ok(Ok(all)) => origins.extend(all),
        Ok(Err(error)) => found.add_obstacle(NetnsError::List { error }),
        Err(why) => found.add_obstacle(NetnsError::Unanswered { path: "/proc".into(), why: why.to_string() }),
    }
    let seen = Mutex::new(BTreeSet::new());
    let work = move |origin: &Origin, job: &ItemJob<OriginRead>| {
        let read = match origin {
            Origin::Link(pid, folder) => {
                let free = job.about(Subject::Process(*pid, None));
                job.step("the link to its network namespace");
                match free {
                    Ok(()) => link(&seen, folder),
                    Err(why) => Err(NetnsError::Unanswered { path: folder.join("ns/net"), why: why.to_string() }),
                }
            }
            Origin::Bound(bound) => {
                let free = job.about(Subject::Path(bound.path.clone()));
                job.step("its path");
                let unanswered = |why| Err(NetnsError::Unanswered { path: bound.path.clone(), why });
                match (&bound.behind, free.and_then(|()| job.may_wait())) {
                    // A wait for such a file system may outlast the process: see `super::deadline`.
                    (Some(kind), _) => unanswered(format!("it lies behind a file system that may not answer ({kind})")),
                    (None, Err(why)) => unanswered(why.to_string()),
                    (None, Ok(())) => open(&seen, bound.inode, &bound.path),
                }
            }
        };
        match read {
            Ok(Some(namespace)) => job.put(OriginRead::Is(namespace)),
            Ok(None) => job.progress(),
            Err(error) => job.put(OriginRead::Unseen(error)),
        }
    };
    deadline::each(origins, &mut patience, work, |origin, result| match result {
        ReadResult::Value(OriginRead::Is(namespace)) => found.namespaces.push(namespace),
        ReadResult::Value(OriginRead::Unseen(error)) => found.add_obstacle(error),
        ReadResult::Unanswered(why) => {
            let path = match origin {
                Origin::Link(_, folder) => folder.join("ns/net"),
                Origin::Bound(Bound { path, .. }) => path.clone(),
            };
            found.add_obstacle(NetnsError::Unanswered { path, why: why.to_string() });
        }
    });
    found
}

/// Returns the links of all processes, then the files that namespaces are bound to.
fn origins_of_all() -> io::Result<Vec<Origin>> {
    let root = Path::new("/proc");
    let links = proc::pids(root)?.into_iter().map(|pid| Origin::Link(pid, proc::folder(root, pid)));
    // Read as bytes: a mount point may have any name.
    Ok(links.chain(bound_namespaces(&fs::read("/proc/self/mountinfo")?).into_iter().map(Origin::Bound)).collect())
}

impl Netns {
    /// Runs `f` in this namespace, on a new thread that ends with it.
    ///
    /// Needs no privilege if the calling thread is in this namespace already.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered; `f` has not run then.
    pub fn enter_and<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inode = self.inode;
        let entered = on_fresh_thread("netns", || {
            // A new thread starts in the namespaces of its creator.
            if linked_inode(Path::new("/proc/thread-self/ns/net")).ok().flatten() != Some(inode) {
                self.enter()?;
            }
            Ok(f())
        });
        entered.map_err(|error| NetnsError::Thread { inode, error })?
    }

    /// Moves the calling thread into this namespace.
    fn enter(&self) -> Result<(), NetnsError> {
        let inode = self.inode;
        let Err(error) = move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)) else {
            return Ok(());
        };
        let error = io::Error::from(error);
        Err(if error.raw_os_error() == Some(libc::EPERM) {
            NetnsError::EnterDenied { inode, error }
        } else {
            NetnsError::Enter { inode, error }
        })
    }
}

impl NamespaceScan {
    fn add_obstacle(&mut self, error: NetnsError) {
        self.denied.get_or_insert(error);
    }
}

/// Returns the namespace of the process with this folder, unless it is in `seen` already. A process that has ended meanwhile has none.
fn link(seen: &Mutex<BTreeSet<u32>>, folder: &Path) -> Result<Option<Netns>, NetnsError> {
    let link = |folder: &Path| {
        let path = folder.join("ns/net");
        linked_inode(&path).map(|inode| (inode, path))
    };
    match read_living(folder, |_| true, link) {
        Ok((Some(inode), path)) => open(seen, inode, &path),
        Ok((None, _)) => Ok(None),
        Err(error) if proc::is_gone(&error) => Ok(None),
        Err(error) if proc::is_refused(&error) => Err(NetnsError::LinkDenied { path: folder.join("ns/net"), error }),
        Err(error) => Err(NetnsError::Open { path: folder.join("ns/net"), error }),
    }
}

/// Opens the namespace behind a file, if its inode is the expected one and not in `seen` yet.
fn open(seen: &Mutex<BTreeSet<u32>>, inode: u32, path: &Path) -> Result<Option<Netns>, NetnsError> {
    let seen = || lock(seen);
    if seen().contains(&inode) {
        return Ok(None);
    }
    let failed = |error: io::Error| match error.raw_os_error() {
        // A mount point that this process cannot reach, or no longer; or a process that has ended.
        Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR | libc::EACCES | libc::EPERM | libc::ELOOP) => Ok(None),
        _ => Err(NetnsError::Open { path: path.to_owned(), error }),
    };
    // Something else can be mounted over a path of `mountinfo`: this open does not access it.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    // A process can change its namespace between the two reads of its link; another origin leads to the old one.
    if !file.metadata().is_ok_and(|meta| meta.ino() == u64::from(inode)) {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(again) {
        Ok(file) => {
            seen().insert(inode);
            Ok(Some(Netns { inode, file }))
        }
        Err(error) => failed(error),
    }
}

/// Returns the inode of the network namespace of the process with this folder below `/proc`.
///
/// # Errors
///
/// If the link cannot be read, as for a process that this one may not trace.
pub fn of_process(folder: &Path) -> io::Result<u32> {
    let inode = read_living(folder, |_| true, |folder| linked_inode(&folder.join("ns/net")))?;
    inode.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the number in the target `net:[N]` of a link.
fn linked_inode(path: &Path) -> io::Result<Option<u32>> {
    Ok(parse_link(fs::read_link(path)?.as_os_str().as_encoded_bytes()))
}

fn parse_link(target: &[u8]) -> Option<u32> {
    let number = target.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

/// Returns the network namespaces that are bound to files.
fn bound_namespaces(mountinfo: &[u8]) -> Vec<Bound> {
    let bound: Vec<_> = mounts(mountinfo).filter_map(|mount| Some((parse_link(mount.root)?, mount))).collect();
    if bound.is_empty() {
        return Vec::new();
    }
    let by_id: BTreeMap<_, _> = mounts(mountinfo).map(|mount| (mount.id, mount)).collect();
    let behind = proc::Mounts::parse(mountinfo);
    let on_the_way = |mount: Mount<'_>| {
        let mut parent = mount.parent;
        for _ in 0..MAX_NESTED {
            let Some(above) = by_id.get(parent) else { break };
            if let Some(kind) = behind.served(above.id) {
                return Some(kind);
            }
            parent = above.parent;
        }
        None
    };
    let namespace = |(inode, mount): (u32, Mount<'_>)| {
        let path = PathBuf::from(OsString::from_vec(unescape(mount.point)));
        Bound { inode, path, behind: on_the_way(mount) }
    };
    bound.into_iter().map(namespace).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_own_namespace_comes_first_and_only_once() {
        let own = linked_inode(Path::new("/proc/self/ns/net")).unwrap().unwrap();
        let all = all();
        assert_eq!(all[0].inode, own);
        assert_eq!(all.iter().filter(|netns| netns.inode == own).count(), 1);
    }

    #[test]
    fn entering_the_own_namespace_needs_no_privilege() {
        assert_eq!(all()[0].enter_and(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_file_that_is_no_namespace_cannot_be_entered() {
        let netns = Netns { inode: 1, file: File::open("/proc/self/status").unwrap() };
        let error = netns.enter_and(|| ()).unwrap_err();
        assert!(error.to_string().contains("namespace 1"), "{error}");
    }

    #[test]
    fn reads_bind_mounts_of_namespaces() {
        let text = br"97 23 0:4 net:[4026532208] /run/netns/two\040words\134 rw shared:5 - nsfs nsfs rw
98 23 0:4 mnt:[4026532208] /x rw - nsfs nsfs rw
99 23 0:4 / / rw - ext4 a rw";
        let path = PathBuf::from(r"/run/netns/two words\");
        assert_eq!(bound_namespaces(text), [Bound { inode: 4026532208, path, behind: None }]);
        assert_eq!(bound_namespaces(b""), []);
    }

    #[test]
    fn one_behind_a_file_system_with_a_server_is_marked() {
        let text = b"1 1 8:1 / / rw - ext4 a rw\n2 1 0:9 / /mnt rw shared:1 - fuse.sshfs h: rw\n\
                     3 2 0:8 / /mnt/t rw - tmpfs t rw\n4 3 0:4 net:[7] /mnt/t/a rw - nsfs nsfs rw\n\
                     5 1 0:4 net:[8] /run/b rw - nsfs nsfs rw\n6 99 0:4 net:[9] /c rw - nsfs nsfs rw";
        let found: Vec<_> = bound_namespaces(text).into_iter().map(|bound| (bound.inode, bound.behind)).collect();
        assert_eq!(found, [(7, Some("fuse.sshfs".to_owned())), (8, None), (9, None)]);
    }

    #[test]
    fn other_links_are_no_network_namespaces() {
        for link in [&b"pid:[1]"[..], b"net:[]", b"net:[x]", b"net:[99999999999]", b"net:[1"] {
            assert_eq!(parse_link(link), None);
        }
    }

    proptest! {
        #[test]
        fn any_line_of_mountinfo_is_survived(line in prop::collection::vec(any::<u8>(), 0..80)) {
            drop(bound_namespaces(&line));
            drop(bound_namespaces(&[b"1 1 0:4 net:[7] ", line.as_slice()].concat()));
            prop_assert!(unescape(&line).len() <= line.len());
        }
    }
}
