//! Lines of `closewait tail` that do not come from the agent.

use std::{io, time::SystemTime};

use serde::Serialize;

use super::{
    json::write_line,
    schema::{self, SCHEMA_VERSION},
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::text::{count, harmless, is_harmful};

/// Events that the reader of `closewait tail` missed, because it was too slow.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct MissedObject {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Type of the line.
    #[cfg_attr(test, schemars(with = "Missed"))]
    event: &'static str,
    /// Time at which the client noticed it.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Number of missed events.
    count: u64,
}

/// Writes that the reader missed `events` of the stream, as of `time`.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn missed(events: u64, time: SystemTime, text: bool, to: &mut Vec<u8>) -> io::Result<()> {
    let time = schema::time(time);
    if text {
        // Milliseconds, as in other lines.
        let time = time.get(..23).unwrap_or(&time);
        to.extend_from_slice(
            format!("{time}Z missed {}: this reader is too slow\n", count(events, "event")).as_bytes(),
        );
        return Ok(());
    }
    write_line(&MissedObject { schema_version: SCHEMA_VERSION, event: "missed", time, count: events }, to)
}

/// Returns lines without characters that act on a terminal. An agent writes none, but another program can answer in its place.
pub fn printable(lines: String) -> String {
    if !lines.chars().any(|character| character != '\n' && is_harmful(character)) {
        return lines;
    }
    lines.lines().map(|line| harmless(line.as_bytes()) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn missed_events_are_a_line_or_an_object() {
        let shown = |text| {
            let mut to = Vec::new();
            missed(7, UNIX_EPOCH + Duration::from_millis(1500), text, &mut to).unwrap();
            String::from_utf8(to).unwrap()
        };
        assert_eq!(shown(true), "1970-01-01T00:00:01.500Z missed 7 events: this reader is too slow\n");
        let object: serde_json::Value = serde_json::from_str(&shown(false)).unwrap();
        tests_support::schema::check_event(&object);
        assert_eq!((object["event"].as_str(), object["count"].as_u64()), (Some("missed"), Some(7)));
    }

    #[test]
    fn lines_of_another_program_do_not_act_on_a_terminal() {
        assert_eq!(printable("one\ntwo é\n".to_owned()), "one\ntwo é\n");
        let shown = printable("a\x1b[2Jb\nc\u{202e}d\n".to_owned());
        assert!(shown.lines().count() == 2 && !shown.contains(['\x1b', '\u{202e}']), "{shown}");
    }
}
