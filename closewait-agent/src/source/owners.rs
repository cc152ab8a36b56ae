//! Owners of sockets, from `/proc/PID/fd`: for kernels without an iterator over open files, or without BTF.

use std::{fs, io, path::Path};

use crate::host::{
    caps,
    deadline::{self, ItemJob, Patience, ReadFailure, ReadResult, Subject},
    mountinfo::mounts,
    proc::{self, is_gone, is_refused},
};
use closewait_engine::{
    model::{Owner, Task},
    text::Comm,
};

/// Maximum number of sockets of one process per piece.
const MAX_SOCKETS_PER_PIECE: usize = 256;

/// Hands the inode of every socket with a descriptor to `each`, with that descriptor. Returns the reason if not all
/// processes could be read. A process that ends meanwhile has no descriptors.
pub fn scan(each: impl FnMut(u64, Owner)) -> Option<String> {
    scan_in(Path::new("/proc"), each)
}

/// Result of reading the descriptors of one process.
enum DescriptorRead {
    /// Some of its sockets.
    Sockets(Vec<(u64, Owner)>),
    /// The reason why its descriptors, or some of them, cannot be read.
    Unseen(io::Error),
    /// They were not read, because an earlier read still waits.
    Waits(ReadFailure),
}

/// Processes whose descriptors were not read.
#[derive(Default)]
struct Unseen {
    /// Number of processes that this process may not read.
    denied: u32,
    /// Number of processes that could not be read for another reason.
    others: u32,
    /// The first of those reasons.
    why: Option<String>,
}

fn scan_in(root: &Path, mut each: impl FnMut(u64, Owner)) -> Option<String> {
    let mut patience = Patience::default();
    let from = root.to_owned();
    let list = move || {
        let mounts = fs::read(from.join("self/mountinfo")).unwrap_or_default();
        Ok::<_, io::Error>((proc::pids(&from)?, hides_processes(&mounts)))
    };
    let (pids, hidden) =
        match deadline::run(Subject::Path(root.to_owned()), "the list of processes", &mut patience, list) {
            Ok(Ok(listed)) => listed,
            Ok(Err(error)) => return Some(format!("listing {} failed: {error}", root.display())),
            Err(why) => return Some(format!("{} was not listed: {why}", root.display())),
        };
    let mut unseen = Unseen::default();
    let from = root.to_owned();
    let work = move |pid: &u32, job: &ItemJob<DescriptorRead>| match job
        .about(Subject::Process(*pid, None))
        .map(|()| owners_of(&proc::folder(&from, *pid), *pid, job))
    {
        Ok(Ok(())) => {}
        Ok(Err(error)) => job.put(DescriptorRead::Unseen(error)),
        Err(why) => job.put(DescriptorRead::Waits(why)),
    };
    deadline::each(pids, &mut patience, work, |_pid, result| match result {
        ReadResult::Value(DescriptorRead::Sockets(held)) => {
            held.into_iter().for_each(|(inode, owner)| each(inode, owner))
        }
        ReadResult::Value(DescriptorRead::Unseen(error)) => unseen.failed(&error),
        ReadResult::Value(DescriptorRead::Waits(why)) | ReadResult::Unanswered(why) => unseen.unanswered(&why),
    });
    unseen.sentence(hidden)
}

impl Unseen {
    fn failed(&mut self, error: &io::Error) {
        if is_refused(error) {
            self.denied += 1;
        } else if !is_gone(error) {
            self.others += 1;
            self.why.get_or_insert_with(|| error.to_string());
        }
    }

    fn unanswered(&mut self, why: &ReadFailure) {
        self.others += 1;
        self.why.get_or_insert_with(|| why.to_string());
    }

    fn sentence(&self, hidden: bool) -> Option<String> {
        let mut sentences = Vec::new();
        if let Some(why) = &self.why {
            sentences.push(format!("the descriptors of {} were not read: {why}", processes(self.others)));
        }
        if self.denied > 0 {
            let (denied, fix) = (processes(self.denied), caps::fix_for_unreadable());
            sentences.push(format!("the descriptors of {denied} cannot be read{fix}"));
        } else if hidden {
            sentences.push(
                "/proc is mounted with hidepid, so other users' processes may not be seen; \
                 run as root or grant CAP_SYS_PTRACE"
                    .to_owned(),
            );
        }
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

/// `1 process`, `2 processes`.
fn processes(count: u32) -> String {
    if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }
}

/// Sends the sockets of one process, including those that were read before an error.
fn owners_of(process: &Path, pid: u32, job: &ItemJob<DescriptorRead>) -> io::Result<()> {
    job.step("its descriptors");
    let mut held = Vec::new();
    let result = collect(process, pid, job, &mut held);
    if !held.is_empty() {
        job.put(DescriptorRead::Sockets(held));
    }
    result
}

fn collect(process: &Path, pid: u32, job: &ItemJob<DescriptorRead>, held: &mut Vec<(u64, Owner)>) -> io::Result<()> {
    let mut task = None;
    for table in proc::descriptor_tables(process)? {
        match collect_table(process, &table, (pid, &mut task), job, held) {
            // The thread has ended. A process that has ended has no descriptors to miss.
            Err(error) if is_gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Collects the sockets of one descriptor table of a process.
fn collect_table(
    process: &Path,
    table: &Path,
    (pid, task): (u32, &mut Option<Task>),
    job: &ItemJob<DescriptorRead>,
    held: &mut Vec<(u64, Owner)>,
) -> io::Result<()> {
    for entry in fs::read_dir(table.join("fd"))? {
        let entry = entry?;
        job.progress();
        // Listing links and following them are two permissions (`proc_fd_permission` and `proc_fd_access_allowed`,
        // v5.10).
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target,
            // The descriptor was closed.
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(inode) = socket_inode(&target) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if task.is_none() {
            *task = Some(Task { pid, comm: Comm::from_name(&proc::comm(process)?) });
        }
        if let Some(task) = &*task {
            held.push((inode, Owner { task: task.clone(), fd }));
        }
        if held.len() >= MAX_SOCKETS_PER_PIECE {
            job.put(DescriptorRead::Sockets(std::mem::take(held)));
        }
    }
    Ok(())
}

/// Returns the number in `socket:[N]`.
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether `/proc` is mounted so that it hides the processes of other users (proc(5)). With CAP_SYS_PTRACE all are
/// visible nevertheless (`has_pid_permissions`, fs/proc/base.c at v5.10).
fn hides_processes(mountinfo: &[u8]) -> bool {
    let hidden: [&[u8]; 6] =
        [b"hidepid=1", b"hidepid=2", b"hidepid=4", b"hidepid=noaccess", b"hidepid=invisible", b"hidepid=ptraceable"];
    let traces = caps::Capabilities::read();
    let sees_all = traces.is_some_and(|granted| granted.has(caps::Capability::SysPtrace));
    let mut own = mounts(mountinfo).filter(|mount| mount.point == b"/proc");
    !sees_all && own.any(|mount| mount.options().any(|option| hidden.contains(&option)))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _, process};

    use tests_support::first_thread::FirstThreadEnded;

    use super::*;

    /// Returns the descriptors of a socket in a process, by a scan.
    fn descriptors_in(pid: u32, socket: &TcpListener) -> Vec<i32> {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(&link).unwrap();
        let mut found = Vec::new();
        let _blind = scan(|of, owner| {
            if of == inode && owner.task.pid == pid {
                found.push(i32::try_from(owner.fd).unwrap());
            }
        });
        found
    }

    #[test]
    fn an_own_socket_is_found_with_its_descriptor() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(descriptors_in(process::id(), &socket), [socket.as_raw_fd()]);
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_owns_its_sockets() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = FirstThreadEnded::start();
        assert_eq!(descriptors_in(other.pid(), &socket), [socket.as_raw_fd()]);
    }

    #[test]
    fn other_links_are_no_sockets() {
        for target in ["socket:[]", "socket:[x]", "pipe:[1]", "/tmp/socket:[1]", "socket:[99999999999999999999999]"] {
            assert_eq!(socket_inode(Path::new(target)), None, "{target}");
        }
    }

    #[test]
    fn only_a_process_that_has_ended_has_no_descriptors() {
        let sentence = |error: i32| {
            let mut unseen = Unseen::default();
            unseen.failed(&io::Error::from_raw_os_error(error));
            unseen.sentence(false)
        };
        assert_eq!((sentence(libc::ENOENT), sentence(libc::ESRCH)), (None, None));
        let cause = io::Error::from_raw_os_error(libc::EMFILE);
        let unread = format!("of 1 process were not read: {cause}");
        assert!(sentence(libc::EMFILE).is_some_and(|why| why.contains(&unread)));
        let denied = sentence(libc::EACCES).unwrap();
        assert!(denied.contains("of 1 process cannot be read") && denied.contains("CAP_SYS_PTRACE"), "{denied}");
        let mut unseen = Unseen::default();
        unseen.unanswered(&ReadFailure::Late { step: "its descriptors" });
        assert!(unseen.sentence(true).is_some_and(|why| why.contains("250ms") && why.contains("hidepid")));
    }

    #[test]
    fn a_missing_proc_is_reported() {
        let blind = scan_in(Path::new("/dev/null/proc"), |_inode, _holder| panic!("no process to scan"));
        assert!(blind.is_some_and(|why| why.contains("/dev/null/proc")));
    }
}
