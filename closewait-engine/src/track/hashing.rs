//! Hashers of the engine's tables. Each table has a random seed of its own.
//!
//! The seed is the one thing in the engine that does not come from its input. It decides where a table keeps an entry and
//! nothing else: no table is iterated in the order of its hashes (`clippy.toml` refuses that), so findings do not depend on it.

/// Hasher for keys that other hosts or users choose: addresses, ports, cgroups. `SipHash` with a random key: whoever does not
/// know the key cannot find keys that collide, also by measuring how long the agent takes.
pub(crate) type KeyedState = std::hash::RandomState;

/// Hasher for tables by [`crate::model::SocketKey`], and for small ones: the kernel chooses addresses, and a key made of ends
/// is a keyed hash already. So a fast hash is enough, which does not claim to withstand chosen keys.
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
