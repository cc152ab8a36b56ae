//! Root, for one built binary and for packages. Nothing is built as root.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _};

use crate::prelude::*;

/// The command that runs `program` as root: directly for root, else through sudo, by its full path.
///
/// `why` names what needs root; an ordinary user sees it before sudo asks for a password.
pub(crate) fn command(program: &Path, args: &[OsString], why: &str) -> Result<Command> {
    let mut direct = Command::new(program);
    direct.args(args);
    if rustix::process::geteuid().is_root() {
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

/// Becomes this program again, as root: the same task with the built agent in `--binary`.
pub(crate) fn again(workspace: &Workspace, why: &str) -> Result<()> {
    let binary = ["--binary".into(), workspace.closewait().into()];
    let args: Vec<OsString> = env::args_os().skip(1).chain(binary).collect();
    become_program(&exec::this()?, &args, why)
}

/// Installs the packages of a group of `.ci/packages` that are missing.
pub(crate) fn install(workspace: &Workspace, group: &str) -> Result<()> {
    exec::run(Command::new(workspace.root.join(".ci/packages")).arg(group))
}
