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

/// Serialization of a table as its entries in the order of their keys, so that equal states have equal bytes.
pub(crate) mod by_key {
    use std::{
        collections::HashMap,
        hash::{BuildHasher, Hash},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    fn entries<K: Ord, V, H>(table: &HashMap<K, V, H>) -> Vec<(&K, &V)> {
        #[expect(clippy::disallowed_methods, reason = "sorted in the next line")]
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries
    }

    pub(crate) fn serialize<K, V, H, S>(table: &HashMap<K, V, H>, to: S) -> Result<S::Ok, S::Error>
    where
        K: Ord + Serialize,
        V: Serialize,
        S: Serializer,
    {
        to.collect_seq(entries(table))
    }

    pub(crate) fn deserialize<'de, K, V, H, D>(from: D) -> Result<HashMap<K, V, H>, D::Error>
    where
        K: Eq + Hash + Deserialize<'de>,
        V: Deserialize<'de>,
        H: BuildHasher + Default,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
    }

    /// Serialization of a table that may be missing.
    pub(crate) mod optional {
        use super::{BuildHasher, Deserialize, Deserializer, Hash, HashMap, Serialize, Serializer, entries};

        pub(crate) fn serialize<K, V, H, S>(table: &Option<HashMap<K, V, H>>, to: S) -> Result<S::Ok, S::Error>
        where
            K: Ord + Serialize,
            V: Serialize,
            S: Serializer,
        {
            table.as_ref().map(entries).serialize(to)
        }

        pub(crate) fn deserialize<'de, K, V, H, D>(from: D) -> Result<Option<HashMap<K, V, H>>, D::Error>
        where
            K: Eq + Hash + Deserialize<'de>,
            V: Deserialize<'de>,
            H: BuildHasher + Default,
            D: Deserializer<'de>,
        {
            Ok(Option::<Vec<(K, V)>>::deserialize(from)?.map(|entries| entries.into_iter().collect()))
        }
    }

    /// Serialization of a set as its sorted elements.
    pub(crate) mod set {
        use std::collections::HashSet;

        use super::{BuildHasher, Deserialize, Deserializer, Hash, Serialize, Serializer};

        pub(crate) fn serialize<K, H, S>(set: &HashSet<K, H>, to: S) -> Result<S::Ok, S::Error>
        where
            K: Ord + Serialize,
            S: Serializer,
        {
            #[expect(clippy::disallowed_methods, reason = "sorted in the next line")]
            let mut keys: Vec<_> = set.iter().collect();
            keys.sort_unstable();
            to.collect_seq(keys)
        }

        pub(crate) fn deserialize<'de, K, H, D>(from: D) -> Result<HashSet<K, H>, D::Error>
        where
            K: Eq + Hash + Deserialize<'de>,
            H: BuildHasher + Default,
            D: Deserializer<'de>,
        {
            Ok(Vec::<K>::deserialize(from)?.into_iter().collect())
        }
    }
}

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
