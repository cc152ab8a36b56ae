//! Index of the names of types: a table of chains. Building one takes a fraction of the time that sorting the names takes, and a
//! program looks up some 50 of 100,000.

/// Numbers of types by the hashes of their names.
#[derive(Default)]
pub(super) struct NameIndex {
    /// Number of the first type of each chain; 0 for an empty chain. The length is a power of two.
    heads: Vec<u32>,
    /// Number of the next type in the chain of each type, 0 at the end. The first is that of type 0, which has no name.
    next: Vec<u32>,
}

impl NameIndex {
    /// Indexes types 1 to `count`. `hash` returns the hash of a type's name; `None` for a type that nobody looks up.
    pub(super) fn of(count: usize, hash: impl Fn(u32) -> Option<u32>) -> Self {
        // Two of three types have no name.
        let mut index = Self { heads: vec![0; (count / 2).next_power_of_two()], next: vec![0; count + 1] };
        // The last type first, so that chains ascend.
        for id in (1..=u32::try_from(count).unwrap_or(u32::MAX)).rev() {
            let Some(hash) = hash(id) else { continue };
            let chain = index.chain(hash);
            if let (Some(head), Some(next)) = (index.heads.get_mut(chain), index.next.get_mut(id as usize)) {
                *next = std::mem::replace(head, id);
            }
        }
        index
    }

    /// Returns the types of a chain, in ascending order: at least those whose names have this hash.
    pub(super) fn of_hash(&self, hash: u32) -> impl Iterator<Item = u32> {
        let number = |id: Option<&u32>| id.copied().filter(|id| *id != 0);
        let first = number(self.heads.get(self.chain(hash)));
        std::iter::successors(first, move |id| number(self.next.get(*id as usize)))
    }

    fn chain(&self, hash: u32) -> usize {
        hash as usize & self.heads.len().saturating_sub(1)
    }
}

/// Hashes a name until its end or its first 0, eight bytes at a time.
pub(super) fn hash(name: &[u8]) -> u32 {
    /// Odd, with bits all over.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0_u64;
    let mut rest = name;
    loop {
        let word = match rest.split_first_chunk() {
            Some((word, later)) => {
                rest = later;
                u64::from_le_bytes(*word)
            }
            // Fewer than eight bytes, so one is 0 here.
            None => {
                let mut last = [0; 8];
                last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(last)
            }
        };
        // The lowest marked bit is the first byte that is 0; bits above it may be wrong.
        let zeros = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
        let ends = zeros != 0;
        // Bits below the first marked one.
        let kept = if ends { word & (zeros ^ zeros.wrapping_sub(1)) >> 8 } else { word };
        hash = (hash ^ kept).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
        if ends {
            return (hash >> 8) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_ends_with_the_name() {
        for length in 0..40 {
            let name: Vec<u8> = (1..=length).collect();
            let padded = |with: &[u8]| [&name, with].concat();
            for rest in [&b"\0"[..], b"\0x", b"\0\0\0\0\0\0\0\0\0", b"\0\x01\x80\xff\0abcdefgh"] {
                assert_eq!(hash(&padded(rest)), hash(&name), "{length} {rest:?}");
            }
            assert_ne!(hash(&padded(b"x")), hash(&name), "{length}");
        }
    }

    #[test]
    fn each_type_is_found_by_its_hash_in_ascending_order() {
        for count in [0, 1, 2, 1000] {
            let hash_of = |id: u32| (!id.is_multiple_of(3)).then_some(id % 7);
            let index = NameIndex::of(count, hash_of);
            for hash in 0..9 {
                let found: Vec<u32> = index.of_hash(hash).filter(|id| hash_of(*id) == Some(hash)).collect();
                let expected: Vec<u32> = (1..=count as u32).filter(|id| hash_of(*id) == Some(hash)).collect();
                assert_eq!(found, expected);
            }
        }
        assert_eq!(NameIndex::default().of_hash(5).count(), 0);
    }
}
