//! Destruction of CLOSE_WAIT sockets, the only change that closewait makes to the host. Each socket is destroyed in
//! its own network namespace, after a last query of its state. [`kill`] decides which sockets may be destroyed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use closewait_common::tcp::state;

use super::{
    diag::{
        self,
        exact::{self, DestroyError},
    },
    owners, scanner,
};
use crate::host::{
    caps,
    error_text::in_one_line,
    facts,
    netns::{self, Netns, NetnsError},
    proc,
};
use closewait_engine::{
    kill::{self, CurrentSocket, Failure, Outcome, Refusal, Selected, Target},
    model::{Endpoint, Owner},
    snapshot::query::Filter,
    time::BootTime,
};

/// Returns the sockets that would be destroyed, in the order of `selected`, and for each other one the reason.
/// Changes nothing.
///
/// The list is not trusted: the kernel is queried for the endpoints, state and age of each socket, and `/proc` for
/// the descriptors of the processes in the filter.
pub fn plan(selected: &[Selected], filter: &Filter, now: impl Fn() -> BootTime + Sync) -> Vec<Result<Target, Refusal>> {
    let wanted = selected.iter().map(kill::preselect);
    let held = OwnedSockets::by(&filter.pids);
    in_each_namespace(
        wanted,
        |namespace, numbers| {
            let all = || {
                let waiting = diag::waiting();
                let by_ends = waiting.map(by_ends).map_err(|error| Refusal::Namespace(in_one_line(error)));
                let chosen = numbers.iter().filter_map(|number| selected.get(*number));
                let one = |one: &Selected| {
                    let by_ends = by_ends.as_ref().map_err(Refusal::clone)?;
                    let there = by_ends.get(&(one.socket.local, one.socket.remote)).map_or(&[][..], Vec::as_slice);
                    let target = kill::identify(one, there)?;
                    // Queried again: a long list takes time, and these facts have to be of one moment.
                    match exact::get(&target) {
                        Ok(Some(facts)) => {
                            target.check(&facts, now())?;
                            kill::check_age(&facts, filter)?;
                            held.check(&target).map(|()| target)
                        }
                        Ok(None) => Err(Refusal::Gone),
                        Err(error) => Err(Refusal::Namespace(in_one_line(error))),
                    }
                };
                chosen.map(one).collect()
            };
            namespace.enter_and(all).unwrap_or_else(|error| {
                let denied = matches!(error, NetnsError::EnterDenied { .. });
                let why = error.to_string();
                vec![Err(if denied { Refusal::Denied(why) } else { Refusal::Namespace(why) }); numbers.len()]
            })
        },
        |missing| Err(missing.clone()),
    )
}

/// Destroys `targets`, and returns the outcomes in the same order. Each socket is queried right before and right
/// after. The descriptors of the processes in the filter are read again before the first.
///
/// One system call lies between the last query and the destruction. In that time the program may write to the socket
/// or close it. The socket cannot be replaced by another: the kernel compares endpoints and cookie itself.
pub fn act(targets: &[Target], filter: &Filter, now: impl Fn() -> BootTime + Sync) -> Vec<Outcome> {
    let held = OwnedSockets::by(if targets.is_empty() { &[] } else { &filter.pids });
    let wanted = targets.iter().map(|target| Ok(target.netns));
    in_each_namespace(
        wanted,
        |namespace, numbers| {
            let all = || {
                numbers.iter().filter_map(|number| targets.get(*number)).map(|one| act_on(one, &held, &now)).collect()
            };
            namespace.enter_and(all).unwrap_or_else(|error| {
                let denied = matches!(error, NetnsError::EnterDenied { .. });
                let why = error.to_string();
                let failure = if denied { Failure::Denied(why) } else { Failure::Other(why) };
                vec![Outcome::Failed(failure); numbers.len()]
            })
        },
        |missing| Outcome::Refused(missing.clone()),
    )
}

/// Returns every descriptor of the sockets with these inodes, and the reason if not all processes could be read.
pub fn descriptors(inodes: impl IntoIterator<Item = u32>) -> (BTreeMap<u32, Vec<Owner>>, Option<String>) {
    let mut of: BTreeMap<u32, Vec<Owner>> = inodes.into_iter().map(|inode| (inode, Vec::new())).collect();
    let blind = owners::scan(|inode, owner| {
        if let Some(owners) = u32::try_from(inode).ok().and_then(|inode| of.get_mut(&inode)) {
            owners.push(owner);
        }
    });
    let blind = blind.or_else(|| (facts::initial_pid_namespace() == Some(false)).then(|| scanner::OUTSIDE.to_owned()));
    (of, blind)
}

/// Sockets that the processes of a filter own.
struct OwnedSockets {
    /// Inodes; `None` if the filter names no process.
    inodes: Option<BTreeSet<u32>>,
    /// Reason why the processes may have more descriptors.
    blind: Option<String>,
}

impl OwnedSockets {
    fn by(pids: &[u32]) -> Self {
        let (mut inodes, mut blind) = (BTreeSet::new(), None);
        for pid in pids {
            match sockets_of(*pid, &mut inodes) {
                Ok(()) => {}
                // The process has ended and owns nothing.
                Err(error) if proc::is_gone(&error) => {}
                Err(error) => {
                    let why = || {
                        let fix = if proc::is_refused(&error) { caps::fix_for_unreadable() } else { String::new() };
                        format!("reading the descriptors of process {pid} failed: {error}{fix}")
                    };
                    blind = blind.or_else(|| Some(why()));
                }
            }
        }
        Self { inodes: (!pids.is_empty()).then_some(inodes), blind }
    }

    fn check(&self, target: &Target) -> Result<(), Refusal> {
        match (&self.inodes, &self.blind) {
            (None, _) => Ok(()),
            (Some(inodes), _) if inodes.contains(&target.inode) => Ok(()),
            (Some(_), Some(blind)) => Err(Refusal::OwnersUnknown(blind.clone())),
            (Some(_), None) => Err(Refusal::NotHeld),
        }
    }
}

/// Adds the inodes of all sockets in any of a process's descriptor tables.
fn sockets_of(pid: u32, to: &mut BTreeSet<u32>) -> io::Result<()> {
    for table in proc::descriptor_tables(&proc::folder(Path::new("/proc"), pid))? {
        match sockets_in(&table, to) {
            // The thread has ended.
            Err(error) if proc::is_gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Adds the inodes of the sockets in one descriptor table.
fn sockets_in(task: &Path, to: &mut BTreeSet<u32>) -> io::Result<()> {
    for entry in fs::read_dir(task.join("fd"))? {
        let target = match fs::read_link(entry?.path()) {
            // The descriptor was closed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let number = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        to.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    Ok(())
}

/// Calls `inside` once for each network namespace in `wanted`, with the indexes of the items that want it. Calls
/// `outside` for each item that has no namespace, or one that cannot be found. Returns the answers in the order of
/// `wanted`.
fn in_each_namespace<T>(
    wanted: impl Iterator<Item = Result<u32, Refusal>>,
    inside: impl Fn(&Netns, &[usize]) -> Vec<T>,
    outside: impl Fn(&Refusal) -> T,
) -> Vec<T> {
    let mut answers: BTreeMap<usize, T> = BTreeMap::new();
    let mut numbers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (number, wanted) in wanted.enumerate() {
        match wanted {
            Ok(netns) => numbers.entry(netns).or_default().push(number),
            Err(refusal) => drop(answers.insert(number, outside(&refusal))),
        }
    }
    if numbers.is_empty() {
        return answers.into_values().collect();
    }
    let found = netns::find();
    for (netns, numbers) in numbers {
        match found.namespaces.iter().find(|namespace| namespace.inode == netns) {
            Some(namespace) => answers.extend(numbers.iter().copied().zip(inside(namespace, &numbers))),
            None => {
                let why = match &found.denied {
                    Some(denied) => Refusal::Denied(denied.to_string()),
                    None => Refusal::Namespace(format!(
                        "no process is in network namespace {netns}, and nothing is mounted for it; run in a mount namespace \
                         where `ip netns` shows it, or restart its program"
                    )),
                };
                answers.extend(numbers.iter().map(|number| (*number, outside(&why))));
            }
        }
    }
    answers.into_values().collect()
}

fn by_ends(waiting: Vec<CurrentSocket>) -> BTreeMap<(Endpoint, Endpoint), Vec<CurrentSocket>> {
    let mut by_ends: BTreeMap<_, Vec<CurrentSocket>> = BTreeMap::new();
    for facts in waiting {
        by_ends.entry((facts.local, facts.remote)).or_default().push(facts);
    }
    by_ends
}

/// Destroys one socket in the network namespace of this thread.
fn act_on(target: &Target, held: &OwnedSockets, now: impl Fn() -> BootTime) -> Outcome {
    let other = |error| Outcome::Failed(Failure::Other(in_one_line(error)));
    let checked = match exact::get(target) {
        Ok(Some(facts)) => target.check(&facts, now()).and_then(|()| held.check(target)),
        Ok(None) => return without(target),
        Err(error) => return other(error),
    };
    match checked {
        Ok(()) => {}
        Err(Refusal::Gone) => return Outcome::GoneBefore,
        Err(Refusal::Replaced) => return Outcome::Replaced,
        Err(refusal) => return Outcome::Refused(refusal),
    }
    match exact::destroy(target) {
        Ok(()) => {}
        Err(DestroyError::Gone) => return without(target),
        Err(DestroyError::Other(error)) => return other(error),
        Err(DestroyError::Unsupported(_)) => return Outcome::Failed(Failure::Unsupported),
        Err(error @ DestroyError::Denied(_)) => return Outcome::Failed(Failure::Denied(in_one_line(error))),
    }
    match exact::get(target) {
        Ok(None) => Outcome::Destroyed,
        Ok(Some(facts)) if facts.state == state::CLOSE_WAIT => Outcome::Failed(Failure::StillThere),
        // The program closed it in between: the kernel does not destroy a socket without a descriptor (`tcp_abort`,
        // net/ipv4/tcp.c at v5.10).
        Ok(Some(_)) => Outcome::GoneBefore,
        Err(error) => other(error),
    }
}

/// Returns the outcome for a target whose cookie the kernel no longer finds: gone, or replaced.
fn without(target: &Target) -> Outcome {
    match exact::get_any(target) {
        Ok(Some(_other)) => Outcome::Replaced,
        // If the query fails, only the choice between the two is unknown.
        Ok(None) | Err(_) => Outcome::GoneBefore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_the_order_of_the_questions() {
        let own = netns::all().remove(0).inode;
        let wanted = [Ok(own), Err(Refusal::Left), Ok(own), Ok(1)];
        let answers = in_each_namespace(
            wanted.into_iter(),
            |namespace, numbers| numbers.iter().map(|number| format!("{number} in {}", namespace.inode)).collect(),
            ToString::to_string,
        );
        assert_eq!((&answers[0], &answers[2]), (&format!("0 in {own}"), &format!("2 in {own}")));
        assert_eq!(answers[1], Refusal::Left.to_string());
        assert!(answers[3].contains("network namespace 1,") || answers[3].contains("CAP_SYS_PTRACE"), "{}", answers[3]);
    }

    #[test]
    fn nothing_selected_is_nothing_done() {
        let filter = Filter::default();
        assert!(plan(&[], &filter, || BootTime(0)).is_empty() && act(&[], &filter, || BootTime(0)).is_empty());
    }

    fn inode_of(socket: &std::net::TcpListener) -> u32 {
        let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
        // The link of this thread: it may have a descriptor table of its own.
        let link = fs::read_link(format!("/proc/thread-self/fd/{fd}")).unwrap();
        link.to_str().unwrap().trim_matches(|byte: char| !byte.is_ascii_digit()).parse().unwrap()
    }

    #[test]
    fn a_socket_in_the_own_descriptor_table_of_a_thread_is_held_by_its_process() {
        let (ready, inode) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: this thread alone loses the shared table; what it opens then is closed when it ends.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let found = inode_of(&socket);
            ready.send(found).unwrap();
            let _ended = ended.recv();
            drop(socket);
        });
        let inode = inode.recv().unwrap();
        let mut found = BTreeSet::new();
        sockets_of(std::process::id(), &mut found).unwrap();
        let mut of_owners = 0;
        let _blind = owners::scan(|of, owner| {
            of_owners += u32::from(of == u64::from(inode) && owner.task.pid == std::process::id());
        });
        drop(end);
        thread.join().unwrap();
        assert!(found.contains(&inode), "{inode} {found:?}");
        assert_eq!(of_owners, 1);
    }

    #[test]
    fn only_sockets_of_the_processes_that_are_named_are_held() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&socket);
        let end = Endpoint { address: std::net::Ipv4Addr::LOCALHOST.into(), port: 1 };
        let target = Target {
            netns: 1,
            local: end,
            remote: end,
            cookie: 1,
            inode,
            interface: 0,
            entered: None,
            peer_reads: false,
        };
        let own = std::process::id();
        assert_eq!(OwnedSockets::by(&[]).check(&target), Ok(()), "no process is asked for");
        // No process here has the highest possible number (`PID_MAX_LIMIT`).
        assert_eq!(OwnedSockets::by(&[1 << 22, own]).check(&target), Ok(()));
        assert_eq!(OwnedSockets::by(&[1 << 22]).check(&target), Err(Refusal::NotHeld));
        drop(socket);
        assert_eq!(OwnedSockets::by(&[own]).check(&target), Err(Refusal::NotHeld));
        let blind = OwnedSockets { inodes: Some(BTreeSet::new()), blind: Some("no right".to_owned()) };
        assert_eq!(blind.check(&target), Err(Refusal::OwnersUnknown("no right".to_owned())));
    }
}
