//! Result of `closewait check -- CMD`: the sockets that the processes of a command left in CLOSE_WAIT.

use std::{fmt::Write as _, io, time::Duration};

use serde::Serialize;

use super::{ProbeState, count, line};
#[cfg(test)]
use crate::sink::document::*;
use crate::sink::{
    Form, json,
    schema::{SCHEMA_VERSION, TaskObject, VerdictObject, seconds},
};
use closewait_engine::{
    model::{Class, Task, Verdict},
    text::duration,
};

/// Sockets of one process and one port or remote endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Owner of the sockets, or of their listener while no program has accepted them.
    pub owner: Task,
    /// Name of the owner for people.
    pub name: String,
    /// Port or remote endpoint, with the word before it.
    pub place: String,
    /// Number of sockets.
    pub count: u64,
    /// Longest dwell time.
    pub longest: Duration,
    /// End of the sockets, or the lack of it.
    pub fate: Fate,
}

/// End of a socket that was left in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is still open; with the diagnosis of the oldest socket.
    Open(Box<Verdict>),
    /// The kernel closed it, because its process ended.
    ProcessEnded,
    /// The program closed it, after the time that the user allows.
    ClosedLate,
}

impl Fate {
    /// Returns the name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::ProcessEnded => "process_ended",
            Self::ClosedLate => "closed_late",
        }
    }

    fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Open(verdict) => Some(verdict),
            Self::ProcessEnded | Self::ClosedLate => None,
        }
    }
}

/// Way in which a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// By itself, with this exit code.
    Exited(u8),
    /// By a signal of this number.
    Signaled(u8),
}

impl CommandEnd {
    /// Returns the exit code as shells report it: 128 and the number of the signal.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Result for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandResult {
    /// End of the command.
    pub end: CommandEnd,
    /// Time that a socket had to stay in CLOSE_WAIT to count.
    pub grace: Duration,
    /// Time after which a socket counted, even if its program closed it; `None` without such a limit.
    pub stuck_after: Option<Duration>,
    /// Sockets, the largest group first.
    pub left: Vec<LeftBehind>,
    /// Number of further sockets, in groups over the limit.
    pub more: u64,
    /// Reason why sockets may be missing from `left`, if there is one.
    pub gap: Option<String>,
}

impl CommandResult {
    /// Returns the number of sockets that were left behind.
    pub fn sockets(&self) -> u64 {
        self.left.iter().map(|group| group.count).sum::<u64>() + self.more
    }

    /// Returns the state of the sockets, whatever the exit code of the command.
    pub fn state(&self) -> ProbeState {
        match (self.sockets(), &self.gap) {
            (0, None) => ProbeState::Ok,
            (0, Some(_)) => ProbeState::Unknown,
            (_, _) => ProbeState::Critical,
        }
    }

    /// Returns the exit code of `closewait`: that of a command that has failed, else that of the state.
    pub fn exit_code(&self) -> u8 {
        match self.end.exit_code() {
            0 => self.state().exit_code(),
            failed => failed,
        }
    }

    /// Writes the result.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as JSON.
    pub fn render(&self, form: Form, to: &mut Vec<u8>) -> io::Result<()> {
        match form {
            Form::Json => json::write_line(&ResultObject::new(self), to),
            Form::Text => {
                to.extend_from_slice(self.lines().as_bytes());
                Ok(())
            }
        }
    }

    fn text(&self) -> String {
        let sockets = self.sockets();
        let mut text = match sockets {
            0 => "the command left no socket in CLOSE_WAIT".to_owned(),
            sockets => format!("the command left {} in CLOSE_WAIT", count(sockets, "socket")),
        };
        if let Some(gap) = &self.gap {
            let _infallible: std::fmt::Result = write!(text, "; {gap}");
        }
        match self.end {
            CommandEnd::Exited(0) => {}
            CommandEnd::Exited(code) => {
                let _infallible: std::fmt::Result = write!(text, "; its exit code is {code}");
            }
            CommandEnd::Signaled(signal) => {
                let _infallible: std::fmt::Result = write!(text, "; signal {signal} ended it");
            }
        }
        text
    }

    fn lines(&self) -> String {
        let mut lines = line(self.state(), &self.text());
        lines.push('\n');
        for LeftBehind { owner: _, name, place, count: sockets, longest, fate } in &self.left {
            let (sockets, longest) = (count(*sockets, "socket"), duration(*longest));
            let _infallible: std::fmt::Result = write!(lines, "  {sockets} of {name} {place}, for up to {longest}, ");
            lines.push_str(match fate {
                Fate::Open(_) => "still open",
                Fate::ProcessEnded => "until it ended",
                Fate::ClosedLate => "until it closed them",
            });
            // Soon after the entry there is mostly no cause to name.
            let verdict = fate.verdict().filter(|verdict| !matches!(verdict.class, Class::Transient | Class::Unknown));
            if let Some(verdict) = verdict {
                let (class, certainty) = (verdict.class.name(), verdict.certainty.name());
                let _infallible: std::fmt::Result = write!(lines, ": {class}, {certainty}");
                if let Some(command) = &verdict.next.command {
                    let _infallible: std::fmt::Result = write!(lines, "\n    {command}");
                }
            }
            lines.push('\n');
        }
        if self.more > 0 {
            let _infallible: std::fmt::Result =
                writeln!(lines, "  {} of other processes and ports", count(self.more, "socket"));
        }
        lines
    }
}

/// Result for a command.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct ResultObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// State of the sockets, whatever the exit code of the command.
    #[cfg_attr(test, schemars(with = "ProbeStateName"))]
    state: String,
    /// Exit code of `closewait`: that of a command that failed, else that of `state`.
    exit_code: u8,
    /// Result, as text for people.
    text: String,
    /// Exit code of the command; `null` if a signal ended it.
    command_exit_code: Option<u8>,
    /// Number of the signal that ended the command; `null` if it exited.
    command_signal: Option<u8>,
    /// Time that a socket had to stay in CLOSE_WAIT to count (`--grace`), in seconds.
    grace_seconds: f64,
    /// Time after which a socket counted even if its program closed it (`--stuck-after`), in seconds; `null` without
    /// the option.
    stuck_after_seconds: Option<f64>,
    /// Number of sockets that were left behind.
    sockets: u64,
    /// Sockets by process and port or remote endpoint, the largest group first.
    left_behind: Vec<LeftBehindObject<'a>>,
    /// Number of further sockets, which are in none of the groups.
    more_sockets: u64,
    /// Reason why sockets may be missing, as text for people; `null` if there is none.
    gap: Option<&'a str>,
}

/// Sockets of one process and one port or remote endpoint.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct LeftBehindObject<'a> {
    /// Owner of the sockets, or of their listener while no program has accepted them.
    process: TaskObject<'a>,
    /// Name of the owner for people.
    service: &'a str,
    /// Port or remote endpoint, as text for people.
    place: &'a str,
    /// Number of sockets.
    count: u64,
    /// Longest dwell time, in seconds.
    longest_seconds: f64,
    /// End of the sockets.
    #[cfg_attr(test, schemars(with = "FateName"))]
    fate: &'static str,
    /// Diagnosis of the oldest socket; `null` if `fate` is not `open`.
    verdict: Option<VerdictObject<'a>>,
}

impl<'a> ResultObject<'a> {
    fn new(result: &'a CommandResult) -> Self {
        let (command_exit_code, command_signal) = match result.end {
            CommandEnd::Exited(code) => (Some(code), None),
            CommandEnd::Signaled(signal) => (None, Some(signal)),
        };
        let left_behind = result.left.iter().map(|group| LeftBehindObject {
            process: (&group.owner).into(),
            service: &group.name,
            place: &group.place,
            count: group.count,
            longest_seconds: seconds(group.longest),
            fate: group.fate.name(),
            verdict: group.fate.verdict().map(Into::into),
        });
        Self {
            schema_version: SCHEMA_VERSION,
            state: result.state().name().to_lowercase(),
            exit_code: result.exit_code(),
            text: result.text(),
            command_exit_code,
            command_signal,
            grace_seconds: seconds(result.grace),
            stuck_after_seconds: result.stuck_after.map(seconds),
            sockets: result.sockets(),
            left_behind: left_behind.collect(),
            more_sockets: result.more,
            gap: result.gap.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use closewait_engine::{model::Certainty, testing::verdict, text::Comm};

    fn result(end: CommandEnd, left: Vec<LeftBehind>) -> CommandResult {
        CommandResult { end, grace: Duration::from_secs(2), stuck_after: None, left, more: 0, gap: None }
    }

    fn group(pid: u32, count: u64) -> LeftBehind {
        let owner = Task { pid, comm: Comm::from_name(b"srv") };
        let (name, place) = (format!("srv[{pid}]"), "on port 80".to_owned());
        LeftBehind { owner, name, place, count, longest: Duration::from_millis(3100), fate: Fate::ProcessEnded }
    }

    fn text(result: &CommandResult) -> String {
        let mut text = Vec::new();
        result.render(Form::Text, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_command_that_fails_keeps_its_code_and_another_gets_that_of_its_sockets() {
        let clean = result(CommandEnd::Exited(0), Vec::new());
        assert_eq!(
            (clean.exit_code(), text(&clean)),
            (0, "CLOSEWAIT OK - the command left no socket in CLOSE_WAIT\n".to_owned())
        );
        let leaks = result(CommandEnd::Exited(0), vec![group(7, 2), group(8, 1)]);
        assert_eq!(leaks.exit_code(), 2);
        assert_eq!(
            text(&leaks),
            "CLOSEWAIT CRITICAL - the command left 3 sockets in CLOSE_WAIT\n  \
             2 sockets of srv[7] on port 80, for up to 3.1s, until it ended\n  \
             1 socket of srv[8] on port 80, for up to 3.1s, until it ended\n"
        );
        let fails = result(CommandEnd::Exited(7), vec![group(7, 2)]);
        assert_eq!(fails.exit_code(), 7);
        assert!(
            text(&fails)
                .starts_with("CLOSEWAIT CRITICAL - the command left 2 sockets in CLOSE_WAIT; its exit code is 7")
        );
        assert_eq!(result(CommandEnd::Signaled(15), Vec::new()).exit_code(), 143);
    }

    #[test]
    fn a_running_process_has_a_cause_if_it_is_known() {
        let open = |class| {
            let fate = Fate::Open(Box::new(verdict(class, Certainty::Low)));
            text(&result(CommandEnd::Exited(0), vec![LeftBehind { fate, ..group(7, 2) }]))
        };
        assert!(open(Class::Unknown).ends_with("\n  2 sockets of srv[7] on port 80, for up to 3.1s, still open\n"));
        assert!(open(Class::Hung).contains("for up to 3.1s, still open: hung, low\n"), "{}", open(Class::Hung));
    }

    #[test]
    fn a_gap_makes_a_clean_result_unknown_and_no_leak_clean() {
        let gap = Some("3 records were lost".to_owned());
        let clean = CommandResult { gap: gap.clone(), ..result(CommandEnd::Exited(0), Vec::new()) };
        assert_eq!((clean.state(), clean.exit_code()), (ProbeState::Unknown, 3));
        let leaks = CommandResult { gap, ..result(CommandEnd::Exited(0), vec![group(7, 1)]) };
        assert_eq!(leaks.exit_code(), 2);
    }

    #[test]
    fn json_has_the_same_facts() {
        let mut json = Vec::new();
        result(CommandEnd::Signaled(9), vec![group(7, 2)]).render(Form::Json, &mut json).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
        tests_support::schema::conforms("check-command", &object);
        assert_eq!((&object["state"], &object["exit_code"]), (&"critical".into(), &137.into()));
        assert_eq!((&object["command_exit_code"], &object["command_signal"]), (&serde_json::Value::Null, &9.into()));
        assert_eq!((&object["sockets"], &object["left_behind"][0]["process"]["pid"]), (&2.into(), &7.into()));
        assert_eq!(object["left_behind"][0]["fate"], "process_ended");
    }
}
