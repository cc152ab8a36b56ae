//! `closewait check -- CMD`: runs a command, and finds the sockets that its processes left in CLOSE_WAIT.
//!
//! Sockets of the command are those of its descendants. This process is a subreaper, so a daemon that the command leaves
//! behind stays a descendant. A cgroup would do the same, but needs the right to create one, which most containers and
//! users lack; process groups and sessions end with `setsid`.
//!
//! Two sources show the sockets:
//!
//! - A scan after the end of the command: what its remaining processes still have open. The kernel program was attached
//!   before the command, so the exact entry of each such socket is known, and one without it is older.
//! - Records of exits: sockets that the kernel closed because their process ended, or that their program closed too late ([`super::watch`]).

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::{begin, put, watch::DescendantWatch};
use crate::{
    cli, clock,
    host::{descendants, open_files::OpenFiles},
    logging, signals,
    signals::BlockedSignals,
    sink::check::{
        ProbeState,
        left_behind::{CommandEnd, CommandResult, LeftBehind},
        line,
    },
};
use closewait_engine::text::harmless_path;

/// Interval between two reads of the descendants and of the kernel's records. A process that lives shorter may be missed.
const TICK: Duration = Duration::from_millis(50);
/// Interval between two scans after the end of the command.
const RESCAN_INTERVAL: Duration = Duration::from_millis(250);
/// Signals that the command gets too.
const FORWARDED: [libc::c_int; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];
/// Exit code of shells for a program that is there and cannot run.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code of shells for a program that is not there.
const NOT_FOUND: u8 = 127;

/// Runs the command, and writes the result. Returns the exit code.
///
/// # Errors
///
/// If the sockets cannot be watched; then the command was not started.
pub(super) fn run(args: &cli::CheckArgs) -> anyhow::Result<u8> {
    // Threads inherit the mask, so this comes before the first.
    let signals = BlockedSignals::block(&[FORWARDED.as_slice(), &[libc::SIGCHLD]].concat())?;
    // While it is ignored, the kernel reaps children.
    signals::reset(libc::SIGCHLD);
    let open_files = begin(args)?;
    let mut watch = DescendantWatch::start(args.grace, args.stuck_after)?;
    descendants::adopt_orphans().context("prctl(PR_SET_CHILD_SUBREAPER) failed")?;
    let child = match spawn(args, &signals, open_files) {
        Ok(child) => child,
        Err(error) => {
            let name = args.command.first().map(|name| harmless_path(name.as_encoded_bytes())).unwrap_or_default();
            logging::print(&(line(ProbeState::Unknown, &format!("{name} cannot be run: {error}")) + "\n"));
            return Ok(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    let end = wait_for(&child, &signals, &mut watch)?;
    let open = after(&signals, &mut watch, args.grace)?;
    let (left, more) = watch.left_behind(open);
    let result = CommandResult { end, grace: args.grace, stuck_after: args.stuck_after, left, more, gap: watch.gap() };
    drop(watch);
    let mut text = Vec::new();
    result.render(args.shape.output.into(), &mut text)?;
    put(args, &text)?;
    Ok(result.exit_code())
}

/// Starts the command with the environment, the files and the limits of this process.
fn spawn(args: &cli::CheckArgs, signals: &BlockedSignals, open_files: OpenFiles) -> io::Result<Child> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    signals.restore_in(command.args(arguments));
    open_files.as_before(|| command.spawn())
}

/// Watches until the command ends. Hands signals on to it.
fn wait_for(child: &Child, signals: &BlockedSignals, watch: &mut DescendantWatch) -> anyhow::Result<CommandEnd> {
    let command = Pid::from_child(child);
    loop {
        // The kernel has given a signal of the terminal to the command as well: it is in the same process group.
        if let Some(received) = signals.wait(TICK).filter(|received| !received.from_kernel)
            && let Some(signal) = Signal::from_named_raw(received.signal).filter(|signal| *signal != Signal::CHILD)
        {
            // It may have ended, and waits to be reaped.
            let _ended: rustix::io::Result<()> = kill_process(command, signal);
        }
        // Before processes are reaped: an ended one is still a descendant.
        watch.refresh();
        if let Some(status) = reap(Some(command))? {
            return Ok(end_of(status));
        }
    }
}

/// Reaps children that have ended. Returns the status of `awaited` if it is one of them.
fn reap(awaited: Option<Pid>) -> anyhow::Result<Option<ExitStatus>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == awaited => found = Some(ExitStatus::from_raw(status.as_raw())),
            Ok(Some(_adopted)) => {}
            // There are no children, or all of them run.
            Err(rustix::io::Errno::CHILD) | Ok(None) => return Ok(found),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waitpid failed"),
        }
    }
}

fn end_of(status: ExitStatus) -> CommandEnd {
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => CommandEnd::Exited(small(code)),
        (None, signal) => CommandEnd::Signaled(signal.map_or(0, small)),
    }
}

/// Scans until no process of the command has a socket in CLOSE_WAIT, or the grace time is over, or a signal ends the wait.
fn after(
    signals: &BlockedSignals,
    watch: &mut DescendantWatch,
    grace: Duration,
) -> anyhow::Result<(Vec<LeftBehind>, u64)> {
    let until = clock::now() + grace;
    loop {
        watch.refresh();
        if !watch.has_descendants() {
            return Ok((Vec::new(), 0));
        }
        let open = watch.scan();
        let left = until.since(clock::now());
        if open.0.is_empty() || left.is_zero() {
            return Ok(open);
        }
        let received = signals.wait(left.min(RESCAN_INTERVAL));
        reap(None)?;
        if received.is_some_and(|received| received.signal != libc::SIGCHLD) {
            return Ok(open);
        }
    }
}
