//! Facts of recordings of format 1, which named each type of fact by itself. Format 2 adds the origin of a fact in
//! front: `{"Fact": {"Enter": …}}` is now `{"Fact": {"Socket": {"Enter": …}}}`. Removed members are skipped, and
//! other items are unchanged.

use std::{borrow::Cow, io::Cursor};

use rmp_serde::decode::Error;

use super::{Item, decode};
use closewait_engine::{
    model::{ExitCause, Observation, Owner, RefreshFact, ScanFact, Socket, SocketKey},
    time::BootTime,
};

/// Marker of a map with one member in MessagePack: a variant with content.
const MAP_OF_ONE: u8 = 0x81;
/// Markers of the shortest and of the longest short text in MessagePack.
const SHORT_TEXT: u8 = 0xa0;
const LAST_SHORT_TEXT: u8 = 0xbf;

/// Names of facts in format 1, the variant of [`Observation`] that contains them now, and their names there.
const NAMES: [(&str, &str, &str); 21] = [
    ("Enter", "Socket", "Enter"),
    ("Leave", "Socket", "Leave"),
    ("Present", "Scan", "Present"),
    ("Held", "Scan", "Owned"),
    ("Holds", "Scan", "Descriptor"),
    ("HeldInode", "Scan", "InodeDescriptor"),
    ("Listening", "Scan", "Listening"),
    ("Stored", "Scan", "StoredEntry"),
    ("WalkEnded", "ScanEnd", "Descriptors"),
    ("ScanFailed", "ScanEnd", "Failed"),
    ("Audited", "ScanEnd", "Audit"),
    ("Looked", "Refresh", "Present"),
    ("LookedAtAll", "RefreshEnd", "Inspection"),
    ("LookedAtGone", "RefreshEnd", "Lingering"),
    ("LookedAtSuspects", "RefreshEnd", "Suspects"),
    ("Process", "Inspection", "Process"),
    ("Leg", "Inspection", "ProxyPeer"),
    ("Cgroup", "Inspection", "Cgroup"),
    ("Namespace", "Inspection", "Namespace"),
    ("Placed", "Inspection", "Location"),
    ("InquiredAll", "InspectionEnd", "Owners"),
];

/// Reads the next item of a recording of format 1.
pub(super) fn item(items: &mut Cursor<Vec<u8>>) -> Result<Item<'static>, Error> {
    let start = usize::try_from(items.position()).unwrap_or(usize::MAX);
    let Some((name, behind)) = items.get_ref().get(start..).and_then(fact) else { return decode(items) };
    let length = items.get_ref().len() - start - behind.len();
    if name == b"Lingering" {
        items.set_position((start + length) as u64);
        return Ok(Item::Fact(Cow::Owned(decode::<LingeringMembers>(items)?.into())));
    }
    let Some((_, part, new)) = NAMES.iter().find(|(old, ..)| old.as_bytes() == name) else {
        // No variant contains it today, either.
        return decode(items);
    };
    let mut head = Vec::new();
    for name in ["Fact", part, new] {
        head.extend([MAP_OF_ONE, SHORT_TEXT + name.len() as u8]);
        head.extend(name.as_bytes());
    }
    replace_head(items, start + length, &head);
    decode(items)
}

/// Puts `head` in front of what begins at byte `body`, and continues there. Bytes before `body` have been read: they make
/// room for it.
fn replace_head(items: &mut Cursor<Vec<u8>>, body: usize, head: &[u8]) {
    let bytes = items.get_mut();
    let begin = body.saturating_sub(head.len());
    bytes.splice(begin..body, head.iter().copied());
    items.set_position(begin as u64);
}

/// Returns the name of the fact that `bytes` begin with, and the bytes behind the name; `None` if it is another item.
fn fact(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (item, bytes) = variant(bytes)?;
    if item == b"Fact" { variant(bytes) } else { None }
}

/// Returns the name of the variant with content that `bytes` begin with, and its content.
fn variant(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [MAP_OF_ONE, text @ SHORT_TEXT..=LAST_SHORT_TEXT, bytes @ ..] = bytes else { return None };
    bytes.split_at_checked(usize::from(text - SHORT_TEXT))
}

/// Members of a fact that was found by scans, with an owner, and by refreshes, without.
#[derive(serde::Deserialize)]
struct LingeringMembers {
    key: SocketKey,
    at: BootTime,
    socket: Socket,
    how: ExitCause,
    holder: Option<Owner>,
}

impl From<LingeringMembers> for Observation {
    fn from(LingeringMembers { key, at, socket, how, holder }: LingeringMembers) -> Self {
        match holder {
            Some(owner) => ScanFact::Lingering { key, at, socket, how, owner }.into(),
            None => RefreshFact::Lingering { key, at, socket }.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use closewait_engine::{
        model::{Connection, InspectionEnd, InspectionFact, ProxyPeer, RefreshEnd, SocketEvent},
        testing::{owner, socket},
    };
    use serde::Serialize;

    use super::*;

    /// Members of all facts of the test, by their names in format 1.
    #[derive(Serialize, Default)]
    struct Members {
        key: Option<SocketKey>,
        at: Option<BootTime>,
        socket: Option<Socket>,
        how: Option<ExitCause>,
        holder: Option<Owner>,
        leg: Option<ProxyPeer>,
        inode: Option<u64>,
        worked: Option<Duration>,
        replaced: bool,
    }

    fn read(name: &str, members: Members) -> Observation {
        let fact = BTreeMap::from([("Fact", BTreeMap::from([(name, members)]))]);
        let mut bytes = rmp_serde::to_vec_named(&fact).unwrap();
        bytes.extend(rmp_serde::to_vec_named(&Item::Time(BootTime(5))).unwrap());
        let mut items = Cursor::new(bytes);
        let first = item(&mut items).unwrap();
        assert!(matches!(item(&mut items), Ok(Item::Time(BootTime(5)))), "the next item is read too");
        let Item::Fact(fact) = first else { panic!("{first:?} is no fact") };
        fact.into_owned()
    }

    #[test]
    fn facts_of_format_1_are_found_in_the_part_that_has_them_now() {
        let (key, at, socket, owner) = (SocketKey(1), BootTime(2), socket(), owner("x", 7, 3));
        let with = || Members { key: Some(key), at: Some(at), ..Members::default() };
        let of_socket = || Members { socket: Some(socket.clone()), how: Some(ExitCause::Reset), ..with() };
        let entered = SocketEvent::Enter { key, at, socket: socket.clone() };
        assert_eq!(read("Enter", Members { replaced: true, ..of_socket() }), entered.into());
        let descriptor = ScanFact::Descriptor { key, at: Some(at), inode: 9, owner: owner.clone() };
        let holds = Members { inode: Some(9), holder: Some(owner.clone()), ..with() };
        assert_eq!(read("Holds", holds), descriptor.into());
        let how = ExitCause::Reset;
        let found = ScanFact::Lingering { key, at, socket: socket.clone(), how, owner: owner.clone() };
        assert_eq!(read("Lingering", Members { holder: Some(owner.clone()), ..of_socket() }), found.into());
        let refreshed = RefreshFact::Lingering { key, at, socket: socket.clone() };
        assert_eq!(read("Lingering", of_socket()), refreshed.into());
        let peer = ProxyPeer { state: Connection::Established, socket: socket.clone() };
        let leg = Members { leg: Some(peer.clone()), holder: Some(owner.clone()), ..with() };
        assert_eq!(read("Leg", leg), InspectionFact::ProxyPeer { peer: Box::new(peer), owner }.into());
        assert_eq!(read("LookedAtAll", with()), RefreshEnd::Inspection { at, lingering: true }.into());
        let worked = Duration::from_millis(4);
        let inquired = read("InquiredAll", Members { worked: Some(worked), ..with() });
        assert_eq!(inquired, InspectionEnd::Owners { at, worked }.into());
    }

    #[test]
    fn what_is_no_item_of_format_1_is_an_error() {
        for bytes in [
            &[][..],
            b"\x81\xa4Fact",
            b"\x81\xa4Fact\x81\xbf",
            b"\x81\xa4Fact\x81\xa3New\x80",
            b"\x81\xa4Fact\x81\xa9Lingering",
        ] {
            assert!(item(&mut Cursor::new(bytes.to_vec())).is_err(), "{bytes:?}");
        }
    }
}
