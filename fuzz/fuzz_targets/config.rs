//! Configuration files.
#![no_main]

use clap::CommandFactory as _;
use closewait::cli::Cli;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let run = Cli::command().find_subcommand("run").cloned().expect("the subcommand exists");
    closewait::config::fuzz(bytes, run);
});
