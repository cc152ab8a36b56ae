//! Counts of sockets that pass through CLOSE_WAIT within moments: of busy flows, they have no records.
//!
//! The agent maps the array into its memory and writes the keys of flows to it. A program counts an exit of one of these flows in place
//! of a record; of any other flow, it writes the record. A flow is a local port of servers, or a remote endpoint of clients, as the engine
//! groups sockets.
//!
//! A flow has one of two places that its key without the cgroup tells: a program reads the cgroup only if the rest fits, because that takes as
//! many instructions as all other parts together. Each place has one part for each of some CPUs ([`MAX_PARTS`]), so that few
//! CPUs write to one cache line. All changes of counts are atomic: programs add, and the agent takes a count by a swap with 0, so that
//! each exit is taken once, also by the next agent.

use crate::histogram;

/// Number of places, a power of two. Flows without one have records.
pub const PLACES: u32 = 128;
/// Maximum number of parts of a place, a power of two.
pub const MAX_PARTS: u32 = 8;
/// Binary logarithm of the shortest dwell time that is counted here, nanoseconds; a shorter one has a record.
const SHORTEST_POWER: u32 = 10;
/// Binary logarithm of the dwell time from which on an exit has a record, nanoseconds: about half a second.
const LONGEST_POWER: u32 = 29;
/// Bucket of the shortest dwell time, of [`crate::histogram`].
pub const FIRST_BUCKET: usize = histogram::index(1 << SHORTEST_POWER);
/// Number of buckets.
pub const BUCKETS: usize = histogram::index(1 << LONGEST_POWER) - FIRST_BUCKET;

/// Number of words of a key.
pub const KEY_WORDS: usize = 4;
/// Index of the word with the cgroup of clients; the words before it tell the place.
pub const CGROUP: usize = KEY_WORDS - 1;
/// Index of the word with the time of the last exit, `CLOCK_BOOTTIME` nanoseconds. Written after its count.
pub const LAST_NS: usize = KEY_WORDS;
/// Index of the word with the longest dwell time since the agent took it, nanoseconds.
pub const LONGEST_NS: usize = LAST_NS + 1;
/// Index of the word in which the counts of dwell times begin, two in each word.
pub const DWELL: usize = LONGEST_NS + 1;
/// Number of words of a part.
pub const PART_WORDS: usize = DWELL + BUCKETS / 2;
/// First word of a key that no flow has.
pub const NO_KEY: u64 = 0;

const _: () = assert!(BUCKETS == 608 && FIRST_BUCKET == 192);

/// Part of the counts of one flow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Part(pub [u64; PART_WORDS]);

const _: () = assert!(size_of::<Part>() == 2480);

/// Side of a flow's connections.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Accepted connections of a local port.
    Server = 1,
    /// Connections to a remote endpoint.
    Client = 2,
}

/// Key of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassKey(pub [u64; KEY_WORDS]);

impl PassKey {
    /// Returns the key of the accepted connections of a local port in the network namespace with this inode.
    #[inline(always)]
    pub const fn server(netns: u32, port: u16) -> Self {
        Self([first(netns, port, Side::Server), 0, 0, 0])
    }

    /// Returns the key of the connections to a remote endpoint from a cgroup, in the network namespace with this inode. An IPv4 address is
    /// mapped to IPv6; the id of the cgroup v2 is 0 if it is unknown.
    #[inline(always)]
    pub const fn client(netns: u32, cgroup: u64, remote: [u8; 16], port: u16) -> Self {
        let (high, low) = (
            [remote[0], remote[1], remote[2], remote[3], remote[4], remote[5], remote[6], remote[7]],
            [remote[8], remote[9], remote[10], remote[11], remote[12], remote[13], remote[14], remote[15]],
        );
        Self([first(netns, port, Side::Client), u64::from_ne_bytes(high), u64::from_ne_bytes(low), cgroup])
    }

    /// Returns the side; `None` if this is no key.
    pub const fn side(self) -> Option<Side> {
        match self.0[0] & 0xffff {
            1 => Some(Side::Server),
            2 => Some(Side::Client),
            _ => None,
        }
    }

    /// Returns the inode of the network namespace.
    pub const fn netns(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Returns the local port of a server, or the remote one of clients.
    pub const fn port(self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    /// Returns the remote address of clients, an IPv4 address mapped to IPv6.
    pub const fn remote(self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Returns the id of the cgroup v2 of clients; `None` if it is unknown.
    pub const fn cgroup(self) -> Option<u64> {
        match self.0[CGROUP] {
            0 => None,
            cgroup => Some(cgroup),
        }
    }

    /// Returns the two places that the flow can have; they can be the same.
    #[inline(always)]
    pub const fn places(self) -> [u32; 2] {
        /// 2^64 divided by the golden ratio, and two other odd numbers: multiples of them spread evenly.
        const FACTORS: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9];
        let [first, high, low, _cgroup] = self.0;
        let words = first.wrapping_add(high.wrapping_mul(FACTORS[1])).wrapping_add(low.wrapping_mul(FACTORS[2]));
        // A product has the last byte of an address, which is the highest one, only in its highest byte.
        let hash = (words ^ words >> 32).wrapping_mul(FACTORS[0]);
        [(hash >> 57) as u32 % PLACES, (hash >> 50) as u32 % PLACES]
    }
}

/// Returns the first word of a key; it is not [`NO_KEY`].
#[inline(always)]
const fn first(netns: u32, port: u16, side: Side) -> u64 {
    (netns as u64) << 32 | (port as u64) << 16 | side as u64
}

/// Returns the number of parts on a host with this number of CPUs: a power of two.
pub const fn parts(cpus: u32) -> u32 {
    if cpus >= MAX_PARTS { MAX_PARTS } else { cpus.next_power_of_two() }
}

/// Returns the index of a part in the array. `mask` is the number of parts of a place minus one.
#[inline(always)]
pub const fn index(place: u32, cpu: u32, mask: u32) -> u32 {
    place * (mask + 1) + (cpu & mask)
}

// SAFETY: a `repr(C)` struct of `u64` alone: no padding, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Part {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_tells_its_parts(netns: u32, port: u16, remote: [u8; 16], cgroup: u64) {
            let server = PassKey::server(netns, port);
            prop_assert_eq!((server.side(), server.netns(), server.port()), (Some(Side::Server), netns, port));
            let client = PassKey::client(netns, cgroup, remote, port);
            prop_assert_eq!((client.netns(), client.port(), client.remote(), client.cgroup()), (netns, port, remote, (cgroup != 0).then_some(cgroup)));
            for key in [server, client] {
                prop_assert!(key.0[0] != NO_KEY && key.places().iter().all(|place| *place < PLACES));
            }
        }
    }

    #[test]
    fn most_of_fifty_flows_have_a_place() {
        let servers = (0..25).map(|port| PassKey::server(4_026_531_840, 8000 + port));
        let remote = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
        let clients = (0..25).map(|last| PassKey::client(4_026_531_840, 4711, remote(last), 5432));
        let mut taken = [false; PLACES as usize];
        let found = servers.chain(clients).filter(|key| {
            let place = key.places().into_iter().find(|place| !taken[*place as usize]);
            place.is_some_and(|place| !core::mem::replace(&mut taken[place as usize], true))
        });
        assert!(found.count() >= 45);
    }

    #[test]
    fn parts_do_not_overlap() {
        for cpus in [1, 2, 3, 8, 9, 4096] {
            let parts = parts(cpus);
            assert!(parts.is_power_of_two() && parts <= MAX_PARTS && parts >= cpus.min(MAX_PARTS), "{cpus}");
            assert_eq!(index(1, 0, parts - 1), index(0, parts - 1, parts - 1) + 1);
            assert_eq!(index(3, parts, parts - 1), index(3, 0, parts - 1));
        }
    }
}
