//! Running one built binary as root, without building anything as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// The command that runs `program` as root: as it is for root, else through sudo, by its full path.
///
/// `why` names what needs root; an ordinary user sees it before sudo asks for a password.
pub(crate) fn command(program: &Path, args: &[OsString], why: &str) -> Result<Command> {
    let mut direct = Command::new(program);
    direct.args(args);
    if is_root() {
        return Ok(direct);
    }
    let Some(sudo) = exec::which("sudo") else {
        bail!("{why} needs root, and sudo is not installed; run this as root:\n  {}", exec::shown(&direct));
    };
    eprintln!("xtask: {why} needs root: sudo {}", exec::shown(&direct));
    let mut command = Command::new(sudo);
    command.arg("--").arg(program).args(args);
    Ok(command)
}

/// Becomes `program`, run as root. Signals reach it, and its exit code is what the caller sees.
pub(crate) fn become_program(program: &Path, args: &[OsString], why: &str) -> Result<()> {
    let mut command = command(program, args, why)?;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", exec::shown(&command)))
}

fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    let euid = unsafe { libc::geteuid() };
    euid == 0
}
