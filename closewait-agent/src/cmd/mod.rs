//! Subcommands, one file each, and their exit codes.

pub mod check;
mod completions;
mod config;
mod doctor;
#[cfg(test)]
mod documents;
mod explain;
mod hooks;
mod jvm_dumps;
mod kill;
mod list;
#[cfg(test)]
mod man;
mod peeks;
mod reload;
mod replay;
mod report;
mod run;
#[cfg(test)]
mod screens;
pub mod settings;
mod stacks;
mod status;
mod stdout;
mod tail;
mod top;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use self::{explain::ExplainError, kill::KillError, list::ListError, settings::Configuration};
use crate::{
    cli::{Color, Command, EventsArg, OutputArgs, OutputFormat},
    config::ConfigError,
    host::{error_text::with_hints, open_files::OpenFiles, plan::StartRefusal},
    otlp::OtlpSettingsError,
    sink::{
        Form, Sink,
        json::Json,
        text::{FoldedText, Text, TextStyle},
    },
    source::{pins::PinsError, program},
};

/// Exit codes, as in `sysexits.h`.
mod exit {
    /// Failed while running.
    pub(super) const FAILED: u8 = 1;
    /// The command line is invalid.
    pub(super) const USAGE: u8 = 2;
    /// The kernel lacks support.
    pub(super) const UNAVAILABLE: u8 = 69;
    /// A privilege is missing.
    pub(super) const DENIED: u8 = 77;
    /// The configuration is invalid.
    pub(super) const CONFIG: u8 = 78;
}

/// Executes a command, `run` with its configuration. Prints errors.
pub fn run(command: &Command, configuration: Option<Configuration>) -> ExitCode {
    if needs_kernel_program(command)
        && let Err(error) = program::check_built()
    {
        log::error!("{error}");
        return ExitCode::from(exit::FAILED);
    }
    let result = stdout::check(command).and_then(|()| match command {
        Command::Status(args) => with_open_files(|_| status::status(args).map(|()| 0)),
        Command::Top(top) => with_open_files(|_| top::top(top).map(|()| 0)),
        Command::Run(run) => with_open_files(|open_files| run::run(run, configuration, open_files).map(|()| 0)),
        Command::Config(config) => config::config(config),
        Command::List(list) => with_open_files(|_| list::list(list).map(|()| 0)),
        Command::Tail(tail) => tail::tail(tail).map(|()| 0),
        Command::Kill(kill) => with_open_files(|_| kill::kill(kill).map(|()| 0)),
        Command::Hooks(hooks) => hooks::run(hooks).map(|()| 0),
        Command::JvmDumps => jvm_dumps::run().map(|()| 0),
        Command::Peeks => peeks::run().map(|()| 0),
        Command::Report(report) => with_open_files(|_| report::report(report).map(|()| 0)),
        Command::Replay(replay) => replay::replay(replay).map(|()| 0),
        Command::Check(check) => Ok(check::check(check)),
        Command::Explain(explain) => explain::explain(explain).map(|()| 0),
        Command::Stacks(stacks) => stacks::stacks(stacks).map(|()| 0),
        Command::Completions(completions) => completions::completions(completions).map(|()| 0),
        Command::Doctor(doctor) => with_open_files(|_| {
            doctor::run(
                match doctor.shape.output {
                    OutputFormat::Text => doctor::DoctorFormat::Text,
                    OutputFormat::Json => doctor::DoctorFormat::Json,
                },
                &mut io::stdout().lock(),
            )
        }),
    });
    ended(result)
}

/// Prints a help text or the version, which the user has asked for. Returns the exit code.
pub fn help(text: &clap::Error) -> ExitCode {
    // clap writes colors only to a terminal.
    ended(text.print().context(NOT_WRITTEN).map(|()| 0))
}

/// Logs the error of a command. Returns the exit code; a reader that has gone is no failure.
fn ended(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = exit_code(&error);
            if let Some(code) = code {
                log::error!("{}", with_hints(&error));
                return ExitCode::from(code);
            }
            ExitCode::SUCCESS
        }
    }
}

/// Prints the problems of a configuration. Returns the exit code.
pub fn misconfigured(error: &ConfigError) -> ExitCode {
    for problem in &error.0 {
        log::error!("{problem}");
    }
    ExitCode::from(exit::CONFIG)
}

/// Whether a command loads kernel programs, or shows the state of an agent or of this host.
const fn needs_kernel_program(command: &Command) -> bool {
    match command {
        Command::Status(_) | Command::Run(_) | Command::List(_) | Command::Kill(_) | Command::Doctor(_) => true,
        Command::Report(report) => report.file.is_none(),
        Command::Top(top) => top.replay.is_none(),
        // A check has exit codes of its own for what is missing.
        Command::Replay(_)
        | Command::Hooks(_)
        | Command::JvmDumps
        | Command::Peeks
        | Command::Explain(_)
        | Command::Stacks(_)
        | Command::Check(_)
        | Command::Tail(_)
        | Command::Config(_)
        | Command::Completions(_) => false,
    }
}

/// Runs a command that opens many files. With too few descriptors it would fail later, or silently show less.
fn with_open_files(command: impl FnOnce(OpenFiles) -> anyhow::Result<u8>) -> anyhow::Result<u8> {
    command(OpenFiles::raise()?)
}

/// Returns the exit code of an error; `None` if the reader of standard output has gone, which is no error.
fn exit_code(error: &anyhow::Error) -> Option<u8> {
    for cause in error.chain() {
        if let Some(refusal) = cause.downcast_ref::<StartRefusal>() {
            return Some(refusal.exit_code());
        }
        if let Some(error) = cause.downcast_ref::<KillError>() {
            return Some(error.exit_code());
        }
        if cause.is::<ExplainError>() || cause.is::<ListError>() {
            return Some(exit::USAGE);
        }
        if cause.is::<ConfigError>() || cause.is::<OtlpSettingsError>() {
            return Some(exit::CONFIG);
        }
        if let Some(PinsError::Elsewhere(_) | PinsError::NotOurs { .. }) = cause.downcast_ref::<PinsError>() {
            return Some(exit::CONFIG);
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return None;
        }
    }
    Some(exit::FAILED)
}

/// Returns the sink of the findings.
fn sink(shape: OutputArgs, events: EventsArg, style: TextStyle) -> Box<dyn Sink> {
    let incidents_only = events == EventsArg::Incidents;
    match shape.output {
        OutputFormat::Text if incidents_only => Box::new(FoldedText::new(style)),
        OutputFormat::Text => Box::new(Text::new(style)),
        OutputFormat::Json => Box::new(Json { incidents_only }),
    }
}

/// Context of an error of standard output.
const NOT_WRITTEN: &str = "writing standard output failed";

/// Writes an answer to standard output.
fn print(answer: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(answer).and_then(|()| stdout.flush()).context(NOT_WRITTEN)
}

impl From<OutputFormat> for Form {
    fn from(output: OutputFormat) -> Self {
        match output {
            OutputFormat::Text => Self::Text,
            OutputFormat::Json => Self::Json,
        }
    }
}

/// Whether to color text.
fn color(shape: OutputArgs) -> bool {
    is_colored(shape.color)
}

/// Whether this choice means color on standard output.
fn is_colored(choice: Color) -> bool {
    match choice {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
            io::stdout().is_terminal() && !no_color && !dumb
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Cli;
    use crate::hooks::HookProgramError;
    use crate::host::{netns::NetnsError, pods::PodsError, tracefs::TracefsError};

    #[test]
    fn commands_that_only_read_a_recording_need_no_kernel_program() {
        let needs = |arguments: &str| {
            let cli = Cli::try_parse_from(arguments.split(' ')).expect("a command line");
            needs_kernel_program(&cli.into_command())
        };
        for arguments in [
            "--alone",
            "status",
            "run",
            "run --unpin",
            "list",
            "list --alone",
            "kill --port 80",
            "report",
            "doctor",
            "top",
        ] {
            assert!(needs(&format!("closewait {arguments}")), "{arguments}");
        }
        for arguments in [
            "replay FILE",
            "report FILE",
            "top --replay FILE",
            "hooks",
            "jvm-dumps",
            "peeks",
            "explain",
            "explain hung",
            "completions zsh",
        ] {
            assert!(!needs(&format!("closewait {arguments}")), "{arguments}");
        }
    }

    #[test]
    fn a_suggested_command_has_the_socket_if_it_has_that_flag() {
        for command in Cli::command().get_subcommands() {
            // No next step has these.
            if matches!(command.get_name(), "run" | "config" | "completions" | "man" | "hooks" | "jvm-dumps" | "peeks")
            {
                continue;
            }
            let has_flag = command.get_arguments().any(|argument| argument.get_long() == Some("socket"));
            let text = format!("closewait {}", command.get_name());
            let suggested = crate::sink::command::with_socket(&text, Some(Path::new("/a")));
            assert_eq!(suggested.ends_with(" --socket /a"), has_flag, "{suggested}");
        }
    }

    #[test]
    fn a_cause_is_printed_once() {
        let cause = || io::Error::from_raw_os_error(libc::EPERM);
        let path = || PathBuf::from("/x");
        let errors: [anyhow::Error; 9] = [
            NetnsError::EnterDenied { inode: 1, error: cause() }.into(),
            NetnsError::Enter { inode: 1, error: cause() }.into(),
            NetnsError::LinkDenied { path: path(), error: cause() }.into(),
            NetnsError::List { error: cause() }.into(),
            NetnsError::Open { path: path(), error: cause() }.into(),
            TracefsError::MountDenied { call: "mount", error: cause() }.into(),
            PodsError { path: path(), error: cause() }.into(),
            HookProgramError::NotExecutable { path: path(), error: cause() }.into(),
            HookProgramError::Missing { call: "stat", path: path(), error: cause() }.into(),
        ];
        for error in errors {
            let text = with_hints(&error);
            assert_eq!(text.matches("Operation not permitted").count(), 1, "{text}");
        }
    }
}
