//! One program, from its start to its end.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    pin::pin,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe::{Receiver, Sender},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use super::{HookEnvironment, HookEvent, HookEventKind, HookProgramError, event::FACTS, output::CapturedOutput};
use crate::{
    clock,
    host::{
        error_text::in_one_line,
        in_time::{call, in_time_of_task},
    },
};
use closewait_engine::text::{duration, harmless_path};

/// Time between SIGTERM and SIGKILL.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(2);
/// Maximum time to start a program, if its own limit is not shorter.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Progress of the end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Runs,
    /// Asked to end by SIGTERM.
    Terminated,
    /// Killed by SIGKILL.
    Killed,
}

/// Reason why the program had to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout,
    Stopping,
}

/// Runs the program to its end, or until `timeout` or `stopping`, and logs the outcome. Its child processes end with
/// it, except those in a session of their own (`setsid`).
pub(super) async fn attend(program: &Path, event: &HookEvent, timeout: Duration, stopping: watch::Receiver<bool>) {
    let name = harmless_path(program.as_os_str().as_encoded_bytes());
    let group = &event.group;
    let began = clock::now();
    match run(program, event, timeout, stopping).await {
        Err(error) => {
            let code = error.downcast_ref().and_then(io::Error::raw_os_error);
            let hint =
                if code == Some(libc::ENOEXEC) { "; begin the script with `#!` and its interpreter" } else { "" };
            log::warn!("hook for {group}: running {name} failed: {}{hint}", in_one_line(error));
        }
        Ok(FinishedProgram { status, cause, output }) => {
            for line in output.lines() {
                log::info!("hook for {group}: | {line}");
            }
            let took = duration(clock::now().since(began));
            match cause {
                Some(Cause::Timeout) => {
                    let timeout = duration(timeout);
                    log::warn!(
                        "hook for {group}: {name} was ended after {took} ({status}), as it took longer than {timeout}: \
                         --hook-timeout"
                    );
                }
                Some(Cause::Stopping) => {
                    log::warn!("hook for {group}: {name} was ended after {took} ({status}), as the agent has ended");
                }
                None if status.success() => log::info!("hook for {group}: {name} has ended after {took}"),
                None => log::warn!("hook for {group}: {name} failed after {took}: {status}"),
            }
        }
    }
}

/// Exit status and output of a program that a hook ran.
struct FinishedProgram {
    status: ExitStatus,
    cause: Option<Cause>,
    output: CapturedOutput,
}

async fn run(
    program: &Path,
    event: &HookEvent,
    timeout: Duration,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<FinishedProgram> {
    // Before the program starts, so that its end is not missed.
    let mut children = signal(SignalKind::child()).context("sigaction failed")?;
    let Started { mut child, input, output } = start(program, event, timeout, stopping.clone()).await?;
    let (input, pipe) = (Sender::from_owned_fd(input)?, Receiver::from_owned_fd(output)?);
    log::debug!("hook for {}: runs as {}", event.group, child.id());
    let line = event.json.clone();
    // The program need not read the line, or all of it.
    let feeding = tokio::spawn(feed(input, line.into_bytes()));
    let (mut output, mut pipe) = (CapturedOutput::default(), Some(pipe));
    let mut piece = vec![0; 64 * 1024];
    let mut alarm = pin!(sleep(timeout));
    let (mut stage, mut cause) = (Stage::Runs, None);
    while !has_ended(&child).context("waitid failed")? {
        let due = tokio::select! {
            _ = children.recv() => continue,
            more = read(pipe.as_ref(), &mut piece) => {
                // Stops reading at the limit, which closes the pipe.
                pipe = pipe.filter(|_| matches!(more, Ok(1..)) && more.is_ok_and(|bytes| output.take(&piece[..bytes])));
                continue;
            }
            () = &mut alarm, if stage != Stage::Killed => Cause::Timeout,
            _ = stopping.changed(), if stage == Stage::Runs => Cause::Stopping,
        };
        cause = cause.or(Some(due));
        stage = match stage {
            Stage::Runs => {
                signal_group(&child, Signal::TERM);
                alarm.set(sleep(GRACE_PERIOD));
                Stage::Terminated
            }
            Stage::Terminated | Stage::Killed => {
                signal_group(&child, Signal::KILL);
                Stage::Killed
            }
        };
    }
    // Kills remaining child processes. Until the wait, no other process can get this pid or process group.
    signal_group(&child, Signal::KILL);
    feeding.abort();
    // Not to the end: a process in its own session may keep the pipe open.
    if let Some(mut pipe) = pipe.map(Receiver::into_nonblocking_fd).transpose().context("fcntl failed")?.map(File::from)
    {
        while let Ok(bytes @ 1..) = pipe.read(&mut piece)
            && output.take(&piece[..bytes])
        {}
    }
    Ok(FinishedProgram { status: child.wait().context("wait4 failed")?, cause, output })
}

/// Program that was started.
struct Started {
    child: Child,
    /// Standard input of the program.
    input: OwnedFd,
    /// Pipe with the output of the program.
    output: OwnedFd,
}

/// Checks the program again, as it may have changed, and starts it. Both run on a new thread, because they wait for
/// the program's file system (`posix_spawn` until `execve` has succeeded).
async fn start(
    program: &Path,
    event: &HookEvent,
    timeout: Duration,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<Started> {
    let (kind, facts) = (event.group.kind, event.facts.clone());
    let work = move |path: &Path| {
        let path = super::program::find(path)?;
        call("execve");
        spawn(&path, kind, &facts, timeout).context("pipe2 or posix_spawn failed")
    };
    // The caller has given up and will not end it.
    let undo = |late: anyhow::Result<Started>| {
        if let Ok(Started { mut child, .. }) = late {
            signal_group(&child, Signal::KILL);
            let _ended: io::Result<ExitStatus> = child.wait();
        }
    };
    let stop = async { drop(stopping.changed().await) };
    in_time_of_task(program, timeout.min(START_PATIENCE), stop, work, undo)
        .await
        .unwrap_or_else(|why| Err(HookProgramError::Unanswered { path: program.to_owned(), why }.into()))
}

/// Starts a program in its own process group, without a shell and without arguments.
fn spawn(program: &Path, kind: HookEventKind, facts: &HookEnvironment, timeout: Duration) -> io::Result<Started> {
    let ((input, to), (from, output)) = (io::pipe()?, io::pipe()?);
    let mut command = Command::new(program);
    // An unknown fact has no variable, also if the agent has one of that name. Other variables are for the program.
    for name in FACTS {
        command.env_remove(name);
    }
    command.env("CLOSEWAIT_EVENT", kind.name());
    command.env("CLOSEWAIT_TIMEOUT_SECONDS", timeout.as_secs_f64().to_string());
    for (name, value) in &facts.0 {
        command.env(&**name, value);
    }
    command.stdin(input).stdout(output.try_clone()?).stderr(output).current_dir("/").process_group(0);
    let child = command.spawn()?;
    Ok(Started { child, input: to.into(), output: from.into() })
}

async fn feed(mut to: Sender, line: Vec<u8>) -> io::Result<()> {
    to.write_all(&line).await
}

/// Reads the next piece of the output; never returns if the pipe is closed.
async fn read(pipe: Option<&Receiver>, piece: &mut [u8]) -> io::Result<usize> {
    let Some(pipe) = pipe else { return std::future::pending().await };
    loop {
        pipe.readable().await?;
        match pipe.try_read(piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Whether the child has ended. Does not reap it: it stays in its group.
fn has_ended(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(Pid::from_child(child)), options)?.is_some())
}

/// Sends a signal to the child and to all processes of its group. The child was not reaped, so the group is still the
/// one that it was started in.
fn signal_group(child: &Child, signal: Signal) {
    let _gone: rustix::io::Result<()> = kill_process_group(Pid::from_child(child), signal);
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
        path::PathBuf,
        process,
    };

    use super::*;
    use crate::hooks::{HookEnvironment, HookGroup};

    /// Runs a script to its end, at most for `timeout`.
    fn outcome(name: &str, script: &str, timeout: Duration) -> FinishedProgram {
        run_file(name, &format!("#!/bin/sh\n{script}\n"), timeout).unwrap()
    }

    fn run_file(name: &str, text: &str, timeout: Duration) -> anyhow::Result<FinishedProgram> {
        let path: PathBuf = env::temp_dir().join(format!("closewait-running-{}-{name}", process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let mut facts = HookEnvironment::default();
        facts.add("CLOSEWAIT_COMM", Some("$(touch x); `id` \\u{a}"));
        let group = HookGroup::of_socket("pid 1 port 80".to_owned());
        let event = HookEvent { group, facts, json: format!("{{\"x\":\"{}\"}}\n", "y".repeat(200_000)) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_stop, stopping) = watch::channel(false);
        let ended = loop {
            match runtime.block_on(run(&path, &event, timeout, stopping.clone())) {
                // Another test that starts a child may still have the script open.
                Err(error) if is_busy(&error) => {}
                ended => break ended,
            }
        };
        fs::remove_file(path).unwrap();
        ended
    }

    fn is_busy(error: &anyhow::Error) -> bool {
        error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_program_gets_facts_as_they_are_and_the_event_as_one_line() {
        let ended = outcome("facts", "echo \"$CLOSEWAIT_EVENT $CLOSEWAIT_COMM\"; wc -lc; pwd", LONG);
        assert!(ended.status.success() && ended.cause.is_none());
        assert_eq!(ended.output.lines()[0], "stuck $(touch x); `id` \\u{a}".replace('\\', "\\\\"));
        assert_eq!(ended.output.lines()[1].split_whitespace().collect::<Vec<_>>(), ["1", "200009"]);
        assert_eq!(ended.output.lines()[2], "/");
    }

    #[test]
    fn a_hook_that_reads_nothing_and_fails_is_reported() {
        let ended = outcome("fails", "echo no >&2; exit 3", LONG);
        assert_eq!((ended.status.code(), ended.output.lines()), (Some(3), vec!["no".to_owned()]));
    }

    #[test]
    fn no_shell_stands_in_for_a_first_line_that_is_missing() {
        let Err(error) = run_file("headless", "echo no\n", LONG) else { unreachable!() };
        assert_eq!(error.downcast_ref().and_then(io::Error::raw_os_error), Some(libc::ENOEXEC), "{error:#}");
    }

    #[test]
    fn one_that_hangs_is_ended_with_what_it_has_started() {
        let began = clock::now();
        let ended = outcome("hangs", "sleep 1000 & wait", Duration::from_millis(200));
        assert_eq!((ended.cause, ended.status.success()), (Some(Cause::Timeout), false));
        assert!(clock::now().since(began) < GRACE_PERIOD + Duration::from_secs(5));
    }

    #[test]
    fn one_that_does_not_heed_is_killed() {
        let ended = outcome("heedless", "trap '' TERM; while :; do sleep 1; done", Duration::from_millis(100));
        assert_eq!(ended.cause, Some(Cause::Timeout));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(libc::SIGKILL));
    }

    #[test]
    fn a_hook_that_leaves_a_process_behind_is_over_at_once() {
        let began = clock::now();
        let ended = outcome("leaves", "setsid sleep 3 & sleep 1000 & echo done", LONG);
        assert!(ended.status.success() && ended.cause.is_none());
        assert_eq!(ended.output.lines(), ["done"]);
        assert!(clock::now().since(began) < Duration::from_secs(3));
    }

    #[test]
    fn one_that_writes_without_end_ends() {
        let ended = outcome("writes", "yes", LONG);
        assert!(!ended.status.success() && ended.cause.is_none(), "by its closed pipe");
        assert!(ended.output.lines().last().unwrap().ends_with("its output was closed)"));
    }
}
