//! Packed form of a tracked socket.
//!
//! It loses nothing: a socket that does not fit is stored as it is (`wide`).

mod bit;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{interner::Interner, sockets::Interned};
use crate::{
    model::{Endpoint, Owner, Protocol, ReadState, Role, Since, Socket, SocketKey, Task, Timer, TimerKind},
    time::BootTime,
};

/// Facts that the sockets of one program share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Site {
    netns: Option<u32>,
    cgroup: Option<u64>,
    protocol: Protocol,
    local: IpAddr,
}

/// Units of the times of TCP, nanoseconds: the kernel counts in ticks of 1, 4 or 10 ms, or of a 300th of a second.
const UNITS: [u64; 3] = [1_000_000, 3_333_333, 1];

/// Place of a socket that is not in the queue.
pub(super) const NO_PLACE: u32 = u32::MAX;

/// Tracked socket in 128 bytes. Members that are unknown are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(super) key: SocketKey,
    pub(super) due: BootTime,
    /// Time of the entry, or the latest one.
    latest: BootTime,
    /// Latest time at which the socket is known to have been in CLOSE_WAIT, if that is not the time of the last refresh
    /// ([`bit::SEEN_REFRESHED`]), and the time to which those of TCP are relative.
    base: BootTime,
    touched: BootTime,
    refreshed: BootTime,
    cookie: u64,
    known: u32,
    /// Place in the queue of first reports, or [`NO_PLACE`].
    pub(super) place: u32,
    /// Number of the [`Site`].
    site: u32,
    /// IPv4 address, or number of the IPv6 address.
    remote: u32,
    local_port: u16,
    remote_port: u16,
    inode: u32,
    unread: u32,
    send_queue: u32,
    received: u32,
    sent: u32,
    acked: u32,
    received_high: u8,
    sent_high: u8,
    acked_high: u8,
    timer_retries: u8,
    /// Times of TCP in units before `base`.
    last_received: u32,
    last_ack: u32,
    last_sent: u32,
    /// Time in units after `base`.
    timer_expires: u32,
    /// Number of the owner's task, and descriptor.
    task: u32,
    fd: u32,
}

const _: () = assert!(size_of::<Packed>() == 128, "two cache lines");

/// SocketParts of a tracked socket.
#[derive(Clone, Copy)]
pub(super) struct SocketParts<'a> {
    pub(super) socket: &'a Socket,
    pub(super) since: Since,
    pub(super) seen: BootTime,
    pub(super) due: BootTime,
    pub(super) reported: bool,
    pub(super) refreshed: Option<BootTime>,
    pub(super) owners: Option<&'a [Owner]>,
    pub(super) found: &'a [Owner],
    pub(super) touched: BootTime,
}

/// Bits and values of facts, as far as they fit.
#[derive(Default)]
struct Packer {
    known: u32,
}

impl Packer {
    fn bit(&mut self, bit: u32, is_set: bool) {
        if is_set {
            self.known |= bit;
        }
    }

    fn known<T: Default>(&mut self, bit: u32, value: Option<T>) -> T {
        self.bit(bit, value.is_some());
        value.unwrap_or_default()
    }

    /// Splits a count of bytes; `None` if it does not fit.
    fn bytes(&mut self, bit: u32, value: Option<u64>) -> Option<(u32, u8)> {
        let value = self.known(bit, value);
        Some((value as u32, u8::try_from(value >> 32).ok()?))
    }

    /// Packs the times of TCP relative to one of them if the socket was last seen by its last refresh, so that later refreshes that find
    /// the same facts change only its time, and otherwise relative to `seen`. Returns the time to which they are relative, too; `None`
    /// if they do not fit.
    fn times(&mut self, socket: &Socket, seen: BootTime, refreshed: Option<BootTime>) -> Option<([u32; 4], BootTime)> {
        let Socket { last_received, last_ack, last_sent, timer, .. } = *socket;
        let latest = [last_received, last_ack, last_sent].into_iter().flatten().max();
        let base = latest.or(timer.map(|timer| timer.expires)).filter(|_| refreshed == Some(seen));
        if let Some((times, base)) = base.and_then(|base| Some((self.times_from(socket, base)?, base))) {
            self.known |= bit::SEEN_REFRESHED;
            return Some((times, base));
        }
        Some((self.times_from(socket, seen)?, seen))
    }

    /// Packs the times of TCP relative to `base`; `None` if they do not fit.
    fn times_from(&mut self, socket: &Socket, base: BootTime) -> Option<[u32; 4]> {
        let Socket { last_received, last_ack, last_sent, timer, .. } = *socket;
        if last_received.is_none() && last_ack.is_none() && last_sent.is_none() && timer.is_none() {
            return Some([0; 4]);
        }
        let before = [last_received, last_ack, last_sent].map(|time| base.0.checked_sub(time.unwrap_or(base).0));
        let after = timer.map_or(base, |timer| timer.expires).0.checked_sub(base.0);
        let [received, ack, sent] = before;
        let distances = [received?, ack?, sent?, after?];
        let fits = |unit: u64| distances.iter().all(|one| one % unit == 0 && one / unit <= u32::MAX.into());
        let (unit, nanos) = (0..).zip(UNITS).find(|(_, nanos)| fits(*nanos))?;
        self.known |= unit << bit::UNIT_SHIFT;
        self.bit(bit::LAST_RECEIVED, last_received.is_some());
        self.bit(bit::LAST_ACK, last_ack.is_some());
        self.bit(bit::LAST_SENT, last_sent.is_some());
        self.known |= match timer.map(|timer| timer.kind) {
            Some(TimerKind::On) => bit::TIMER_ON,
            Some(TimerKind::Keepalive) => bit::TIMER_KEEPALIVE,
            Some(TimerKind::Persist) => bit::TIMER_PERSIST,
            None => 0,
        };
        Some(distances.map(|one| (one / nanos) as u32))
    }

    /// Packs the owners; `None` if there are several descriptors.
    fn owner<'a>(&mut self, owners: Option<&'a [Owner]>, found: &'a [Owner]) -> Option<Option<&'a Owner>> {
        self.bit(bit::SCANNED, owners.is_some());
        self.bit(bit::FOUND, !found.is_empty());
        match (owners.unwrap_or_default(), found) {
            ([], []) => Some(None),
            ([], [one]) => Some(Some(one)),
            ([one], []) => {
                self.known |= bit::OWNED;
                Some(Some(one))
            }
            ([one], [same]) if one == same => {
                self.known |= bit::OWNED;
                Some(Some(one))
            }
            _ => None,
        }
    }
}

impl Packed {
    /// A socket of which nothing is known.
    pub(super) const EMPTY: Self = Self {
        key: SocketKey(0),
        due: BootTime(0),
        latest: BootTime(0),
        base: BootTime(0),
        touched: BootTime(0),
        refreshed: BootTime(0),
        cookie: 0,
        known: 0,
        place: NO_PLACE,
        site: 0,
        remote: 0,
        local_port: 0,
        remote_port: 0,
        inode: 0,
        unread: 0,
        send_queue: 0,
        received: 0,
        sent: 0,
        acked: 0,
        received_high: 0,
        sent_high: 0,
        acked_high: 0,
        timer_retries: 0,
        last_received: 0,
        last_ack: 0,
        last_sent: 0,
        timer_expires: 0,
        task: 0,
        fd: 0,
    };

    /// Packs a socket; `None` if it does not fit. The opener and the earliest entry are only marked.
    #[inline(always)]
    pub(super) fn new(key: SocketKey, parts: &SocketParts<'_>, interned: &mut Interned) -> Option<Self> {
        let SocketParts { socket, since, seen, due, reported, refreshed, owners, found, touched } = *parts;
        let mut packer = Packer::default();
        let (received, received_high) = packer.bytes(bit::RECEIVED, socket.received_bytes)?;
        let (sent, sent_high) = packer.bytes(bit::SENT, socket.sent_bytes)?;
        let (acked, acked_high) = packer.bytes(bit::ACKED, socket.acked_bytes)?;
        let inode = u32::try_from(packer.known(bit::INODE, socket.inode)).ok()?;
        let ([last_received, last_ack, last_sent, timer_expires], base) = packer.times(socket, seen, refreshed)?;
        let owner = packer.owner(owners, found)?;
        match since {
            Since::Exact(_) => packer.known |= bit::EXACT,
            Since::Between { earliest, .. } => packer.bit(bit::EARLIEST, earliest.is_some()),
        }
        match socket.role {
            Some(Role::Server) => packer.known |= bit::SERVER,
            Some(Role::Client) => packer.known |= bit::CLIENT,
            None => {}
        }
        packer.bit(bit::ACCEPTED_KNOWN, socket.accepted.is_some());
        packer.bit(bit::ACCEPTED, socket.accepted == Some(true));
        packer.bit(bit::KEEPALIVE_KNOWN, socket.keepalive.is_some());
        packer.bit(bit::KEEPALIVE, socket.keepalive == Some(true));
        packer.bit(bit::REPORTED, reported);
        packer.bit(bit::OPENER, socket.opener.is_some());
        let cookie = packer.known(bit::COOKIE, socket.cookie);
        let unread = packer.known(bit::UNREAD, socket.unread_bytes);
        let send_queue = packer.known(bit::SEND_QUEUE, socket.send_queue_bytes);
        let refreshed = packer.known(bit::REFRESHED, refreshed);
        // Nothing can fail from here on: each number is counted.
        let Socket { netns, cgroup, protocol, local, remote, timer, .. } = *socket;
        let site = interned.sites.acquire(&Site { netns, cgroup, protocol, local: local.address });
        let remote_address = match remote.address {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => {
                packer.known |= bit::V6;
                interned.addresses.acquire(&v6)
            }
        };
        let task = owner.map_or(0, |owner| interned.tasks.acquire(&owner.task));
        Some(Self {
            key,
            due,
            latest: since.latest(),
            base,
            touched,
            refreshed,
            cookie,
            known: packer.known,
            place: NO_PLACE,
            site,
            remote: remote_address,
            local_port: local.port,
            remote_port: remote.port,
            inode,
            unread,
            send_queue,
            received,
            sent,
            acked,
            received_high,
            sent_high,
            acked_high,
            timer_retries: timer.map_or(0, |timer| timer.retries),
            last_received,
            last_ack,
            last_sent,
            timer_expires,
            task,
            fd: owner.map_or(0, |owner| owner.fd),
        })
    }

    /// Returns the place of a socket that does not fit.
    pub(super) fn wide(key: SocketKey, due: BootTime) -> Self {
        Self { key, due, known: bit::WIDE, ..Self::EMPTY }
    }

    fn has(&self, bit: u32) -> bool {
        self.known & bit != 0
    }

    /// Whether the socket does not fit.
    pub(super) fn is_wide(&self) -> bool {
        self.has(bit::WIDE)
    }

    /// Whether all of the socket is here.
    pub(super) fn is_plain(&self) -> bool {
        !self.has(bit::WIDE | bit::EARLIEST | bit::OPENER)
    }

    pub(super) fn has_opener(&self) -> bool {
        self.has(bit::OPENER)
    }

    pub(super) fn has_earliest(&self) -> bool {
        self.has(bit::EARLIEST)
    }

    pub(super) fn is_reported(&self) -> bool {
        self.has(bit::REPORTED)
    }

    /// Frees the interned values.
    pub(super) fn release(&self, interned: &mut Interned) {
        if self.is_wide() {
            return;
        }
        interned.sites.release(self.site);
        if self.has(bit::V6) {
            interned.addresses.release(self.remote);
        }
        if self.has(bit::OWNED | bit::FOUND) {
            interned.tasks.release(self.task);
        }
    }

    /// Returns the numbers of the interned values.
    #[cfg(test)]
    pub(super) fn interned(&self) -> [Option<u32>; 3] {
        let task = self.known(bit::OWNED | bit::FOUND, self.task);
        [Some(self.site), self.known(bit::V6, self.remote), task]
    }

    fn known<T>(&self, bit: u32, value: T) -> Option<T> {
        self.has(bit).then_some(value)
    }

    pub(super) fn seen(&self) -> BootTime {
        if self.has(bit::SEEN_REFRESHED) { self.refreshed } else { self.base }
    }

    pub(super) fn touched(&self) -> BootTime {
        self.touched
    }

    pub(super) fn refreshed(&self) -> Option<BootTime> {
        self.known(bit::REFRESHED, self.refreshed)
    }

    /// Notes that the socket had the facts of its last refresh at `at`, which is later. Returns `false` if it has to be packed again.
    pub(super) fn unchanged(&mut self, at: BootTime) -> bool {
        const TIMES: u32 = bit::LAST_RECEIVED
            | bit::LAST_ACK
            | bit::LAST_SENT
            | bit::TIMER_ON
            | bit::TIMER_KEEPALIVE
            | bit::TIMER_PERSIST;
        if !self.has(bit::SEEN_REFRESHED) && at >= self.base {
            if self.has(TIMES) {
                return false;
            }
            self.base = at;
        }
        self.refreshed = at;
        true
    }

    /// Returns the time of the entry. `earliest` is the earliest one, if it is known.
    pub(super) fn since(&self, earliest: Option<BootTime>) -> Since {
        if self.has(bit::EXACT) { Since::Exact(self.latest) } else { Since::Between { earliest, latest: self.latest } }
    }

    pub(super) fn latest(&self) -> BootTime {
        self.latest
    }

    pub(super) fn role(&self) -> Option<Role> {
        if self.has(bit::SERVER) { Some(Role::Server) } else { self.known(bit::CLIENT, Role::Client) }
    }

    pub(super) fn accepted(&self) -> Option<bool> {
        self.known(bit::ACCEPTED_KNOWN, self.has(bit::ACCEPTED))
    }

    pub(super) fn cookie(&self) -> Option<u64> {
        self.known(bit::COOKIE, self.cookie)
    }

    pub(super) fn inode(&self) -> Option<u64> {
        self.known(bit::INODE, self.inode.into())
    }

    pub(super) fn read_state(&self) -> Option<ReadState> {
        let received = self.known(bit::RECEIVED, wide_bytes(self.received, self.received_high));
        ReadState::of(self.known(bit::UNREAD, self.unread), received)
    }

    pub(super) fn sent_bytes(&self) -> Option<u64> {
        self.known(bit::SENT, wide_bytes(self.sent, self.sent_high))
    }

    fn site(&self, interned: &Interned) -> Site {
        const UNKNOWN: Site =
            Site { netns: None, cgroup: None, protocol: Protocol::Tcp, local: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        interned.sites.get(self.site).copied().unwrap_or(UNKNOWN)
    }

    pub(super) fn protocol(&self, interned: &Interned) -> Protocol {
        self.site(interned).protocol
    }

    pub(super) fn netns(&self, interned: &Interned) -> Option<u32> {
        self.site(interned).netns
    }

    pub(super) fn cgroup(&self, interned: &Interned) -> Option<u64> {
        self.site(interned).cgroup
    }

    pub(super) fn ends(&self, interned: &Interned) -> (Endpoint, Endpoint) {
        self.site_and_ends(interned).1
    }

    /// Returns the network namespace and the cgroup, and the local and the remote endpoint.
    pub(super) fn site_and_ends(&self, interned: &Interned) -> ((Option<u32>, Option<u64>), (Endpoint, Endpoint)) {
        let Site { netns, cgroup, local, .. } = self.site(interned);
        let local = Endpoint { address: local, port: self.local_port };
        ((netns, cgroup), (local, self.remote(&interned.addresses)))
    }

    fn remote(&self, addresses: &Interner<Ipv6Addr>) -> Endpoint {
        let address = if self.has(bit::V6) {
            addresses.get(self.remote).copied().unwrap_or(Ipv6Addr::UNSPECIFIED).into()
        } else {
            Ipv4Addr::from_bits(self.remote).into()
        };
        Endpoint { address, port: self.remote_port }
    }

    /// Returns the facts about the socket, without the opener.
    pub(super) fn socket(&self, interned: &Interned) -> Socket {
        let Site { netns, cgroup, protocol, local } = self.site(interned);
        let unit = UNITS.get((self.known >> bit::UNIT_SHIFT & 3) as usize).copied().unwrap_or(1);
        let nanos = |units: u32| u64::from(units) * unit;
        let before = |bit, units| self.known(bit, BootTime(self.base.0.saturating_sub(nanos(units))));
        let kinds = [
            (bit::TIMER_ON, TimerKind::On),
            (bit::TIMER_KEEPALIVE, TimerKind::Keepalive),
            (bit::TIMER_PERSIST, TimerKind::Persist),
        ];
        let kind = kinds.into_iter().find(|(bit, _)| self.has(*bit)).map(|(_, kind)| kind);
        let expires = BootTime(self.base.0.saturating_add(nanos(self.timer_expires)));
        Socket {
            cookie: self.cookie(),
            netns,
            protocol,
            local: Endpoint { address: local, port: self.local_port },
            remote: self.remote(&interned.addresses),
            role: self.role(),
            inode: self.inode(),
            cgroup,
            accepted: self.accepted(),
            unread_bytes: self.known(bit::UNREAD, self.unread),
            received_bytes: self.known(bit::RECEIVED, wide_bytes(self.received, self.received_high)),
            sent_bytes: self.sent_bytes(),
            keepalive: self.known(bit::KEEPALIVE_KNOWN, self.has(bit::KEEPALIVE)),
            acked_bytes: self.known(bit::ACKED, wide_bytes(self.acked, self.acked_high)),
            send_queue_bytes: self.known(bit::SEND_QUEUE, self.send_queue),
            last_received: before(bit::LAST_RECEIVED, self.last_received),
            last_ack: before(bit::LAST_ACK, self.last_ack),
            last_sent: before(bit::LAST_SENT, self.last_sent),
            timer: kind.map(|kind| Timer { kind, expires, retries: self.timer_retries }),
            opener: None,
        }
    }

    /// Whether the owners are known, and whether there is one.
    pub(super) fn owned(&self) -> Option<bool> {
        self.known(bit::SCANNED, self.has(bit::OWNED))
    }

    /// Whether the running scan has found the descriptor.
    pub(super) fn is_found(&self) -> bool {
        self.has(bit::FOUND)
    }

    /// Returns the task of the only descriptor, if there is one.
    pub(super) fn owner_task<'a>(&self, interned: &'a Interned) -> Option<&'a Task> {
        interned.tasks.get(self.task).filter(|_| self.has(bit::OWNED | bit::FOUND))
    }

    /// Returns the only descriptor, if there is one.
    pub(super) fn owner(&self, interned: &Interned) -> Option<Owner> {
        Some(Owner { task: self.owner_task(interned)?.clone(), fd: self.fd })
    }
}

fn wide_bytes(low: u32, high: u8) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
