//! tracefs, for the classic tracepoint alone: the number of the tracepoint and the offsets of its fields.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use closewait_common::{
    config::{MISSING, TraceLayout},
    names,
};
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::on_fresh_thread;

/// Reason why tracefs or a file in it is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum TracefsError {
    /// tracefs is not mounted, and this process may not mount it.
    #[error(
        "tracefs is not mounted and {call} was refused: {error}; run `mount -t tracefs tracefs /sys/kernel/tracing`, or grant CAP_SYS_ADMIN"
    )]
    MountDenied {
        /// The call that was refused.
        call: &'static str,
        /// Error of the system.
        error: io::Error,
    },
    /// tracefs is not mounted, and mounting it failed.
    #[error(
        "tracefs is not mounted and {call} failed: {error}; this kernel may be built without tracing (CONFIG_FTRACE)"
    )]
    Mount {
        /// The call that failed.
        call: &'static str,
        /// Error of the system.
        error: io::Error,
    },
    /// No thread could start to mount it.
    #[error("starting a thread to mount tracefs failed: {error}; check the limits on processes and memory")]
    Thread {
        /// Error of the system.
        error: io::Error,
    },
    /// The file that describes the tracepoint may not be read.
    #[error("reading {} was refused: {error}; run as root or grant CAP_DAC_READ_SEARCH", path.display())]
    FormatDenied {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// The file that describes the tracepoint cannot be read.
    #[error("reading {} failed: {error}; this kernel may lack the tracepoint (Linux 4.16 has it)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// The file that describes the tracepoint lacks a required field, or has it in another size.
    #[error(
        "the tracepoint's format has no field {field} of the size expected; please report it with the text of the file"
    )]
    Field {
        /// The field.
        field: &'static str,
    },
}

/// Runs `f` with the path of tracefs.
///
/// If tracefs is not mounted, `f` runs on a thread with its own mount namespace, which has it: the mounts of the host
/// do not change, and no other process sees it. Files that `f` opens stay open.
///
/// # Errors
///
/// If tracefs is neither mounted nor mountable; `f` has not run then.
pub fn with_tracefs<T: Send>(f: impl FnOnce(&Path) -> T + Send) -> Result<T, TracefsError> {
    if let Some(path) = mounted() {
        return Ok(f(path));
    }
    let done = on_fresh_thread("tracefs", || {
        mount_privately()?;
        Ok(f(Path::new(MOUNT_POINT)))
    });
    done.map_err(|error| TracefsError::Thread { error })?
}

/// Returns the mount point of tracefs, if it is mounted.
pub fn mounted() -> Option<&'static Path> {
    [MOUNT_POINT, OLD_MOUNT_POINT].map(Path::new).into_iter().find(|path| is_tracefs(path))
}

/// Reads the offsets of the tracepoint's fields from its `format` file in `tracefs`.
///
/// # Errors
///
/// If the file cannot be read or does not describe the known tracepoint.
pub fn trace_layout(tracefs: &Path) -> Result<TraceLayout, TracefsError> {
    let path = tracefs.join("events").join(names::TRACEPOINT_GROUP).join(names::TRACEPOINT).join("format");
    match fs::read_to_string(&path) {
        Ok(text) => parse_format(&text),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(TracefsError::FormatDenied { path, error })
        }
        Err(error) => Err(TracefsError::Format { path, error }),
    }
}

/// Parses the offsets from the text of a `format` file.
///
/// # Errors
///
/// If a required field is missing or has another size. Missing optional fields are [`MISSING`].
pub fn parse_format(text: &str) -> Result<TraceLayout, TracefsError> {
    let fields: Vec<_> = text.lines().filter_map(Field::parse).collect();
    let find = |name: &str, size| {
        fields.iter().find(|field| field.name == name && field.size == size).map_or(MISSING, |field| field.offset)
    };
    let layout = TraceLayout {
        skaddr: find("skaddr", 8),
        oldstate: find("oldstate", 4),
        newstate: find("newstate", 4),
        sport: find("sport", 2),
        dport: find("dport", 2),
        family: find("family", 2),
        protocol: find("protocol", 2),
        saddr: find("saddr", 4),
        daddr: find("daddr", 4),
        saddr_v6: find("saddr_v6", 16),
        daddr_v6: find("daddr_v6", 16),
    };
    let needed = [
        ("skaddr", layout.skaddr),
        ("oldstate", layout.oldstate),
        ("newstate", layout.newstate),
        ("protocol", layout.protocol),
    ];
    match needed.into_iter().find(|&(_, offset)| offset == MISSING) {
        Some((field, _)) => Err(TracefsError::Field { field }),
        None => Ok(layout),
    }
}

/// Mount point for which the kernel makes a directory (Linux 4.1). aya searches only this one and the next.
const MOUNT_POINT: &str = "/sys/kernel/tracing";
/// Mount point that appears when debugfs is mounted.
const OLD_MOUNT_POINT: &str = "/sys/kernel/debug/tracing";

/// Line of a `format` file, without its sign.
struct Field<'a> {
    name: &'a str,
    offset: u32,
    size: u32,
}

impl<'a> Field<'a> {
    /// Parses `field:__u8 saddr[4];`, `offset:32;`, `size:4;` with tabs between them (`f_show` in
    /// kernel/trace/trace_events.c, v6.18).
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let name = declaration.rsplit_once([' ', '*'])?.1;
        let name = name.split_once('[').map_or(name, |(name, _length)| name);
        let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
        let size = parts.next()?.strip_prefix("size:")?.parse().ok()?;
        Some(Self { name, offset, size })
    }
}

/// Gives the calling thread a copy of all mounts, and mounts tracefs there.
fn mount_privately() -> Result<(), TracefsError> {
    // SAFETY: only this thread enters the new namespace. The flag also stops sharing the current directory with other
    // threads, and does not affect the descriptor table.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    unshared.map_err(failed("unshare(CLONE_NEWNS)"))?;
    // Otherwise the mount would propagate to the original namespace.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("making the mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", "/sys/kernel/tracing", "tracefs", flags, None).map_err(failed("mounting it"))
}

fn failed(call: &'static str) -> impl Fn(Errno) -> TracefsError {
    move |errno| {
        let error = errno.into();
        // Containers return either of the two.
        match errno {
            Errno::PERM | Errno::ACCESS => TracefsError::MountDenied { call, error },
            _ => TracefsError::Mount { call, error },
        }
    }
}

/// Whether tracefs is mounted at this path. Needs no permission to read it.
fn is_tracefs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.f_type == libc::TRACEFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Format of Linux 5.10; that of 6.18 and 7.3 differs only in the number and the `print fmt` line.
    const FORMAT: &str = include_str!("tracefs/inet_sock_set_state.format");

    #[test]
    fn reads_the_format_of_a_real_kernel() {
        let expected = TraceLayout {
            skaddr: 8,
            oldstate: 16,
            newstate: 20,
            sport: 24,
            dport: 26,
            family: 28,
            protocol: 30,
            saddr: 32,
            daddr: 36,
            saddr_v6: 40,
            daddr_v6: 56,
        };
        assert_eq!(parse_format(FORMAT).unwrap(), expected);
    }

    #[test]
    fn the_protocol_of_one_byte_before_5_6_is_refused() {
        let old = FORMAT.replace("__u16 protocol;\toffset:30;\tsize:2", "__u8 protocol;\toffset:30;\tsize:1");
        assert_ne!(old, FORMAT);
        let error = parse_format(&old).unwrap_err();
        assert!(matches!(error, TracefsError::Field { field: "protocol" }), "{error}");
    }

    #[test]
    fn an_address_that_is_not_there_is_missing() {
        let layout = parse_format(&FORMAT.replace("saddr_v6[16]", "renamed[16]")).unwrap();
        assert_eq!(layout.saddr_v6, MISSING);
        assert_eq!(layout.daddr_v6, 56);
    }

    #[test]
    fn pointers_without_a_space_before_the_name_are_read() {
        assert_eq!(Field::parse("\tfield:const void *skaddr;\toffset:8;\tsize:8;").unwrap().name, "skaddr");
    }

    #[test]
    fn the_closure_of_the_caller_runs_or_the_error_says_why_not() {
        match with_tracefs(trace_layout) {
            Ok(Ok(layout)) => assert_eq!(layout.skaddr, 8),
            Ok(Err(error)) | Err(error) => assert!(error.to_string().contains("; "), "{error}"),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(field:|[a-z_\\[\\]* ]{1,9}|;|\toffset:|[0-9]{1,12}|size:|\n){0,60}") {
            drop(parse_format(&text));
        }
    }
}
