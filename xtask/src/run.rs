//! `cargo xtask run`.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{build, exec::Workspace, root};

/// First arguments that closewait itself understands; anything else is meant for `closewait run`.
const OWN: [&str; 11] = ["run", "list", "top", "tail", "replay", "report", "kill", "doctor", "help", "--version", "-V"];

#[derive(Args)]
pub(crate) struct Options {
    /// Arguments of `closewait run`, or a closewait subcommand and its arguments
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Builds as the calling user and becomes the binary, as root.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    build::release(workspace)?;
    let args = closewait_args(&options.args);
    root::become_program(&workspace.closewait(), &args, "loading a program into the kernel")
}

fn closewait_args(args: &[OsString]) -> Vec<OsString> {
    let own = args.first().is_some_and(|first| OWN.iter().any(|name| first == name));
    let run = (!own).then(|| OsString::from("run"));
    run.into_iter().chain(args.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn arguments_are_those_of_closewait_run() {
        assert_eq!(closewait_args(&words("--for 10s --output json")), words("run --for 10s --output json"));
        assert_eq!(closewait_args(&[]), words("run"));
    }

    #[test]
    fn a_subcommand_of_closewait_stays_as_it_is() {
        assert_eq!(closewait_args(&words("list --by process")), words("list --by process"));
        assert_eq!(closewait_args(&words("run --for 1s")), words("run --for 1s"));
        assert_eq!(closewait_args(&words("--version")), words("--version"));
    }
}
