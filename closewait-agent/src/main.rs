//! The `closewait` command: parse, run, exit code.

use std::{env, process::ExitCode};

use closewait::{
    cli::{self, Command},
    cmd::{self, settings::ParseError},
    config, limits, logging,
};

fn main() -> ExitCode {
    limits::survive_file_size_limit();
    let misread = logging::init();
    let arguments = cli::options_behind_command(env::args_os().collect());
    let is_check = arguments.get(1).is_some_and(|command| command == "check");
    let code = match cmd::settings::parse(arguments) {
        Ok((command, configuration)) => {
            // An agent never waits for a reader of its log. Its helpers have the same environment: one warning is
            // enough.
            let is_helper = matches!(command, Command::Hooks(_) | Command::JvmDumps | Command::Peeks);
            if is_helper || matches!(command, Command::Run(_)) {
                logging::never_wait();
            }
            if let Some(misread) = misread.filter(|_| !is_helper) {
                log::warn!("{misread}");
            }
            cmd::run(&command, configuration)
        }
        Err(ParseError::Config(error)) => cmd::misconfigured(&error),
        Err(ParseError::Usage(help)) if !help.use_stderr() => cmd::help(&help),
        Err(ParseError::Usage(mut error)) => {
            config::hide_secrets(&mut error);
            logging::print(&error.render().to_string());
            // A monitoring system would take the exit code for a state.
            if is_check {
                ExitCode::from(cmd::check::misused(&error))
            } else {
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
        }
    };
    logging::flush();
    code
}
