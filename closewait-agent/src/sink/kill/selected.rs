//! What `list` printed, read again.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, de::Error as _};
use thiserror::Error;

use crate::{
    clock::TimeAnchor,
    sink::schema::{SCHEMA_VERSION, how},
};
use closewait_engine::{
    diagnose::Seen,
    kill::Selected,
    model::{Certainty, Class, Dwell, Endpoint, Exit, Holder, How, Listener, Protocol, Socket, Task, Verdict},
    text::{Comm, harmless_field},
    time::BootTime,
};

/// Most sockets that are read: each takes a kilobyte or two.
pub const MAX_SELECTED: usize = 100_000;

/// Reason why the output of `list` cannot be read.
#[derive(Debug, Error)]
pub enum ListReadError {
    /// It is none of ours, or of another version.
    #[error("a line of the list was not understood; is the agent of the same version? Else give --alone")]
    Line(#[source] serde_json::Error),
    /// It says so.
    #[error("the list has schema version {0}, and this is for version {SCHEMA_VERSION}; give --alone")]
    Version(u32),
    /// There are too many lines.
    #[error("more than {MAX_SELECTED} sockets match, and kill takes no more at once; narrow the filters")]
    TooMany,
}

/// Reads objects of `list`, one a line.
///
/// # Errors
///
/// If one of them is something else, or there are more than [`MAX_SELECTED`].
pub fn read(lines: &[u8], anchor: TimeAnchor) -> Result<Vec<Selected>, ListReadError> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    if lines.clone().nth(MAX_SELECTED).is_some() {
        return Err(ListReadError::TooMany);
    }
    lines.map(|line| read_line(line, anchor)).collect()
}

#[derive(Deserialize)]
struct SchemaVersion {
    schema_version: u32,
}

/// Members of a listed socket that `kill` needs; others may be missing or new.
#[derive(Deserialize)]
struct SelectedLine {
    #[serde(deserialize_with = "wall")]
    time: SystemTime,
    socket: SocketMembers,
    #[serde(deserialize_with = "seconds")]
    dwell_seconds: Option<Duration>,
    exact: bool,
    #[serde(default, deserialize_with = "seconds")]
    dwell_at_most_seconds: Option<Duration>,
    owners: Option<Vec<HolderMembers>>,
    listener: Option<ListenerMembers>,
    verdict: VerdictMembers,
    left: Option<LeftMembers>,
}

#[derive(Deserialize)]
struct SocketMembers {
    cookie: Option<u64>,
    netns: Option<u32>,
    protocol: String,
    local: Endpoint,
    remote: Endpoint,
    inode: Option<u64>,
    accepted: Option<bool>,
    unread_bytes: Option<u32>,
    send_queue_bytes: Option<u32>,
}

#[derive(Deserialize)]
struct HolderMembers {
    pid: u32,
    fd: u32,
    comm: Comm,
}

#[derive(Deserialize)]
struct ListenerMembers {
    #[serde(flatten)]
    local: Endpoint,
    backlog: u32,
    backlog_max: u32,
    owners: Vec<HolderMembers>,
}

#[derive(Deserialize)]
struct VerdictMembers {
    class: Class,
    certainty: String,
    #[serde(deserialize_with = "harmless_field")]
    text: String,
    #[serde(deserialize_with = "harmless_field")]
    next: String,
}

#[derive(Deserialize)]
struct LeftMembers {
    how: String,
    #[serde(deserialize_with = "seconds")]
    seconds_ago: Option<Duration>,
}

fn wall<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    humantime::parse_rfc3339(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds: Option<f64> = Option::deserialize(deserializer)?;
    seconds.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)).transpose()
}

fn read_line(bytes: &[u8], anchor: TimeAnchor) -> Result<Selected, ListReadError> {
    let SchemaVersion { schema_version } = serde_json::from_slice(bytes).map_err(ListReadError::Line)?;
    if schema_version != SCHEMA_VERSION {
        return Err(ListReadError::Version(schema_version));
    }
    let line: SelectedLine = serde_json::from_slice(bytes).map_err(ListReadError::Line)?;
    let at = anchor.boot(line.time);
    let dwell = line.dwell_seconds.map(|dwell| match line.exact {
        true => Dwell::Exact(dwell),
        false => Dwell::Between { at_least: dwell, at_most: line.dwell_at_most_seconds },
    });
    let holder = |HolderMembers { pid, fd, comm }| Holder { task: Task { pid, comm }, fd };
    Ok(Selected {
        // What was read as JSON is UTF-8.
        line: String::from_utf8_lossy(bytes).into_owned(),
        at,
        socket: socket(line.socket),
        dwell,
        gone: line.left.map(|left| gone(&left, at, dwell)),
        holders: line.owners.map(|owners| owners.into_iter().map(holder).collect()),
        listener: line.listener.map(|ListenerMembers { local, backlog, backlog_max, owners }| Seen {
            what: Listener { netns: None, local, backlog, backlog_max, inode: None },
            at,
            holders: owners.into_iter().map(holder).collect(),
        }),
        verdict: Verdict {
            class: line.verdict.class,
            rule: "",
            certainty: certainty(&line.verdict.certainty),
            text: line.verdict.text,
            next: line.verdict.next,
        },
    })
}

fn socket(members: SocketMembers) -> Socket {
    let SocketMembers { cookie, netns, protocol, local, remote, inode, accepted, unread_bytes, send_queue_bytes } =
        members;
    Socket {
        cookie,
        netns,
        // Whatever it is, it is not plain TCP.
        protocol: if protocol == "tcp" { Protocol::Tcp } else { Protocol::Mptcp },
        local,
        remote,
        role: None,
        inode,
        cgroup: None,
        accepted,
        unread_bytes,
        received_bytes: None,
        sent_bytes: None,
        keepalive: None,
        acked_bytes: None,
        send_queue_bytes,
        last_received: None,
        last_ack: None,
        last_sent: None,
        timer: None,
        opener: None,
    }
}

fn gone(left: &LeftMembers, at: BootTime, dwell: Option<Dwell>) -> Exit {
    let all = [How::Closed, How::Shutdown, How::Aborted, How::Reset, How::Timeout, How::Destroyed, How::ListenerClosed];
    Exit {
        at: left.seconds_ago.map_or(at, |ago| at - ago),
        seen: left.seconds_ago.is_some(),
        how: all.into_iter().find(|one| how(*one) == left.how).unwrap_or(How::Unknown),
        closer: None,
        dwell,
    }
}

/// One that is not known is as good as a guess.
fn certainty(name: &str) -> Certainty {
    let all = [Certainty::Fact, Certainty::High, Certainty::Medium];
    all.into_iter().find(|one| one.name() == name).unwrap_or(Certainty::Low)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::sink::schema::{ListedObject, time};
    use closewait_engine::{
        testing::{holder, listener, row, socket, verdict},
        view::Row,
    };

    const NOW: BootTime = BootTime(3_600_000_000_000);

    fn anchor() -> TimeAnchor {
        TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(1_000_000))
    }

    /// As `list` prints it.
    fn printed(row: &Row<'_>) -> Vec<u8> {
        let time = time(anchor().wall(NOW));
        serde_json::to_vec(&ListedObject::new(row, NOW, &time)).unwrap()
    }

    fn again(row: &Row<'_>) -> Selected {
        let mut lines = printed(row);
        lines.push(b'\n');
        let mut read = read(&lines, anchor()).unwrap();
        assert_eq!(read.len(), 1);
        read.remove(0)
    }

    #[test]
    fn what_was_listed_is_what_is_read() {
        let (listed, holders) = (socket(), [holder("a\nb", 10, 3), holder("c", 20, 4)]);
        let row = Row { holders: Some(&holders), verdict: verdict(Class::Leak, Certainty::Medium), ..row(&listed) };
        let read = again(&row);
        assert_eq!((read.at, read.dwell, read.gone.as_ref()), (NOW, row.dwell, None));
        assert_eq!(read.holders.as_deref(), Some(&holders[..]));
        assert_eq!((read.verdict.class, read.verdict.certainty), (Class::Leak, Certainty::Medium));
        let Socket { cookie, netns, local, remote, inode, accepted, .. } = read.socket;
        assert_eq!((cookie, netns, local, remote), (listed.cookie, listed.netns, listed.local, listed.remote));
        assert_eq!((inode, accepted), (listed.inode, listed.accepted));
    }

    #[test]
    fn bounds_stay_bounds_and_the_unknown_stays_unknown() {
        let unknown = Socket { cookie: None, netns: None, inode: None, accepted: None, ..socket() };
        let dwell = Some(Dwell::Between { at_least: Duration::from_secs(3), at_most: None });
        let read = again(&Row { dwell, ..row(&unknown) });
        assert_eq!((read.dwell, read.holders), (dwell, None));
        assert_eq!((read.socket.cookie, read.socket.netns, read.socket.inode), (None, None, None));
        assert_eq!(read.socket.accepted, None);
    }

    #[test]
    fn one_that_has_left_is_known_to_have_left() {
        let listed = socket();
        for how in [How::Destroyed, How::Reset, How::Unknown] {
            let left = Exit { at: NOW - Duration::from_secs(5), seen: true, how, closer: None, dwell: None };
            assert_eq!(again(&Row { gone: Some(&left), dwell: None, ..row(&listed) }).gone, Some(left));
        }
    }

    #[test]
    fn a_listener_comes_with_its_owners() {
        let waits = Socket { accepted: Some(false), inode: None, ..socket() };
        let seen = Seen { what: listener(8080, 3, 128), at: NOW, holders: vec![holder("nginx", 30, 6)] };
        let read = again(&Row { listener: Some(&seen), ..row(&waits) });
        let listener = read.listener.unwrap();
        assert_eq!((listener.holders, listener.what.local), (seen.holders, seen.what.local));
        assert_eq!((listener.what.backlog, listener.what.backlog_max), (3, 128));
    }

    #[test]
    fn more_than_can_be_taken_are_refused_before_they_are_read() {
        let lines = b"x\n".repeat(MAX_SELECTED + 1);
        assert!(matches!(read(&lines, anchor()), Err(ListReadError::TooMany)));
        assert!(matches!(read(&lines[2..], anchor()), Err(ListReadError::Line(_))));
    }

    #[test]
    fn what_is_no_list_is_refused_with_what_to_do() {
        for line in [&b"{}"[..], b"[", b"hello", b"{\"schema_version\":1}"] {
            let error = read(line, anchor()).unwrap_err().to_string();
            assert!(error.contains("--alone"), "{error}");
        }
        let other = String::from_utf8(printed(&row(&socket()))).unwrap();
        let other = other.replace("\"schema_version\":1", "\"schema_version\":2");
        assert!(matches!(read(other.as_bytes(), anchor()), Err(ListReadError::Version(2))));
        assert!(read(b"\n\n", anchor()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_damaged_line_is_survived(at in 0_usize..1000, with: u8) {
            let mut line = printed(&row(&socket()));
            let at = at % line.len();
            line[at] = with;
            let _any_result = read(&line, anchor());
        }
    }
}
