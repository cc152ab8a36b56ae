//! Limit on open files of this process (`RLIMIT_NOFILE`).

use std::{fs::File, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of descriptors that a command needs beyond those at its start. An agent has some 30 open, and a scan opens
/// more for a moment.
const NEEDED_DESCRIPTORS: u64 = 64;

/// Reason why a command cannot start: too few descriptors.
#[derive(Debug, thiserror::Error)]
#[error("opening {NEEDED_DESCRIPTORS} file descriptors failed after {opened}: {cause}\nhint: {hint}", hint = hint(.cause).unwrap_or("report this with the output of `closewait doctor`"))]
pub struct TooFewError {
    /// Number of descriptors that could be opened.
    opened: u64,
    /// Error of the system. Not a `source`: the text above contains it.
    cause: io::Error,
}

/// Returns what to do if an error means that a limit on open files is reached; `None` for other errors.
pub fn hint(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("raise the limit on open files (`ulimit -n 1024`; LimitNOFILE=1024 in the systemd unit)"),
        libc::ENFILE => {
            Some("the host has no more: look for the process that leaks them, or raise the sysctl fs.file-max")
        }
        _ => None,
    }
}

/// Limit at the start, if this process has raised it.
#[derive(Clone, Copy, Debug)]
pub struct OpenFiles {
    before: Option<Rlimit>,
}

impl OpenFiles {
    /// Raises the soft limit of this process to the hard one, and checks that there are enough descriptors.
    ///
    /// # Errors
    ///
    /// If there are too few.
    pub fn raise() -> Result<Self, TooFewError> {
        let before = getrlimit(Resource::Nofile);
        let raised = before.current != before.maximum && write(Rlimit { current: before.maximum, ..before });
        check()?;
        Ok(Self { before: raised.then_some(before) })
    }

    /// Runs `f` with the soft limit from the start of this process, so that a child of `f` inherits that one:
    /// programs with `select` cannot use descriptors above 1023. No other thread may open files meanwhile.
    pub fn as_before<T>(self, f: impl FnOnce() -> T) -> T {
        let Some(before) = self.before else { return f() };
        // Not fewer than the start of a child takes.
        let open = open().unwrap_or(0);
        let needed = before.current.map(|soft| soft.max(open + NEEDED_DESCRIPTORS));
        let soft = needed.map(|needed| before.maximum.map_or(needed, |hard| needed.min(hard)));
        let lowered = write(Rlimit { current: soft, ..before });
        let done = f();
        if lowered {
            let _raised: bool = write(Rlimit { current: before.maximum, ..before });
        }
        done
    }
}

/// Opens as many descriptors as a command needs, and closes them.
fn check() -> Result<(), TooFewError> {
    let failed = |opened| move |cause| TooFewError { opened, cause };
    // Any file will do: other errors of this one are not about descriptors.
    let first = match File::open("/") {
        Err(error) if hint(&error).is_none() => return Ok(()),
        first => first.map_err(failed(0))?,
    };
    let more = (1..NEEDED_DESCRIPTORS).map(|opened| first.try_clone().map_err(failed(opened)));
    more.collect::<Result<Vec<File>, _>>().map(drop)
}

/// Returns the number of open descriptors of this process.
fn open() -> Option<u64> {
    u64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// Sets the limit. Returns whether that succeeded.
fn write(limit: Rlimit) -> bool {
    setrlimit(Resource::Nofile, limit).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_too_few_descriptors_has_a_hint() {
        let text = |errno| TooFewError { opened: 3, cause: io::Error::from_raw_os_error(errno) }.to_string();
        let own = text(libc::EMFILE);
        let cause = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(own.starts_with(&format!("opening 64 file descriptors failed after 3: {cause}\n")), "{own}");
        assert!(own.contains("\nhint: raise the limit") && own.contains("LimitNOFILE="), "{own}");
        assert!(text(libc::ENFILE).contains("fs.file-max"));
        assert_eq!(hint(&io::Error::from_raw_os_error(libc::EACCES)), None);
    }

    #[test]
    fn this_process_has_enough_descriptors_and_all_are_closed_again() {
        let before = open();
        check().unwrap();
        assert!(before.is_some() && open() <= before.map(|before| before + 32), "tests beside this one open files");
    }
}
