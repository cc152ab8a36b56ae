//! Check of the output that a command is going to write.

use std::{io, os::fd::AsFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, makedev};
use thiserror::Error;

use crate::cli::Command;

/// Reason why a command cannot write its output.
#[derive(Debug, Error)]
pub(super) enum StdoutError {
    /// A write would fail, and the standard library would report success.
    #[error(
        "standard output is not open for writing: nothing changed\nhint: give a standard output that can be written"
    )]
    ReadOnly,
    /// Standard output is closed, or discards all data.
    #[error(
        "standard output is closed, so the plan could not be shown: nothing changed\n\
         hint: give a standard output; to discard it, open /dev/null for writing only (>/dev/null)"
    )]
    Closed,
}

/// Checks the standard output of a command that prints. The standard library hides both errors: it opens /dev/null in
/// place of a closed descriptor (`sanitize_standard_fds` in library/std/src/sys/pal/unix/mod.rs), and treats `EBADF`
/// as success.
pub(super) fn check(command: &Command) -> anyhow::Result<()> {
    // The helpers of an agent print nothing, and a check calls `check_result` itself.
    if matches!(command, Command::Hooks(_) | Command::JvmDumps | Command::Peeks | Command::Check(_)) {
        return Ok(());
    }
    let destroys = matches!(command, Command::Kill(kill) if kill.yes);
    Ok(check_descriptor(io::stdout(), destroys)?)
}

/// Checks the standard output of a command that only prints a result.
pub(super) fn check_result() -> anyhow::Result<()> {
    Ok(check_descriptor(io::stdout(), false)?)
}

/// Checks a descriptor. Only a command that destroys is refused for a closed one: its replacement by the standard
/// library looks like `1<>/dev/null`, which is harmless elsewhere.
fn check_descriptor(stdout: impl AsFd, destroys: bool) -> Result<(), StdoutError> {
    let (Ok(flags), Ok(found)) = (fcntl_getfl(&stdout), fstat(&stdout)) else { return Err(StdoutError::ReadOnly) };
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == makedev(1, 3);
    let mode = flags & OFlags::RWMODE;
    if mode == OFlags::RDONLY {
        Err(StdoutError::ReadOnly)
    } else if mode == OFlags::RDWR && is_null && destroys {
        Err(StdoutError::Closed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_standard_output_that_cannot_be_written_is_refused() {
        let open = |path: &str, read, write| OpenOptions::new().read(read).write(write).open(path).unwrap();
        let exe = open("/proc/self/status", true, false);
        assert!(matches!(check_descriptor(&exe, false), Err(StdoutError::ReadOnly)));
        assert!(matches!(check_descriptor(open("/dev/null", true, false), true), Err(StdoutError::ReadOnly)));
        // The replacement of a closed descriptor by the standard library.
        let closed = open("/dev/null", true, true);
        assert!(matches!(check_descriptor(&closed, true), Err(StdoutError::Closed)));
        assert!(check_descriptor(&closed, false).is_ok());
        assert!(check_descriptor(open("/dev/null", false, true), true).is_ok());
        assert!(check_descriptor(open("/dev/zero", true, true), true).is_ok());
    }
}
