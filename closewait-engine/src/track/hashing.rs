//! Hashers of the engine's tables. Each table has its own random seed.
//!
//! The seeds are the only state of the engine that does not come from its input. They decide only the place of an entry in a
//! table: no code iterates over a table in the order of its hashes (`clippy.toml` refuses that), so findings do not depend on the
//! seeds.

/// Hasher for keys that other hosts or users choose: addresses, ports, cgroups. `SipHash` with a random key: an attacker who does
/// not know the key cannot find colliding keys, even by measuring the time that the agent takes.
pub(crate) type KeyedState = std::hash::RandomState;

/// Hasher for tables by [`crate::model::SocketKey`], and for small tables. The kernel chooses addresses, and a key that is
/// computed from endpoints is already a keyed hash, so a fast hash suffices, which does not claim to withstand chosen keys.
pub(crate) type FastState = foldhash::fast::RandomState;

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;
    use crate::{model::SocketKey, testing::socket};

    #[test]
    fn every_table_has_a_seed_of_its_own() {
        let ends = (socket().local, socket().remote);
        let keyed = [0; 8].map(|_| KeyedState::default().hash_one(ends));
        let by_key = [0; 8].map(|_| FastState::default().hash_one(SocketKey(1)));
        for hashes in [keyed, by_key] {
            let distinct: std::collections::BTreeSet<u64> = hashes.into_iter().collect();
            assert_eq!(distinct.len(), hashes.len(), "{hashes:?}");
        }
    }
}
