//! Runs a user's programs on findings.
//!
//! A running agent has dropped the permission to run programs ([`crate::host::confine`]). So before that it starts a
//! helper: this program again, as `closewait hooks`. The helper keeps the privileges that the agent was started with,
//! and receives requests through a pipe. It ends with the agent, for any reason.
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

use std::{io, process::Child, time::Duration};

use anyhow::Context as _;

use self::limits::{Skipped, StartLimiter};
pub use self::{
    event::{HookEnvironment, HookEvent, HookEventKind, HookFilter, HookGroup},
    helper::serve,
    program::{HookProgramError, HookPrograms},
};
use crate::{
    clock, host,
    sink::{Backlog, NumberedEvent, Writer},
};
use closewait_engine::{model::Finding, time::BootTime};

/// Maximum size of requests that wait for the helper, bytes.
const BACKLOG: usize = 8 << 20;

/// Programs that hooks run, and their limits.
#[derive(Clone, Debug)]
pub struct HookConfig {
    /// Programs by event.
    pub programs: HookPrograms,
    /// Time limit of a program.
    pub timeout: Duration,
    /// Minimum interval between two starts of a group.
    pub every: Duration,
    /// Selection of the events that run a program.
    pub filter: HookFilter,
}

/// Helper that has started, without a connection yet.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    requests: io::PipeWriter,
    config: HookConfig,
}

impl Helper {
    /// Starts the helper; `None` if there is no program to run. The helper has the current privileges of this
    /// process.
    ///
    /// # Errors
    ///
    /// If the helper cannot be started.
    pub fn start(config: HookConfig) -> anyhow::Result<Option<Self>> {
        let HookPrograms { stuck, pileup } = &config.programs;
        if stuck.is_none() && pileup.is_none() {
            return Ok(None);
        }
        let (from, requests) = io::pipe().context("pipe2 failed\nhint: check the limit on open files (ulimit -n)")?;
        let child = host::helper::start("the hook helper", from, |command| {
            command.arg("hooks").arg("--timeout").arg(humantime::format_duration(config.timeout).to_string());
            for (flag, program) in [("--on-stuck", stuck), ("--on-pileup", pileup)] {
                if let Some(program) = program {
                    command.arg(flag).arg(program);
                }
            }
        })?;
        Ok(Some(Self { child, requests, config }))
    }

    /// Connects to the helper, on a new thread: the agent has to be confined first.
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
            filter: config.filter,
        })
    }
}

/// Connection to the helper.
#[derive(Debug)]
pub struct Hooks {
    child: Child,
    writer: Writer,
    limits: StartLimiter,
    skipped: Skipped,
    programs: HookPrograms,
    filter: HookFilter,
}

impl Hooks {
    /// Requests a program if `finding`, which became this event, starts a hook. The program gets the same line as the
    /// event stream.
    pub fn finding(&mut self, finding: &Finding, event: &NumberedEvent<'_>, now: BootTime) {
        let runs = |group: &HookGroup| self.programs.of(group.kind).is_some() && self.filter.passes(finding);
        let group = event::group(finding).filter(runs);
        match group.map(|group| self.limits.start(&group, now).map(|()| group)) {
            None => {}
            Some(Err(skip)) => self.skipped.skip(skip),
            Some(Ok(group)) => {
                if let Err(error) = self.ask(group, finding, event) {
                    log::error!(
                        "a hook is not run: writing its event as JSON failed: {error}\n\
                         hint: report this with the output of `closewait doctor`"
                    );
                }
            }
        }
        if let Some(line) = self.skipped.line(now) {
            log::info!("{line}");
        }
    }

    /// Changes the selection of the events that run a program, and the minimum interval between two starts of a group.
    pub fn change(&mut self, filter: HookFilter, every: Duration) {
        self.filter = filter;
        self.limits.set_every(every);
        self.skipped.set_every(every);
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

    /// Returns when the helper has ended.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Logs that the helper has ended.
    pub fn lost(mut self) {
        let how = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => format!("wait4 failed: {error}"),
        };
        log::error!("no more hooks run: their helper process ended ({how})\nhint: restart the agent");
    }

    /// Closes the connection: the helper ends, after it has given its programs two seconds to end.
    pub fn close(&mut self) {
        if let Some(line) = self.skipped.last_line(clock::now()) {
            log::info!("{line}");
        }
        self.writer.close();
    }

    /// Waits until the helper and its programs have ended, at most for `patience`.
    pub fn finish(mut self, patience: Duration) {
        self.close();
        let end = clock::now() + patience;
        if let Err(error) = self.writer.finish(patience) {
            log::debug!("the helper that runs hooks did not take the last requests: {error}");
        }
        // A helper that does not end in time notices by itself that the agent is gone.
        while matches!(self.child.try_wait(), Ok(None)) && clock::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
