//! `cargo xtask build`, `cargo xtask run` and `cargo xtask clippy`.

use std::ffi::OsString;

use crate::prelude::*;
use crate::{dist, root, setup, test::PACKAGES};

/// Profile of `cargo xtask run`, in Cargo.toml.
const QUICK: &str = "quick";

#[derive(Args)]
pub(crate) struct Run {
    /// Arguments of `closewait run`, or a closewait subcommand and its arguments
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Builds the release binary and prints its path.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    release(workspace)?;
    println!("{}", workspace.closewait().display());
    Ok(())
}

/// Builds as the calling user and becomes the binary, as root.
pub(crate) fn run(workspace: &Workspace, options: &Run) -> Result<()> {
    let binary = with_profile(workspace, QUICK)?;
    let args = closewait_args(&options.args);
    root::become_program(&binary, &args, "loading a program into the kernel")
}

/// Lints the host crates, also for the other architecture, then the kernel program.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    // `--all-targets` omits targets with `test = false`, which are the kernel tests and the scenarios, and ignores `--test`.
    for targets in [&["--all-targets"][..], &["--test", "*"]] {
        exec::run(workspace.cargo("clippy").args(PACKAGES).args(targets).args(["--", "-D", "warnings"]))?;
    }
    // Other system calls, and another C library: code for them alone, and types that differ.
    let target = dist::Arch::Aarch64.target();
    setup::toolchain()?.add_target(target)?;
    exec::run(
        workspace
            .cargo("clippy")
            .args(["--package", "closewait-agent", "--package", "closewait-engine", "--package", "tests-support"])
            .args(["--all-targets", "--target", target, "--", "-D", "warnings"]),
    )?;
    exec::run(
        workspace
            .cargo("clippy")
            .args(["--package", "closewait-ebpf", "--target", "bpfel-unknown-none"])
            // No toolchain ships `core` for this target, and a stable compiler takes -Z only with RUSTC_BOOTSTRAP.
            // Build scripts of host crates probe that variable: in the shared target folder, every switch between the two
            // commands would build those crates again.
            .args(["-Z", "build-std=core"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", workspace.target.join("ebpf-clippy"))
            .args(["--", "-D", "warnings"]),
    )
}

/// Builds the release binary; stdout stays free for the binary's own output.
pub(crate) fn release(workspace: &Workspace) -> Result<()> {
    with_profile(workspace, "release").map(drop)
}

/// Builds the binary with a profile of Cargo.toml, and returns its path.
fn with_profile(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    setup::run(workspace)?;
    exec::run(workspace.cargo("build").args([
        "--profile",
        profile,
        "--package",
        "closewait-agent",
        "--bin",
        "closewait",
    ]))?;
    let binary = workspace.target.join(profile).join("closewait");
    if !binary.is_file() {
        // A `build.target` in the user's cargo configuration moves the output into a folder of that target's name.
        let shown = binary.display();
        bail!("cargo left no {shown}; build without `build.target` or `--target` in cargo's configuration");
    }
    Ok(binary)
}

/// Builds the binary that the tests use, and returns its path.
pub(crate) fn debug(workspace: &Workspace) -> Result<PathBuf> {
    setup::run(workspace)?;
    exec::run(workspace.cargo("build").args(PACKAGES).args(["--bin", "closewait"]))?;
    Ok(workspace.target.join("debug/closewait"))
}

/// Builds one of the agent's examples as a release, in the folder `examples` beside the binary.
pub(crate) fn example(workspace: &Workspace, name: &str) -> Result<()> {
    exec::run(workspace.cargo("build").args(["--release", "--package", "closewait-agent", "--example", name]))
}

/// Puts `run` before arguments that begin with an option.
fn closewait_args(args: &[OsString]) -> Vec<OsString> {
    let complete = args.first().is_some_and(|first| !first.as_encoded_bytes().starts_with(b"-"));
    let run = (!complete).then(|| OsString::from("run"));
    run.into_iter().chain(args.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_run_unless_they_begin_with_a_subcommand() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        for (given, wanted) in [
            ("--for 10s --output json", "run --for 10s --output json"),
            ("", "run"),
            ("list --by process", "list --by process"),
            ("run --for 1s", "run --for 1s"),
        ] {
            assert_eq!(closewait_args(&words(given)), words(wanted));
        }
    }
}
