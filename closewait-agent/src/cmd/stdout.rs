//! Whether anybody can see what a command prints.

use std::{
    fs::File,
    io::{self, Stdout},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
};

use thiserror::Error;

use crate::cli::Command;

/// Why nobody can see what a command prints.
#[derive(Debug, Error)]
pub(super) enum StdoutError {
    /// A write to it would fail, which the standard library takes for success.
    #[error(
        "standard output is not open for writing: nothing changed\nhint: give a standard output that can be written"
    )]
    ReadOnly,
    /// It is closed, or discards what is written.
    #[error(
        "standard output is closed, so nobody would see what is destroyed: nothing changed\n\
         hint: give a standard output; to discard it, open /dev/null for writing only (>/dev/null)"
    )]
    Closed,
}

/// Checks the standard output of a command that prints. The standard library hides both errors: it opens /dev/null in the
/// place of a closed descriptor (`sanitize_standard_fds` in library/std/src/sys/pal/unix/mod.rs), and takes `EBADF` for success.
pub(super) fn check(command: &Command) -> anyhow::Result<()> {
    // The helper of an agent prints nothing.
    if matches!(command, Command::Hooks(_)) {
        return Ok(());
    }
    let destroys = matches!(command, Command::Kill(kill) if kill.yes);
    Ok(check_descriptor(&io::stdout(), destroys)?)
}

/// Only a command that destroys is refused for a closed descriptor: the place that the standard library gives to it looks like
/// `1<>/dev/null`, which is harmless elsewhere.
fn check_descriptor(stdout: &impl AsStdout, destroys: bool) -> Result<(), StdoutError> {
    let Some((mode, is_null)) = stdout.about() else { return Err(StdoutError::ReadOnly) };
    match mode {
        libc::O_RDONLY => Err(StdoutError::ReadOnly),
        libc::O_RDWR if is_null && destroys => Err(StdoutError::Closed),
        _ => Ok(()),
    }
}

/// A descriptor that can be asked how it was opened.
trait AsStdout {
    /// The access mode, and whether it is /dev/null; `None` if the descriptor is closed.
    fn about(&self) -> Option<(libc::c_int, bool)>;
}

impl AsStdout for Stdout {
    fn about(&self) -> Option<(libc::c_int, bool)> {
        about(&File::from(self.as_fd().try_clone_to_owned().ok()?))
    }
}

impl AsStdout for File {
    fn about(&self) -> Option<(libc::c_int, bool)> {
        about(self)
    }
}

fn about(file: &File) -> Option<(libc::c_int, bool)> {
    // SAFETY: takes numbers only; the descriptor is open for as long as `file` lives.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    let found = file.metadata().ok()?;
    let is_null = found.file_type().is_char_device() && found.rdev() == libc::makedev(1, 3);
    (flags >= 0).then_some((flags & libc::O_ACCMODE, is_null))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_standard_output_that_nobody_can_write_is_refused() {
        let open = |path: &str, read, write| OpenOptions::new().read(read).write(write).open(path).unwrap();
        let exe = open("/proc/self/status", true, false);
        assert!(matches!(check_descriptor(&exe, false), Err(StdoutError::ReadOnly)));
        assert!(matches!(check_descriptor(&open("/dev/null", true, false), true), Err(StdoutError::ReadOnly)));
        // As the standard library opens it in the place of a closed one.
        let closed = open("/dev/null", true, true);
        assert!(matches!(check_descriptor(&closed, true), Err(StdoutError::Closed)));
        assert!(check_descriptor(&closed, false).is_ok());
        assert!(check_descriptor(&open("/dev/null", false, true), true).is_ok());
        assert!(check_descriptor(&open("/dev/zero", true, true), true).is_ok());
    }
}
