//! Who holds which socket, from `/proc/PID/fd`: where the kernel has no iterator over open files (before Linux 5.11, or
//! without BTF).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::engine::{
    model::{Holder, Task},
    text::Comm,
};

/// Hands the inode of every socket that a process has a descriptor of to `each`, with that descriptor. Returns why not all
/// processes could be looked at, if so. One that ends meanwhile has no descriptors.
pub fn walk(mut each: impl FnMut(u64, Holder)) -> Option<String> {
    walk_in(Path::new("/proc"), &mut each)
}

fn walk_in(proc: &Path, each: &mut impl FnMut(u64, Holder)) -> Option<String> {
    let processes = match fs::read_dir(proc) {
        Ok(processes) => processes,
        Err(error) => return Some(format!("reading {} failed: {error}", proc.display())),
    };
    let mut denied = 0_u32;
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match holders_of(&process.path(), pid, each) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied += 1,
            // It has ended.
            Ok(()) | Err(_) => {}
        }
    }
    let hidden = hides_processes(&fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default());
    match (denied, hidden) {
        (0, false) => None,
        (0, true) => Some(
            "/proc is mounted with hidepid, so other users' processes may not be seen; \
             run as root or grant CAP_SYS_PTRACE"
                .to_owned(),
        ),
        (denied, _) => Some(format!(
            "the descriptors of {denied} processes cannot be read; grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
        )),
    }
}

fn holders_of(process: &Path, pid: u32, each: &mut impl FnMut(u64, Holder)) -> io::Result<()> {
    let mut task = None;
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        // To list them and to follow them are two rights (`proc_fd_permission` and `proc_fd_access_allowed`, v5.10).
        let target = match fs::read_link(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It was closed.
            Err(_) => continue,
            Ok(target) => target,
        };
        let Some(inode) = socket_inode(&target) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if task.is_none() {
            task = Some(Task { pid, comm: comm(process)? });
        }
        if let Some(task) = &task {
            each(inode, Holder { task: task.clone(), fd });
        }
    }
    Ok(())
}

fn comm(process: &Path) -> io::Result<Comm> {
    let name = fs::read(process.join("comm"))?;
    Ok(Comm::from_name(name.strip_suffix(b"\n").unwrap_or(&name)))
}

/// The number in `socket:[N]`.
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether `/proc` itself is mounted so that it hides the processes of other users (proc(5)). With CAP_SYS_PTRACE all are
/// seen nevertheless (`has_pid_permissions`, fs/proc/base.c at v5.10).
fn hides_processes(mountinfo: &str) -> bool {
    let traces = crate::host::caps::Capabilities::read();
    let sees_all = traces.is_some_and(|caps| caps.has(crate::host::caps::Capability::SysPtrace));
    let hides = |line: &str| {
        let point = line.split(' ').nth(4).map(PathBuf::from);
        let options = line.rsplit(' ').next().unwrap_or_default();
        let hidden = ["hidepid=1", "hidepid=2", "hidepid=4", "hidepid=noaccess", "hidepid=invisible"];
        point.is_some_and(|point| point == Path::new("/proc"))
            && options.split(',').any(|option| hidden.contains(&option) || option == "hidepid=ptraceable")
    };
    !sees_all && mountinfo.lines().any(hides)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _, process};

    use super::*;

    #[test]
    fn an_own_socket_is_found_with_its_descriptor() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(&link).unwrap();
        let mut found = Vec::new();
        let _blind = walk(|of, holder| {
            if of == inode && holder.task.pid == process::id() {
                found.push(i32::try_from(holder.fd).unwrap());
            }
        });
        assert_eq!(found, [socket.as_raw_fd()]);
    }

    #[test]
    fn other_links_are_no_sockets() {
        for target in ["socket:[]", "socket:[x]", "pipe:[1]", "/tmp/socket:[1]", "socket:[99999999999999999999999]"] {
            assert_eq!(socket_inode(Path::new(target)), None, "{target}");
        }
    }

    #[test]
    fn a_proc_that_is_not_there_is_said() {
        let blind = walk_in(Path::new("/dev/null/proc"), &mut |_inode, _holder| panic!("nobody is there"));
        assert!(blind.is_some_and(|why| why.contains("/dev/null/proc")));
    }
}
