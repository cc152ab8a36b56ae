//! Failures to write a recording, and what the user can do about each.

use std::io::{self, ErrorKind};

use super::FileError;

/// Returns the error of a write, with a hint.
pub(super) fn write_failed(error: io::Error) -> anyhow::Error {
    // Some errors have a hint of their own.
    let context = match error.get_ref() {
        Some(inner) if inner.is::<FileError>() => "its directory cannot be opened again".to_owned(),
        _ => format!("write failed\nhint: {}", hint(error.kind())),
    };
    anyhow::Error::new(error).context(context)
}

/// Actions for the user, by the kinds of errors.
const HINTS: [(&[ErrorKind], &str); 6] = [
    (
        &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded],
        "make room on its disk, or give less to --retain or --record-max",
    ),
    (&[ErrorKind::NotFound], "leave the files of a running agent in their place; --retain limits their size and age"),
    (&[ErrorKind::PermissionDenied], "let the user of the agent write there (chmod u+w, chown), or name another place"),
    (
        &[ErrorKind::ReadOnlyFilesystem],
        "mount its file system writable, or name another place; a systemd unit needs it in ReadWritePaths=",
    ),
    (&[ErrorKind::FileTooLarge], "raise the limit on file sizes (ulimit -f, LimitFSIZE=)"),
    (&[ErrorKind::WouldBlock], "record to a local disk that keeps up"),
];

/// Returns what the user can do about an error.
fn hint(kind: ErrorKind) -> &'static str {
    let known = HINTS.iter().find(|(kinds, _)| kinds.contains(&kind));
    known.map_or("check its disk and its file system: the kernel's log (dmesg) may name the fault", |(_, hint)| hint)
}

/// Returns the error of opening a directory again as one of a write.
pub(super) fn of_folder(error: FileError) -> io::Error {
    let kind = if let FileError::Call { error, .. } = &error { error.kind() } else { ErrorKind::Other };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::error_text::with_hints;

    fn text(code: i32) -> String {
        with_hints(&write_failed(io::Error::from_raw_os_error(code)))
    }

    #[test]
    fn each_failure_has_its_cause_once_and_one_fitting_hint() {
        for (code, fix) in [
            (libc::ENOSPC, "make room"),
            (libc::EDQUOT, "make room"),
            (libc::ENOENT, "in their place"),
            (libc::EACCES, "let the user of the agent write"),
            (libc::EROFS, "ReadWritePaths="),
            (libc::EFBIG, "ulimit -f"),
            (libc::EIO, "dmesg"),
        ] {
            let (text, cause) = (text(code), io::Error::from_raw_os_error(code).to_string());
            let lines: Vec<_> = text.lines().collect();
            assert!(lines.len() == 2 && lines[0].starts_with("write failed: "), "{text}");
            assert_eq!(lines[0].matches(&cause).count(), 1, "{text}");
            assert!(lines[1].starts_with("hint: ") && lines[1].contains(fix), "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_opened_again_keeps_its_own_hint() {
        let text = with_hints(&write_failed(of_folder(FileError::WritableByOthers)));
        assert!(text.starts_with("its directory cannot be opened again: other users may write to it"), "{text}");
        assert_eq!(text.matches("\nhint: ").count(), 1, "{text}");
    }
}
