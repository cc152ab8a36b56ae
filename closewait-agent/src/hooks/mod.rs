//! Runs a user's programs when something is found.
//!
//! A running agent has given up the right to run anything ([`crate::host::confine`]). So before that it starts a helper:
//! this program again, `closewait hooks`, which keeps the rights that the agent was started with, and is asked through a
//! pipe. It ends with the agent, however that ends.
//!
//! ```text
//! runtime -> Hooks (what, how often) -> Writer's thread -> pipe -> helper (one at a time, how long) -> program
//! ```
//!
//! Nothing here waits for a program: anything over a limit is dropped, counted and reported.

mod event;
mod helper;
mod limits;
mod output;
mod program;
mod queue;
mod running;

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use self::limits::{Skipped, StartLimiter};
pub use self::{
    event::{HookEnvironment, HookEvent, HookEventKind, HookGroup},
    helper::serve,
    program::{HookProgramError, HookPrograms},
};
use crate::{
    clock,
    sink::{Backlog, NumberedEvent, Writer},
};
use closewait_engine::{model::Finding, time::BootTime};

/// Bytes of requests that may wait for the helper.
const BACKLOG: usize = 8 << 20;

/// Programs that hooks run, and their limits.
#[derive(Clone, Debug)]
pub struct HookConfig {
    /// Which programs.
    pub programs: HookPrograms,
    /// How long one may take.
    pub timeout: Duration,
    /// At most one start of a group in this time.
    pub every: Duration,
}

/// A helper that was started, and that nobody talks to yet.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    requests: io::PipeWriter,
    config: HookConfig,
}

impl Helper {
    /// Starts the helper; `None` if there is nothing to run. Its rights are those that this process has now.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(config: HookConfig) -> anyhow::Result<Option<Self>> {
        let HookPrograms { stuck, pileup } = &config.programs;
        if stuck.is_none() && pileup.is_none() {
            return Ok(None);
        }
        let (from, requests) = io::pipe().context("pipe2 failed; is a limit on open files reached?")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("closewait").arg("hooks").arg("--timeout");
        command.arg(humantime::format_duration(config.timeout).to_string());
        for (flag, program) in [("--on-stuck", stuck), ("--on-pileup", pileup)] {
            if let Some(program) = program {
                command.arg(flag).arg(program);
            }
        }
        // Standard output has the agent's results only.
        let child = command.stdin(from).stdout(Stdio::null()).spawn().context(
            "starting the helper that runs hooks failed (execve of /proc/self/exe); is /proc mounted, and a limit on \
             processes reached?",
        )?;
        Ok(Some(Self { child, requests, config }))
    }

    /// Begins to talk to it, on a thread of its own: this has to wait until the agent is confined.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn connect(self) -> io::Result<Hooks> {
        let Self { child, requests, config } = self;
        let now = clock::now();
        Ok(Hooks {
            child,
            writer: Writer::new(requests, BACKLOG)?,
            limits: StartLimiter::new(config.every, now),
            skipped: Skipped::new(config.every, now),
            programs: config.programs,
        })
    }
}

/// The way to the helper.
#[derive(Debug)]
pub struct Hooks {
    child: Child,
    writer: Writer,
    limits: StartLimiter,
    skipped: Skipped,
    programs: HookPrograms,
}

impl Hooks {
    /// Asks for a program if `finding`, which became this event, is a reason to run one. The program gets the line that the
    /// stream has.
    pub fn finding(&mut self, finding: &Finding, event: &NumberedEvent<'_>, now: BootTime) {
        let group = event::group(finding).filter(|group| self.programs.of(group.kind).is_some());
        match group.map(|group| self.limits.start(&group, now).map(|()| group)) {
            None => {}
            Some(Err(skip)) => self.skipped.skip(skip),
            Some(Ok(group)) => {
                if let Err(error) = self.ask(group, finding, event) {
                    log::error!("a hook is not run, as its event cannot be written as JSON: {error}; report this");
                }
            }
        }
        if let Some(line) = self.skipped.line(now) {
            log::info!("{line}");
        }
    }

    fn ask(&mut self, group: HookGroup, finding: &Finding, event: &NumberedEvent<'_>) -> io::Result<()> {
        let json = str::from_utf8(event.json()?).map_err(io::Error::other)?.to_owned();
        let event = HookEvent { group, facts: event::facts(finding, event.anchor), json };
        match event.frame()? {
            None => self.skipped.too_long(),
            Some(frame) => {
                if self.writer.send(frame) == Backlog::Full {
                    self.skipped.unsent();
                }
            }
        }
        Ok(())
    }

    /// Returns when the helper is gone.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Says that it is gone.
    pub fn lost(mut self) {
        let how = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => format!("wait4 failed: {error}"),
        };
        log::error!("no more hooks run: their helper process ended ({how}); start the agent again");
    }

    /// Asks for nothing more: the helper ends, and gives the programs that it runs two seconds to end.
    pub fn close(&mut self) {
        if let Some(line) = self.skipped.last_line(clock::now()) {
            log::info!("{line}");
        }
        self.writer.close();
    }

    /// Waits until the helper and what it runs have ended, at most for `patience`.
    pub fn finish(mut self, patience: Duration) {
        self.close();
        let end = clock::now() + patience;
        if let Err(error) = self.writer.finish(patience) {
            log::debug!("the helper that runs hooks did not take the last requests: {error}");
        }
        // One that does not end in time notices by itself that it is alone.
        while matches!(self.child.try_wait(), Ok(None)) && clock::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
