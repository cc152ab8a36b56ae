//! Events as entries of the systemd journal, with fields that `journalctl` can filter by, and a catalog that explains them.

#[cfg(test)]
mod catalog;

use std::io;

use serde_json::Value;

use super::{EventContent, NumberedEvent, Sink, json::Json, text};
use crate::host::journal::EntryBuffer;
use closewait_engine::model::{Class, Finding};

/// Field of an entry, and the member of the event that it contains: a JSON pointer (RFC 6901).
struct EntryField {
    name: &'static str,
    pointer: &'static str,
}

const fn field(name: &'static str, pointer: &'static str) -> EntryField {
    EntryField { name, pointer }
}

/// All fields beside MESSAGE, MESSAGE_ID and PRIORITY. An entry has those whose member the event has. `OBJECT_PID` lets the journal
/// find the entry by the unit of the owner, if the agent runs as root (`OBJECT_PID` in systemd.journal-fields(7)).
const FIELDS: [EntryField; 29] = [
    field("OBJECT_PID", "/owners/0/pid"),
    field("CLOSEWAIT_EVENT", "/event"),
    field("CLOSEWAIT_SEQ", "/seq"),
    field("CLOSEWAIT_INCIDENT", "/id"),
    field("CLOSEWAIT_INCIDENT", "/incident"),
    field("CLOSEWAIT_STATE", "/state"),
    field("CLOSEWAIT_SEVERITY", "/severity"),
    field("CLOSEWAIT_SERVICE", "/service"),
    field("CLOSEWAIT_COUNT", "/count"),
    field("CLOSEWAIT_PORT", "/group/local_port"),
    field("CLOSEWAIT_PORT", "/socket/local/port"),
    field("CLOSEWAIT_REMOTE", "/group/remote/address"),
    field("CLOSEWAIT_REMOTE_PORT", "/group/remote/port"),
    field("CLOSEWAIT_REMOTE", "/socket/remote/address"),
    field("CLOSEWAIT_REMOTE_PORT", "/socket/remote/port"),
    field("CLOSEWAIT_NETNS", "/group/netns"),
    field("CLOSEWAIT_EXHAUSTION_SECONDS", "/exhaustion_seconds"),
    field("CLOSEWAIT_CLASS", "/verdict/class"),
    field("CLOSEWAIT_RULE", "/verdict/rule"),
    field("CLOSEWAIT_CERTAINTY", "/verdict/certainty"),
    field("CLOSEWAIT_CLASS", "/last_verdict/class"),
    field("CLOSEWAIT_RULE", "/last_verdict/rule"),
    field("CLOSEWAIT_CERTAINTY", "/last_verdict/certainty"),
    // Of an incident, then of a socket: only the first one that there is.
    field("CLOSEWAIT_COMMAND", "/command"),
    field("CLOSEWAIT_COMMAND", "/verdict/command"),
    field("CLOSEWAIT_DWELL_SECONDS", "/dwell_seconds"),
    field("CLOSEWAIT_COOKIE", "/socket/cookie"),
    field("CLOSEWAIT_NETNS", "/socket/netns"),
    field("DOCUMENTATION", "/runbook"),
];

/// Kind of an entry, with its identifier: `MESSAGE_ID` in systemd.journal-fields(7).
struct MessageKind {
    event: &'static str,
    /// Class of an incident; `None` for other events.
    class: Option<Class>,
    id: &'static str,
}

/// All kinds. Filters and catalogs of users contain the identifiers: they never change.
const KINDS: [MessageKind; 17] = [
    MessageKind { event: "start", class: None, id: "3797253dc0dd46869cc80cbedee14f8b" },
    MessageKind { event: "stop", class: None, id: "e841ada9f5e0480c8ab7396a95a320da" },
    MessageKind { event: "health", class: None, id: "238fa99ab36c491fb8c8ae9278a78b84" },
    MessageKind { event: "enter", class: None, id: "cc93d3791a6b4df19c9cf896f53f97e9" },
    MessageKind { event: "stuck", class: None, id: "380a6a22236f4d769fd8afdc453cfe91" },
    MessageKind { event: "leave", class: None, id: "f9f2da5d06ef4d7eb058ff5c9dbcb11e" },
    MessageKind { event: "histogram", class: None, id: "48c00b3d79d54b248fa3f37d8e51b95c" },
    MessageKind { event: "pileup_end", class: None, id: "6146ecbb6907456ea59bb10a9c67946b" },
    MessageKind { event: "pileup", class: Some(Class::Hung), id: "2077015b0c7f41d2962f5708e80d016a" },
    MessageKind { event: "pileup", class: Some(Class::Leak), id: "caed0993218d4df6b999ddd6e30360c3" },
    MessageKind { event: "pileup", class: Some(Class::Pool), id: "5c814e84b6f8409e8d226a1171cf2bb4" },
    MessageKind { event: "pileup", class: Some(Class::NeverAccepted), id: "3525b7bedd96427799f24e180abe6c33" },
    MessageKind { event: "pileup", class: Some(Class::HalfClose), id: "c8973a02aa5c4bfc9e43296aa9885333" },
    MessageKind { event: "pileup", class: Some(Class::Inherited), id: "4ffd50c17d05442d8b03abda61775fd8" },
    MessageKind { event: "pileup", class: Some(Class::ProxyWait), id: "4ab4eed9da154c7e980fade81318e821" },
    MessageKind { event: "pileup", class: Some(Class::Transient), id: "82e40dba217a49e4b7d0550beab8227f" },
    MessageKind { event: "pileup", class: Some(Class::Unknown), id: "0e31e519b29f458e84cac2eba58db3a7" },
];

/// Sink for the journal. It writes each event as one entry for [`EntrySocket`](crate::host::journal::EntrySocket).
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    /// Whether there are no entries of single sockets and no histograms.
    pub incidents_only: bool,
}

impl Sink for Journal {
    fn shows(&self, finding: &Finding) -> bool {
        Json { incidents_only: self.incidents_only }.shows(finding)
    }

    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()> {
        let object: Value = serde_json::from_slice(event.json()?)?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let name = text("/event").unwrap_or_default();
        let class = text("/verdict/class");
        let of_kind = |kind: &&MessageKind| kind.event == name && kind.class.is_none_or(|of| Some(of.name()) == class);
        let mut entry = EntryBuffer::new(to);
        entry.field("MESSAGE", &message(event, &object));
        if let Some(kind) = KINDS.iter().find(of_kind) {
            entry.field("MESSAGE_ID", kind.id);
        }
        entry.field("PRIORITY", priority(name, text("/severity")));
        entry.field("SYSLOG_IDENTIFIER", "closewait");
        let mut written = "";
        for EntryField { name, pointer } in FIELDS {
            if name == written {
                continue;
            }
            match object.pointer(pointer) {
                Some(Value::String(text)) => entry.field(name, text),
                Some(Value::Number(number)) => entry.field(name, &number.to_string()),
                Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => continue,
            }
            written = name;
        }
        entry.end();
        Ok(())
    }
}

/// Returns the message: the event in one line, then cause and next step.
fn message(event: &NumberedEvent<'_>, object: &Value) -> String {
    let member = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let mut lines = vec![match (event.content, member("/summary")) {
        (_, Some(summary)) => summary.to_owned(),
        (EventContent::Start(start), None) => format!("closewait {} watches this host", start.version),
        (EventContent::Finding(finding), None) => {
            let event = member("/event").unwrap_or_default();
            match text::line(finding).or_else(|| text::histogram_line(finding).map(|(_level, line)| line)) {
                Some(line) => format!("{event}: {line}"),
                None => event.to_owned(),
            }
        }
    }];
    for (name, pointer) in [("cause", "/verdict/text"), ("next", "/verdict/next")] {
        lines.extend(member(pointer).map(|text| format!("{name}: {text}")));
    }
    if let (EventContent::Start(start), true) = (event.content, lines.len() == 1) {
        lines.extend(start.degraded.iter().map(|what| format!("degraded: {what}")));
    }
    lines.join("\n")
}

/// Returns the priority of an entry (syslog(3)): that of its severity, or of its event.
fn priority(event: &str, severity: Option<&str>) -> &'static str {
    match (event, severity) {
        (_, Some("critical")) => "2",
        (_, Some("error")) => "3",
        (_, Some("warning")) | ("health", None) => "4",
        ("pileup_end", _) => "5",
        _ => "6",
    }
}

#[cfg(test)]
mod tests;
