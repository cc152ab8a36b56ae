use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use super::*;
use crate::{clock::TimeAnchor, sink::Numbering};
use closewait_engine::{
    model::{Certainty, Dwell, Host, IncidentId, IncidentState, IncidentStatus, Task, Totals},
    testing::{owner, pileup, resolved, socket, verdict},
    text::Comm,
    time::BootTime,
};

/// Returns the fields of the entry of a finding.
fn fields(finding: &Finding) -> Vec<(String, String)> {
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    let event = Numbering::default().finding(finding, anchor);
    let mut bytes = Vec::new();
    Journal { incidents_only: true }.event(&event, &mut bytes).unwrap();
    let mut fields = Vec::new();
    let mut rest = &bytes[4..];
    assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, rest.len());
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'=' | b'\n')) {
        let (name, after) = (&rest[..end], &rest[end + 1..]);
        let (value, after) = if rest[end] == b'=' {
            after.split_at(after.iter().position(|byte| *byte == b'\n').unwrap())
        } else {
            let length = u64::from_le_bytes(after[..8].try_into().unwrap()) as usize;
            after[8..].split_at(length)
        };
        fields.push((String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
        rest = &after[1..];
    }
    fields
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
}

#[test]
fn an_incident_has_its_identity_verdict_and_owner_as_fields() {
    let mut pileup = pileup(Class::Hung, Certainty::High, 40);
    let (id, began) = (IncidentId::new(&Host::default(), &pileup.group, BootTime(1)), BootTime(2));
    pileup.incident = Some(IncidentStatus { id, state: IncidentState::Opened, began });
    pileup.verdict = verdict(Class::Hung, Certainty::High);
    pileup.owners = Some(vec![(Task { pid: 4711, comm: Comm::from_name(b"java") }, 40)]);
    let fields = fields(&Finding::Pileup { at: BootTime(3), pileup: Box::new(pileup.clone()) });
    for (name, expected) in [
        ("CLOSEWAIT_EVENT", "pileup"),
        ("CLOSEWAIT_INCIDENT", id.to_string().as_str()),
        ("CLOSEWAIT_STATE", "opened"),
        ("CLOSEWAIT_CLASS", "hung"),
        ("CLOSEWAIT_CERTAINTY", "high"),
        ("CLOSEWAIT_COUNT", "40"),
        ("OBJECT_PID", "4711"),
        ("SYSLOG_IDENTIFIER", "closewait"),
    ] {
        assert_eq!(value(&fields, name), Some(expected), "{name} of {fields:?}");
    }
    let kind = KINDS.iter().find(|kind| kind.class == Some(Class::Hung)).unwrap();
    assert_eq!(value(&fields, "MESSAGE_ID"), Some(kind.id));
    let message = value(&fields, "MESSAGE").unwrap();
    assert!(message.lines().any(|line| line.starts_with("cause: ")), "{message}");
    assert!(["2", "3", "4"].contains(&value(&fields, "PRIORITY").unwrap()));
    assert_eq!(fields.iter().filter(|(name, _)| name == "CLOSEWAIT_COMMAND").count(), 1, "{fields:?}");
}

#[test]
fn an_entry_about_one_socket_names_its_ends_and_its_owner() {
    let (socket, at) = (socket(), BootTime(3));
    let (port, remote) = (socket.local.port.to_string(), socket.remote.address.to_string());
    let stuck = Finding::Stuck {
        at,
        socket: socket.clone(),
        dwell: Dwell::Exact(Duration::from_secs(160)),
        owners: Some(vec![owner("java", 4711, 12)]),
        verdict: Box::new(verdict(Class::Hung, Certainty::High)),
        workload: None,
        process: None,
        group: Box::new(pileup(Class::Hung, Certainty::High, 1).group),
        incident: None,
    };
    let fields = fields(&stuck);
    let message = value(&fields, "MESSAGE").unwrap();
    let first = message.lines().next().unwrap();
    assert!(first.starts_with("stuck: ") && first.contains(&socket.remote.to_string()), "{first}");
    assert!(first.contains(" for 2m40s; hung, high; java[4711] fd 12"), "{first}");
    assert_eq!(value(&fields, "CLOSEWAIT_PORT"), Some(port.as_str()));
    assert_eq!(value(&fields, "CLOSEWAIT_REMOTE"), Some(remote.as_str()));
}

#[test]
fn an_entry_about_losses_has_their_numbers() {
    let totals = Totals { lost_ring_full: 186_264, ..Totals::default() };
    let fields = fields(&Finding::Health { at: BootTime(3), totals });
    let message = value(&fields, "MESSAGE").unwrap();
    assert!(message.starts_with("health: 186264 records lost"), "{message}");
}

#[test]
fn the_end_of_an_incident_is_a_notice() {
    let end = resolved();
    let fields = fields(&Finding::PileupEnd { at: end.at, end: Box::new(end.end) });
    assert_eq!(value(&fields, "PRIORITY"), Some("5"));
    assert_eq!(value(&fields, "CLOSEWAIT_STATE"), Some("resolved"));
    // Of the last report: at the end, nothing is left to judge.
    assert_eq!(value(&fields, "CLOSEWAIT_CLASS"), Some("hung"));
    assert_eq!(value(&fields, "MESSAGE_ID"), KINDS.iter().find(|kind| kind.event == "pileup_end").map(|kind| kind.id));
}

#[test]
fn identifiers_are_unique_and_every_class_has_one() {
    let ids: BTreeSet<_> = KINDS.iter().map(|kind| kind.id).collect();
    assert_eq!(ids.len(), KINDS.len());
    assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))));
    for class in Class::ALL {
        assert!(KINDS.iter().any(|kind| kind.class == Some(class)), "{}", class.name());
    }
}

#[test]
fn every_field_is_a_member_of_an_event() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let read = |entry: io::Result<std::fs::DirEntry>| std::fs::read_to_string(entry.unwrap().path()).unwrap();
    let schemas: String = std::fs::read_dir(folder).unwrap().map(read).collect();
    for EntryField { name, pointer } in &FIELDS {
        for member in pointer.split('/').filter(|part| !part.is_empty() && part.parse::<u32>().is_err()) {
            assert!(schemas.contains(&format!("\"{member}\": {{")), "{name}: no event has a member {member}");
        }
        assert!(name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'_')), "{name}");
    }
}
