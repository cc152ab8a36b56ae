//! `cargo xtask setup`: what the build of the kernel program needs beyond a stable toolchain.
//!
//! Two things, both under `<target>/setup`: the standard library's source, which cargo wants to find inside the
//! toolchain, and a bpf-linker that uses the compiler's own LLVM.

mod bpf_linker;
mod package;
mod std_source;
mod toolchain;

use std::fs::File;

use toolchain::Toolchain;

use crate::prelude::*;

/// Brings what is missing; prints a line for each step and nothing when there is none.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let dir = workspace.setup_dir();
    if std_source::is_present(&toolchain) && bpf_linker::is_present(&dir, &toolchain) {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    // Two tasks in one target folder would unpack over each other. The lock ends with the file handle.
    let lock = File::create(dir.join("lock")).context("cannot create the lock in the set-up's folder")?;
    lock.lock().context("cannot lock the set-up's folder; does its file system support locks?")?;
    if !std_source::is_present(&toolchain) {
        std_source::bring(&dir, &toolchain)?;
    }
    if !bpf_linker::is_present(&dir, &toolchain) {
        bpf_linker::bring(&dir, &toolchain)?;
    }
    Ok(())
}

/// Runs one step and says in one line what it was and how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = exec::now();
    let result = work();
    let outcome = if result.is_ok() { "" } else { ", without success" };
    eprintln!("setup: {what} ({:.1} s{outcome})", start.elapsed().as_secs_f64());
    result
}
