//! Descendants of this process: children, their children, and so on, also those whose parent has ended.
//!
//! A process whose parent has ended becomes a child of the nearest ancestor that is a subreaper
//! (`PR_SET_CHILD_SUBREAPER`; `find_new_reaper`, kernel/exit.c at v5.10). So with that attribute, descendants stay
//! descendants, whatever sessions, process groups or daemons they make.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process,
};

use rustix::process::{getpid, set_child_subreaper};

use super::{
    deadline::{self, Patience, ReadFailure, Subject},
    proc,
};

/// Maximum number of threads of a process whose children are read: a thread has the children that it forked.
const MAX_THREADS: usize = 4096;
/// Maximum number of descendants; any more are not found.
const MAX_DESCENDANTS: usize = 1 << 16;

/// Makes this process the parent of descendants whose own parent has ended.
///
/// # Errors
///
/// If the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Returns the descendants of this process, including ended ones that were not reaped.
///
/// # Errors
///
/// If `/proc` does not answer.
pub fn descendants() -> Result<BTreeSet<u32>, ReadFailure> {
    let root = PathBuf::from("/proc");
    let subject = Subject::Path(root.clone());
    let read = move || below(&root, process::id());
    deadline::run(subject, "the descendants of this process", &mut Patience::for_one_read(), read)
}

fn below(root: &Path, ancestor: u32) -> BTreeSet<u32> {
    // Without `CONFIG_PROC_CHILDREN` there is no such file, and the parent of every process has to be read.
    match proc::children(&proc::folder(root, ancestor), ancestor) {
        Err(error) if proc::is_gone(&error) => by_parents(root, ancestor),
        Ok(_) | Err(_) => by_children(root, ancestor),
    }
}

fn by_children(root: &Path, ancestor: u32) -> BTreeSet<u32> {
    let (mut found, mut open) = (BTreeSet::new(), vec![ancestor]);
    while let Some(pid) = open.pop() {
        let folder = proc::folder(root, pid);
        // A process that has ended meanwhile has no children.
        for (tid, _folder) in proc::threads(&folder, MAX_THREADS).unwrap_or_default() {
            for child in proc::children(&folder, tid).unwrap_or_default() {
                if found.len() < MAX_DESCENDANTS && found.insert(child) {
                    open.push(child);
                }
            }
        }
    }
    found
}

fn by_parents(root: &Path, ancestor: u32) -> BTreeSet<u32> {
    let pids = proc::pids(root).unwrap_or_default();
    let parents = pids.into_iter().filter_map(|pid| Some((pid, proc::stat(&proc::folder(root, pid)).ok()?.parent)));
    let parents: Vec<(u32, u32)> = parents.collect();
    let mut found = BTreeSet::from([ancestor]);
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        let children: Vec<u32> = children.take(MAX_DESCENDANTS).collect();
        found.extend(children);
        if found.len() == before {
            found.remove(&ancestor);
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };

    use super::*;
    use crate::clock;

    #[test]
    fn a_child_of_a_child_is_a_descendant_by_either_way() {
        // The shell stays, because it has another command to run.
        let mut child = Command::new("sh").args(["-c", "sleep 60; true"]).stdout(Stdio::null()).spawn().unwrap();
        let root = Path::new("/proc");
        let began = clock::now();
        let sleep = loop {
            let children = proc::children(&proc::folder(root, child.id()), child.id()).unwrap();
            if let [sleep] = children.as_slice() {
                break *sleep;
            }
            assert!(clock::now().since(began) < Duration::from_secs(10), "the shell starts nothing");
        };
        for found in [by_children(root, process::id()), by_parents(root, process::id())] {
            assert!(found.contains(&child.id()) && found.contains(&sleep), "{found:?} {sleep}");
            assert!(!found.contains(&process::id()) && !found.contains(&1), "{found:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let sleep = rustix::process::Pid::from_raw(sleep.try_into().unwrap()).unwrap();
        rustix::process::kill_process(sleep, rustix::process::Signal::KILL).unwrap();
    }
}
