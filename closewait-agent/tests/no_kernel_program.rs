//! A binary without its kernel program, as `cargo build` makes it on a machine without the tools for it.

#![cfg(not(kernel_program))]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

const REFUSAL: &str = "\
closewait: error: this binary was built without its kernel program
hint: build it again, in a clone of the repository:
    cargo xtask build
";

fn closewait(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_closewait"));
    command.args(arguments).env_remove("CLOSEWAIT_LOG").stdin(Stdio::null()).output().expect("closewait")
}

fn recording() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/nginx.recording");
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn every_command_that_needs_the_kernel_says_so_and_nothing_else() {
    for arguments in [
        &["run", "--for", "1s"][..],
        &["run", "--output", "json"],
        &["list"],
        &["list", "--alone", "--output", "json"],
        &["report"],
        &["kill", "--port", "1"],
        &["doctor"],
        &["doctor", "--output", "json"],
    ] {
        let output = closewait(arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.status.code(), &*stdout, &*stderr), (Some(1), "", REFUSAL), "{arguments:?}");
    }
}

#[test]
fn commands_that_need_no_kernel_work() {
    let recording = recording();
    for arguments in
        [&["--help"][..], &["run", "--help"], &["--version"], &["replay", &recording], &["report", &recording]]
    {
        let output = closewait(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("kernel program"), "{arguments:?}: {stderr}");
    }
}
