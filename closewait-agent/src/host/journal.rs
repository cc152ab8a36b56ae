//! The journal of systemd as the reader of this process's output.

use std::{env, os::fd::AsFd};

use rustix::fs::fstat;

/// Environment variable with the device and the inode of the stream to the journal, in decimal (systemd.exec(5)).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether the journal reads what is written to `to`. The variable alone is not enough: a program inherits it even if its
/// output was redirected.
pub fn reads(to: impl AsFd) -> bool {
    let Some(stream) = env::var(VARIABLE).ok().and_then(|text| parse(&text)) else { return false };
    fstat(to).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == stream)
}

/// Returns the priority of a log line in the journal (syslog(3)).
pub const fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Parses `device:inode`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_two_decimal_numbers() {
        assert_eq!(parse("8:1029184"), Some((8, 1_029_184)));
        for text in ["", "8", "8:", ":8", "a:1", "8:0x10", "-8:1", "8:1:2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
