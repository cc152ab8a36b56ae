//! Reads of processes and their threads in `/proc`. Every read is bounded, and none traces or stops a process.
//!
//! Some of these reads can block forever: [`super::deadline`] lists them, and runs them.
//!
//! A folder argument is `ROOT/PID` ([`folder`]) or `ROOT/PID/task/TID` ([`threads`]). The process itself may have
//! chosen any of the bytes read.
//!
//! The first thread of a process can have ended while others live. Then `ROOT/PID` lacks most of what the process has,
//! and the functions here read it from a thread that lives ([`living_thread`]).

mod devices;
mod elf;
pub mod fdinfo;
mod mounts;
mod parse;
mod program;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

pub use closewait_stacks::live::living_thread;
use closewait_stacks::live::read_living;
use rustix::process::Pid;

use self::parse::lines;
pub use self::{
    devices::{DeviceKind, device_kinds},
    mounts::Mounts,
    parse::{Call, CgroupPaths, SchedStat, Stat, Status},
    program::{LinkedFile, Linker, folder_in_root, linked_file, linker, read_in_root},
};

/// Maximum size of a small file, bytes: `status` and `limits` have some 1.5 KiB, `status` more with many groups, and the class
/// path in the command line of a JVM can have tens of KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Maximum bytes to read of `maps`.
const MAX_MAPS_BYTES: u64 = 512 << 10;
/// Maximum number of descriptors to count one by one.
const MAX_DESCRIPTORS: usize = 1 << 16;

/// Returns the folder of a process.
pub fn folder(root: &Path, pid: u32) -> PathBuf {
    root.join(pid.to_string())
}

/// Returns a pid as system calls take it; `None` for a number that no process can have.
pub fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether an error of a read below `/proc/PID` means that the process or thread has ended. Others do not: there may
/// be too many open files, or no memory.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether an error means that this process lacks a permission.
pub fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Returns the pids of all processes.
///
/// # Errors
///
/// If the folder cannot be listed.
pub fn pids(root: &Path) -> io::Result<Vec<u32>> {
    numbers(root, usize::MAX)
}

/// Returns the folders of at most `most` threads of a process, the first thread first (`proc_task_readdir`,
/// fs/proc/base.c at v5.10).
///
/// # Errors
///
/// If the process has ended, or there are too many open files.
pub fn threads(process: &Path, most: usize) -> io::Result<Vec<(u32, PathBuf)>> {
    let folder = process.join("task");
    Ok(numbers(&folder, most)?.into_iter().map(|tid| (tid, folder.join(tid.to_string()))).collect())
}

/// Returns the children of the first thread of a process (`get_children_pid`, fs/proc/array.c at v5.10).
///
/// # Errors
///
/// If the process has ended, or the kernel is built without `CONFIG_PROC_CHILDREN`.
pub fn children(process: &Path, pid: u32) -> io::Result<Vec<u32>> {
    let text = read(&process.join("task").join(pid.to_string()).join("children"), MAX_FILE_BYTES)?;
    Ok(String::from_utf8_lossy(&text).split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Returns one folder for each descriptor table of a process: that of the first thread, of threads that do not share
/// it (`unshare(CLONE_FILES)`), and of those that have outlived the first.
///
/// If kcmp(2) is not allowed, it assumes that all threads share the table of the first one, or of the next one if the
/// first has ended.
///
/// # Errors
///
/// If the process has ended, or may not be read.
pub fn descriptor_tables(process: &Path) -> io::Result<Vec<PathBuf>> {
    /// Maximum number of tables to compare with a thread's: if each thread has its own, the number of calls must not
    /// be quadratic.
    const COMPARED: usize = 8;
    let mut tables = vec![process.to_owned()];
    let threads = threads(process, usize::MAX)?;
    let leader = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    // Most processes have one thread, and nothing to compare.
    if threads.iter().all(|(tid, _)| Some(*tid) == leader) {
        return Ok(tables);
    }
    let mut has_none = fs::read_dir(process.join("fd"))?.next().is_none();
    let mut known: Vec<u32> = leader.into_iter().collect();
    for (tid, folder) in threads {
        if Some(tid) == leader {
            continue;
        }
        let mut shared = known.iter().rev().take(COMPARED).map(|other| shares_descriptors(tid, *other));
        let is_other = match shared.try_fold(false, |any, one| one.map(|one| any || one)) {
            Some(is_shared) => !is_shared,
            None => has_none,
        };
        if is_other {
            known.push(tid);
            tables.push(folder);
            has_none = false;
        }
    }
    Ok(tables)
}

/// Whether two threads have one descriptor table; `None` if unknown: the kernel may lack kcmp(2), a filter may refuse
/// it, or one thread has ended.
fn shares_descriptors(one: u32, other: u32) -> Option<bool> {
    /// `KCMP_FILES` (include/uapi/linux/kcmp.h, v6.18).
    const KCMP_FILES: libc::c_long = 2;
    let (one, other) = (libc::c_long::from(one), libc::c_long::from(other));
    let unused: libc::c_long = 0;
    // SAFETY: kcmp takes numbers only, and changes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, unused, unused) };
    // 0: the same; 1 to 3: different (kcmp(2)).
    (order >= 0).then_some(order == 0)
}

/// Returns the state, parent, start and CPU time of a process or thread. A process has the CPU time of all of its
/// threads.
///
/// # Errors
///
/// If it has ended, or the text is malformed.
pub fn stat(task: &Path) -> io::Result<Stat> {
    Stat::parse(&read(&task.join("stat"), MAX_FILE_BYTES)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the name of a process: any bytes. Never blocks (`comm_show`, fs/proc/base.c at v5.10).
///
/// # Errors
///
/// If it has ended.
pub fn comm(process: &Path) -> io::Result<Vec<u8>> {
    let mut name = read(&process.join("comm"), MAX_FILE_BYTES)?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// Returns the number of threads and other facts of a process or thread.
///
/// # Errors
///
/// If it has ended.
pub fn status(process: &Path) -> io::Result<Status> {
    Ok(Status::parse(&read(&process.join("status"), MAX_FILE_BYTES)?))
}

/// Returns the soft limit on open files; `None` if there is none.
///
/// # Errors
///
/// If it has ended, or may not be read.
pub fn open_files_limit(process: &Path) -> io::Result<Option<u64>> {
    Ok(parse::open_files_limit(&read(&process.join("limits"), MAX_FILE_BYTES)?))
}

/// Returns the CPU time of a thread, and the time that it waited for a CPU; `None` where the kernel does not measure
/// them (`proc_pid_schedstat`, fs/proc/base.c at v5.10): then `stat` has the CPU time in ticks.
pub fn schedstat(thread: &Path) -> Option<SchedStat> {
    SchedStat::parse(&read(&thread.join("schedstat"), MAX_FILE_BYTES).ok()?)
}

/// Returns the system call of a thread; `None` if it is in none, or runs (`proc_pid_syscall`, fs/proc/base.c at
/// v5.10).
///
/// # Errors
///
/// If it has ended, or may not be read.
pub fn syscall(thread: &Path) -> io::Result<Option<Call>> {
    Ok(Call::parse(&read(&thread.join("syscall"), MAX_FILE_BYTES)?))
}

/// Returns the kernel function in which a thread waits; `None` if it does not wait, or may not be read
/// (`proc_pid_wchan`, fs/proc/base.c at v5.10).
pub fn wchan(thread: &Path) -> Option<Vec<u8>> {
    let name = read(&thread.join("wchan"), MAX_FILE_BYTES).ok()?;
    (!name.is_empty() && name != b"0").then_some(name)
}

/// Returns the path of the file that a process runs, with the suffix ` (deleted)` if it was removed.
///
/// # Errors
///
/// If it has ended, is a thread of the kernel, or may not be read.
pub fn exe(process: &Path) -> io::Result<Vec<u8>> {
    let link = read_living(process, |_| true, |folder| fs::read_link(folder.join("exe")))?;
    Ok(link.into_os_string().as_bytes().to_owned())
}

/// Returns the number of open descriptors of a process; `None` if there are too many to count, or no thread that has them can be
/// read. Since Linux 6.2 the size of the folder is that number (`proc_fd_getattr`, fs/proc/fd.c at v6.2); before, it is 0.
///
/// # Errors
///
/// If it has ended, or may not be read.
pub fn descriptors(process: &Path) -> io::Result<Option<u64>> {
    let count = read_living(process, |count| *count != Some(0), |folder| descriptors_in(&folder.join("fd")))?;
    // The other threads of a process whose first one has ended may be about to end, too: that is no count of its descriptors.
    let is_known = count != Some(0) || threads(process, 2)?.len() < 2;
    Ok(count.filter(|_| is_known))
}

fn descriptors_in(folder: &Path) -> io::Result<Option<u64>> {
    let size = fs::metadata(folder)?.size();
    if size > 0 {
        return Ok(Some(size));
    }
    let count = fs::read_dir(folder)?.take(MAX_DESCRIPTORS + 1).count();
    Ok((count <= MAX_DESCRIPTORS).then_some(u64::try_from(count).unwrap_or(u64::MAX)))
}

/// Returns the first of `names` with which the name of a mapped file begins. May wait for the lock of the process's
/// memory.
///
/// # Errors
///
/// If it has ended, or may not be read.
pub fn mapped(process: &Path, names: &[&'static str]) -> io::Result<Option<&'static str>> {
    Ok(parse::mapped(&read_any(process, "maps", MAX_MAPS_BYTES)?, names))
}

/// Returns the command line of a process: words, each with a zero behind it (`proc_pid_cmdline_read`, fs/proc/base.c at
/// v5.10). A word that is not read completely is omitted. May wait for the lock of the process's memory.
///
/// # Errors
///
/// If it has ended.
pub fn command_line(process: &Path) -> io::Result<Vec<u8>> {
    let mut line = read_any(process, "cmdline", MAX_FILE_BYTES)?;
    if line.len() as u64 == MAX_FILE_BYTES {
        let end = line.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        line.truncate(end);
    }
    Ok(line)
}

/// Returns the environment that a process was started with, as [`command_line`] returns its words. May wait for the lock of the process's
/// memory, and for a page of it.
///
/// # Errors
///
/// If it has ended, or may not be read.
pub fn environment(process: &Path) -> io::Result<Vec<u8>> {
    read_any(process, "environ", MAX_MAPS_BYTES)
}

/// Returns the names of the threads of a process, as far as they have not ended meanwhile. Never blocks, see [`comm`].
///
/// # Errors
///
/// If the process has ended, or there are too many open files.
pub fn thread_names(process: &Path, most: usize) -> io::Result<Vec<Vec<u8>>> {
    Ok(threads(process, most)?.into_iter().filter_map(|(_, folder)| comm(&folder).ok()).collect())
}

/// Returns the paths of a process's cgroups. A first thread that has ended is in the root of each hierarchy of version 1
/// (`proc_cgroup_show`, kernel/cgroup/cgroup.c at v5.10).
///
/// # Errors
///
/// If it has ended.
pub fn cgroups(process: &Path) -> io::Result<CgroupPaths> {
    let is_below_roots = |text: &Vec<u8>| lines(text).any(|line| !line.is_empty() && !line.ends_with(b":/"));
    let text = read_living(process, is_below_roots, |folder| read(&folder.join("cgroup"), MAX_FILE_BYTES))?;
    Ok(CgroupPaths::parse(&text))
}

/// Reads the first `most` bytes of a file that is empty, or missing, for a thread that has ended.
fn read_any(process: &Path, name: &str, most: u64) -> io::Result<Vec<u8>> {
    read_living(process, |bytes: &Vec<u8>| !bytes.is_empty(), |folder| read(&folder.join(name), most))
}

/// Reads the first `most` bytes of a file.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the first `most` numeric names in a folder. The list ends early if the process ends meanwhile.
fn numbers(folder: &Path, most: usize) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(folder)?.map_while(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(most).collect())
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    parse::fuzz(text);
    fdinfo::fuzz(text);
    elf::fuzz(text);
    program::fuzz(text);
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command};

    use tests_support::first_thread::FirstThreadEnded;

    use super::*;
    use crate::host::netns;

    fn own() -> PathBuf {
        folder(Path::new("/proc"), process::id())
    }

    /// Returns the C library of this process; `None` for a static one.
    fn libc() -> Option<&'static str> {
        (!cfg!(target_feature = "crt-static")).then_some("libc.so")
    }

    #[test]
    fn the_own_process_is_read() {
        let own = own();
        let stat = stat(&own).unwrap();
        assert!(stat.started_ns > 0 && stat.parent > 0);
        assert!(status(&own).unwrap().threads.unwrap() >= 2);
        assert!(descriptors(&own).unwrap().unwrap() >= 3);
        assert_eq!(comm(&own).unwrap(), stat.comm);
        assert!(exe(&own).unwrap().starts_with(b"/"));
        assert!(cgroups(&own).unwrap().named.unwrap().starts_with(b"/"));
        assert_eq!(mapped(&own, &["libnothing", "libc.so"]).unwrap(), libc());
        let first = std::env::args_os().next().unwrap();
        assert!(command_line(&own).unwrap().starts_with(&[first.as_bytes(), b"\0"].concat()));
        let threads = threads(&own, 8).unwrap();
        assert_eq!(threads[0].0, process::id());
        assert!(schedstat(&threads[0].1).is_some());
        assert!(status(&threads[0].1).unwrap().voluntary_switches.is_some());
        assert_ne!(open_files_limit(&own).unwrap(), Some(0));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_read_from_another_one() {
        let process = FirstThreadEnded::start();
        let (folder, own) = (folder(Path::new("/proc"), process.pid()), own());
        assert_eq!((stat(&folder).unwrap().state, fs::read_dir(folder.join("fd")).unwrap().count()), (b'Z', 0));
        assert_eq!(exe(&folder).unwrap(), exe(&own).unwrap());
        assert!(descriptors(&folder).unwrap().unwrap() >= 3);
        assert_eq!(open_files_limit(&folder).unwrap(), open_files_limit(&own).unwrap());
        assert_eq!(mapped(&folder, &["libc.so"]).unwrap(), libc());
        assert_eq!(command_line(&folder).unwrap(), command_line(&own).unwrap());
        assert_eq!(environment(&folder).unwrap(), environment(&own).unwrap());
        assert_eq!(cgroups(&folder).unwrap().named, cgroups(&own).unwrap().named);
        assert_eq!(netns::of_process(&folder).unwrap(), netns::of_process(&own).unwrap());
        assert_eq!(linker(&folder).unwrap(), linker(&own).unwrap());
        assert!(folder_in_root(&folder, "proc").is_ok());
        assert!(device_kinds(&folder, std::iter::empty()).is_ok());
        let living = living_thread(&folder).unwrap();
        assert_eq!(descriptor_tables(&folder).unwrap(), [folder, living]);
    }

    #[test]
    fn a_process_without_a_thread_that_lives_has_no_descriptors() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let folder = folder(Path::new("/proc"), child.id());
        assert_eq!(living_thread(&folder), None, "its first thread lives");
        child.kill().unwrap();
        while stat(&folder).unwrap().state != b'Z' {
            std::thread::yield_now();
        }
        assert_eq!((living_thread(&folder), descriptors(&folder).unwrap()), (None, Some(0)));
        assert!(is_gone(&exe(&folder).unwrap_err()));
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        let missing = folder(Path::new("/nowhere"), 1);
        assert!(stat(&missing).is_err() && exe(&missing).is_err() && syscall(&missing).is_err());
        assert!(is_gone(&threads(&missing, 8).unwrap_err()) && is_gone(&pids(Path::new("/nowhere")).unwrap_err()));
    }

    #[test]
    fn only_some_errors_say_that_a_process_has_ended() {
        let error = io::Error::from_raw_os_error;
        assert!(is_gone(&error(libc::ESRCH)) && is_gone(&error(libc::ENOENT)));
        for other in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EACCES, libc::EINTR] {
            assert!(!is_gone(&error(other)), "{other}");
        }
    }
}
