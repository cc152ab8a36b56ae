//! The `closewait` command: parse, run, exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use closewait::{cli::Cli, cmd};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("CLOSEWAIT_LOG", "info"))
        .format(|to, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(to, "closewait: {level}: {}", record.args())
        })
        .init();
    match Cli::try_parse() {
        Ok(cli) => cmd::run(&cli),
        Err(error) => {
            // Help and version are asked for; they go to standard output, and a reader that has gone is no failure.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _gone: io::Result<()> = error.print();
            ExitCode::from(code)
        }
    }
}
