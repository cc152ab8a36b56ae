//! Who and what is there now, by whatever this host offers.

use super::{
    diag, holders,
    program::{Programs, ProgramsError},
    snapshot,
};
use crate::engine::{decode::Decoder, model::Observation, time::Boot};

/// Why holders may be missing, where this is not the host's pid namespace.
pub(super) const OUTSIDE: &str =
    "processes outside this pid namespace cannot be seen; run with the host's (--pid=host, hostPID: true)";

/// What a walk finds, one at a time.
pub enum Found<'a> {
    /// Bytes of the kernel program.
    Record(&'a [u8]),
    /// What was learned elsewhere.
    Fact(Box<Observation>),
}

/// Hands everything that is there to `each`: sockets in CLOSE_WAIT and what holds them, listeners, and sockets of which
/// only a descriptor is left. Returns what could not be seen, one sentence each.
///
/// # Errors
///
/// If an iterator is refused or cannot be read.
pub fn everything(
    programs: Option<&mut Programs>,
    decoder: Decoder,
    now: impl Fn() -> Boot + Sync,
    mut each: impl FnMut(Found<'_>),
) -> Result<Vec<String>, ProgramsError> {
    let began = now();
    let Some(programs) = programs.filter(|programs| programs.plan().iterate_tcp || programs.plan().iterate_files)
    else {
        let diag::Blind { reasons } = diag::take(decoder, &now, |observation| each(Found::Fact(Box::new(observation))));
        let blind = descriptors_in_proc(&mut each);
        each(Found::Fact(Box::new(Observation::WalkEnded { began, blind, saw_listeners: true })));
        return Ok(reasons);
    };
    let mut record = |bytes: &[u8]| each(Found::Record(bytes));
    let seen = match (programs.plan().iterate_tcp, programs.plan().iterate_files) {
        (true, true) => snapshot::sockets_and_files(programs, &mut record)?,
        (true, false) => snapshot::sockets(programs, &mut record)?,
        (false, _) => {
            snapshot::files(programs, &[], &mut record)?;
            snapshot::Seen::default()
        }
    };
    end(programs, began, &mut each);
    Ok(sentence(&seen).into_iter().collect())
}

/// Hands every descriptor of a socket that matters to `each`, and the end of the walk. All sockets in CLOSE_WAIT of the
/// namespaces in `known` are known.
///
/// # Errors
///
/// If an iterator is refused or cannot be read.
pub fn holders(
    programs: &mut Programs,
    known: &[u32],
    now: impl Fn() -> Boot,
    mut each: impl FnMut(Found<'_>),
) -> Result<(), ProgramsError> {
    let began = now();
    let mut record = |bytes: &[u8]| each(Found::Record(bytes));
    if programs.plan().iterate_files {
        snapshot::files(programs, known, &mut record)?;
    } else if programs.plan().iterate_tcp {
        // Only for the listeners. What cannot be seen was said at the start.
        let _said = snapshot::sockets(programs, &mut record)?;
    }
    end(programs, began, &mut each);
    Ok(())
}

/// Ends a walk that began at `began`: with the descriptors in `/proc`, if the kernel has not shown them.
fn end(programs: &Programs, began: Boot, each: &mut impl FnMut(Found<'_>)) {
    let (iterate_tcp, iterate_files) = (programs.plan().iterate_tcp, programs.plan().iterate_files);
    let blind = if iterate_files {
        // The iterator walks the pid namespace of whoever opens it (`task_seq_get_next`, kernel/bpf/task_iter.c at v5.11).
        (!programs.plan().sees_all_processes).then(|| OUTSIDE.to_owned())
    } else {
        descriptors_in_proc(each)
    };
    each(Found::Fact(Box::new(Observation::WalkEnded { began, blind, saw_listeners: iterate_files || iterate_tcp })));
}

/// Every descriptor of a socket, from `/proc`. Returns why not all processes could be looked at, if so.
fn descriptors_in_proc(each: &mut impl FnMut(Found<'_>)) -> Option<String> {
    holders::walk(|inode, holder| each(Found::Fact(Box::new(Observation::HeldInode { inode, holder }))))
}

/// What a walk over sockets could not see, in words.
fn sentence(seen: &snapshot::Seen) -> Option<String> {
    let (first, why) = seen.blind.first()?;
    let count = seen.blind.len();
    Some(format!(
        "sockets that nobody has accepted yet cannot be listed in {count} network namespace(s), the first is {first}: {why}"
    ))
}
