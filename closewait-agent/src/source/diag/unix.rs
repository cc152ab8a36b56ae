//! UNIX sockets of a network namespace, from `sock_diag`, as `ss -x` lists them.
//!
//! A dump shows for each connection the inode of its other end, which is 0 while no program has accepted it, and for each listener the
//! inodes of the ends that wait there (`sk_diag_dump_peer` and `sk_diag_dump_icons`, net/unix/diag.c at v5.10). An accepted end has the
//! name of its listener. The kernel takes spin locks only, so no program can make a dump wait.

use std::collections::BTreeMap;

use bytes::Buf as _;
use closewait_common::tcp::state;

use super::{
    DiagError, Netlink,
    wire::{self, nl},
};
use closewait_engine::text::harmless_path;

/// Maximum number of sockets of all dumps that are kept, at about 100 bytes each.
const MAX_SOCKETS: usize = 65_536;
/// Maximum length of a name (`sun_path`, include/uapi/linux/un.h), bytes.
const MAX_NAME: usize = 108;

/// Constants of `sock_diag` for UNIX sockets (include/uapi/linux/unix_diag.h at v5.10).
mod diag {
    /// `AF_UNIX`.
    pub(super) const FAMILY: u8 = 1;
    /// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN`.
    pub(super) const SHOW: u32 = 0x1 | 0x4 | 0x8 | 0x10;
    pub(super) const NAME: u16 = 0;
    pub(super) const PEER: u16 = 2;
    pub(super) const ICONS: u16 = 3;
    pub(super) const RQLEN: u16 = 4;
    /// Size of `struct unix_diag_msg`, bytes.
    pub(super) const MESSAGE: usize = 16;
    /// Size of a request with its header, bytes.
    pub(super) const REQUEST: usize = super::nl::HEADER + 24;
}

/// One connected UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct UnixEnd {
    /// Inode of the other end; `None` if no program has accepted it, or the other end is closed.
    pub(in crate::source) peer: Option<u32>,
    /// Whether the other end has not read all data of this one.
    pub(in crate::source) is_unread: bool,
    /// Name that this end is bound to, or has from its listener.
    pub(in crate::source) name: Option<String>,
}

/// UNIX sockets of one or several network namespaces, by inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct UnixTable {
    /// Connected sockets.
    pub(in crate::source) ends: BTreeMap<u32, UnixEnd>,
    /// Listeners, by inode.
    pub(in crate::source) listeners: BTreeMap<u32, String>,
    /// Listener of each connected end that no program has accepted.
    pub(in crate::source) queued: BTreeMap<u32, u32>,
}

impl UnixTable {
    /// Adds the sockets of the network namespace of `netlink`.
    pub(super) fn add(&mut self, netlink: &Netlink) -> Result<(), DiagError> {
        netlink.exchange_parts(&request(), |part| {
            wire::messages(part, |message| {
                if self.ends.len() + self.listeners.len() + self.queued.len() < MAX_SOCKETS {
                    self.parse(message);
                }
            })
        })
    }

    /// Adds one socket. Skips a message that is too short or of another type.
    fn parse(&mut self, message: &[u8]) -> Option<()> {
        let (mut fixed, mut attributes) = message.split_at_checked(diag::MESSAGE)?;
        let family = fixed.get_u8();
        // Skips the type.
        fixed.advance(1);
        let state = fixed.get_u8();
        fixed.advance(1);
        let inode = fixed.get_u32_ne();
        if family != diag::FAMILY || inode == 0 {
            return None;
        }
        let mut end = UnixEnd { peer: None, is_unread: false, name: None };
        let mut waiting: &[u8] = &[];
        while attributes.len() >= 4 {
            let mut header = attributes;
            let (length, kind) = (usize::from(header.get_u16_ne()), header.get_u16_ne());
            let Some(mut value) = attributes.get(4..length) else { break };
            match kind {
                diag::NAME => end.name = name(value),
                diag::PEER if value.len() >= 4 => end.peer = Some(value.get_u32_ne()).filter(|peer| *peer != 0),
                diag::ICONS => waiting = value,
                // Behind the length of the receive queue is that of the send queue: what the other end has not read.
                diag::RQLEN if value.len() >= 8 => {
                    value.advance(4);
                    end.is_unread = value.get_u32_ne() > 0;
                }
                _ => {}
            }
            attributes = attributes.get(wire::aligned(length)..).unwrap_or_default();
        }
        if state == state::LISTEN {
            let name = end.name?;
            let room = MAX_SOCKETS.saturating_sub(self.queued.len());
            let inodes = waiting.chunks_exact(4).map(|mut bytes| bytes.get_u32_ne());
            self.queued.extend(inodes.filter(|waiting| *waiting != 0).take(room).map(|waiting| (waiting, inode)));
            self.listeners.insert(inode, name);
        } else {
            self.ends.insert(inode, end);
        }
        Some(())
    }
}

/// Builds a `struct nlmsghdr` and a `struct unix_diag_req` for a dump of connected sockets and listeners.
fn request() -> [u8; diag::REQUEST] {
    let mut request = [0; diag::REQUEST];
    request[..4].copy_from_slice(&40_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&nl::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&nl::DUMP.to_ne_bytes());
    request[16] = diag::FAMILY;
    let states = 1_u32 << state::ESTABLISHED | 1 << state::LISTEN;
    request[20..24].copy_from_slice(&states.to_ne_bytes());
    request[28..32].copy_from_slice(&diag::SHOW.to_ne_bytes());
    request
}

/// Returns a name as people write it: a path without the zero behind it, or `@` and an abstract name.
fn name(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    match bytes.split_first()? {
        (0, abstract_name) => Some(format!("@{}", harmless_path(abstract_name))),
        _ => bytes.split(|byte| *byte == 0).next().map(harmless_path),
    }
}

/// Parses one batch of an answer, for the fuzz target.
#[cfg(fuzzing)]
pub(super) fn fuzz(part: &[u8]) {
    let mut table = UnixTable::default();
    let _last = wire::messages(part, |message| {
        table.parse(message);
    });
    assert!(table.ends.len() + table.listeners.len() <= part.len() / diag::MESSAGE);
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::{
            fd::AsFd,
            unix::net::{UnixListener, UnixStream},
        },
    };

    use proptest::prelude::*;
    use rustix::fs::fstat;

    use super::*;
    use crate::host::testing::Fixture;

    fn message(state: u8, inode: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![diag::FAMILY, 1, state, 0];
        message.extend(inode.to_ne_bytes());
        message.extend([0; 8]);
        for (kind, value) in attributes {
            message.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    #[test]
    fn both_ends_and_the_queue_of_a_listener_are_read() {
        let mut table = UnixTable::default();
        let path = b"/run/php.sock\0";
        table.parse(&message(state::LISTEN, 10, &[(diag::NAME, path), (diag::ICONS, &numbers(&[22, 23, 0]))]));
        table.parse(&message(
            state::ESTABLISHED,
            21,
            &[(diag::PEER, &numbers(&[31])), (diag::RQLEN, &numbers(&[7, 0]))],
        ));
        table.parse(&message(
            state::ESTABLISHED,
            22,
            &[(diag::PEER, &numbers(&[0])), (diag::RQLEN, &numbers(&[0, 768]))],
        ));
        table.parse(&message(state::ESTABLISHED, 31, &[(diag::NAME, path), (diag::PEER, &numbers(&[21]))]));
        table.parse(&message(state::ESTABLISHED, 41, &[(diag::NAME, b"\0x\x1b")]));
        let end = |peer, is_unread, name: Option<&str>| UnixEnd { peer, is_unread, name: name.map(str::to_owned) };
        assert_eq!(table.listeners, BTreeMap::from([(10, "/run/php.sock".to_owned())]));
        assert_eq!(table.queued, BTreeMap::from([(22, 10), (23, 10)]));
        let ends = [
            (21, end(Some(31), false, None)),
            (22, end(None, true, None)),
            (31, end(Some(21), false, Some("/run/php.sock"))),
            (41, end(None, false, Some("@x\\u{1b}"))),
        ];
        assert_eq!(table.ends, BTreeMap::from(ends));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
    fn the_kernel_lists_the_sockets_of_this_process() {
        let fixture = Fixture::new("unix-diag");
        let path = fixture.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (first, mut second) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        let accepted = listener.accept().unwrap().0;
        second.write_all(b"x").unwrap();
        let mut table = UnixTable::default();
        if let Err(error) = Netlink::open().and_then(|netlink| table.add(&netlink)) {
            // The kernel may lack the module unix_diag.
            eprintln!("skipped: {error}");
            return;
        }
        let inode = |socket: &dyn AsFd| u32::try_from(fstat(socket.as_fd()).unwrap().st_ino).unwrap();
        let end = |socket: &dyn AsFd| &table.ends[&inode(socket)];
        let name = path.to_str().unwrap();
        assert_eq!(table.listeners[&inode(&listener)], name);
        assert_eq!((end(&first).peer, end(&first).is_unread), (Some(inode(&accepted)), false));
        assert_eq!(end(&accepted).name.as_deref(), Some(name));
        assert_eq!((end(&second).peer, end(&second).is_unread), (None, true));
        assert_eq!(table.queued.get(&inode(&second)), Some(&inode(&listener)));
        assert_eq!(table.queued.get(&inode(&first)), None);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message in prop::collection::vec(any::<u8>(), 0..300)) {
            let _any = UnixTable::default().parse(&message);
        }

        #[test]
        fn a_damaged_message_does_not_either(at in 0_usize..100, with: u8) {
            let attributes: [(u16, &[u8]); 4] =
                [(diag::NAME, b"/a\0"), (diag::PEER, &[1, 0, 0, 0]), (diag::ICONS, &[1; 8]), (diag::RQLEN, &[1; 8])];
            let mut message = message(state::LISTEN, 7, &attributes);
            let at = at % message.len();
            message[at] = with;
            let _any = UnixTable::default().parse(&message);
        }
    }
}
