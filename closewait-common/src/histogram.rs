//! Buckets of the dwell histogram, for the kernel program that counts and the agent that reads.
//!
//! Log-linear over all of `u64`: every power of two is divided into [`SUBDIVISIONS`] equal buckets, so the width of a
//! bucket is at most 1/32 (3.2 %) of its lower edge, and each value below 64 has its own bucket. This is the H2
//! scheme. It is here, and not in a crate, because the kernel program has to compute the same index without a
//! standard library.

/// Binary logarithm of [`SUBDIVISIONS`].
const GROUPING_POWER: u32 = 5;
/// Buckets per power of two.
pub const SUBDIVISIONS: u64 = 1 << GROUPING_POWER;
/// Value below which each value has its own bucket.
const LINEAR: u64 = SUBDIVISIONS * 2;
/// Number of buckets that cover every `u64`.
pub const BUCKETS: usize = (LINEAR + (63 - GROUPING_POWER as u64) * SUBDIVISIONS) as usize;

/// Returns the bucket that counts `value`; always below [`BUCKETS`].
#[inline(always)]
pub const fn index(value: u64) -> usize {
    if value < LINEAR {
        return value as usize;
    }
    // The processor of kernel programs has no instruction for that, but a search by halves, with half as many instructions as the compiler's
    // replacement, would have the verifier follow 64 paths.
    let power = 63 - value.leading_zeros();
    let within = (value >> (power - GROUPING_POWER)) - SUBDIVISIONS;
    (LINEAR + (power as u64 - GROUPING_POWER as u64 - 1) * SUBDIVISIONS + within) as usize
}

/// Returns the lowest value that `index` counts. `index` must be below [`BUCKETS`].
pub const fn lower_edge(index: usize) -> u64 {
    let index = index as u64;
    if index < LINEAR {
        return index;
    }
    let above = index - LINEAR;
    let shift = above / SUBDIVISIONS + 1;
    (SUBDIVISIONS + above % SUBDIVISIONS) << shift
}

/// Returns the highest value that `index` counts. `index` must be below [`BUCKETS`].
pub const fn upper_edge(index: usize) -> u64 {
    if index + 1 == BUCKETS { u64::MAX } else { lower_edge(index + 1) - 1 }
}

const _: () = assert!(BUCKETS == 1920);
const _: () = assert!(index(u64::MAX) == BUCKETS - 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_have_a_bucket_each() {
        for value in 0..LINEAR {
            assert_eq!(index(value), value as usize);
            assert_eq!((lower_edge(value as usize), upper_edge(value as usize)), (value, value));
        }
    }

    #[test]
    fn buckets_join_without_gap_or_overlap() {
        for i in 1..BUCKETS {
            assert_eq!(lower_edge(i), upper_edge(i - 1) + 1, "bucket {i}");
            assert_eq!(index(lower_edge(i)), i);
            assert_eq!(index(upper_edge(i)), i);
        }
    }

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket(value: u64) {
            let i = index(value);
            prop_assert!(i < BUCKETS);
            prop_assert!(lower_edge(i) <= value && value <= upper_edge(i));
        }

        #[test]
        fn a_bucket_is_at_most_a_thirty_second_wide(value in LINEAR..) {
            let i = index(value);
            prop_assert!(upper_edge(i) - lower_edge(i) < lower_edge(i) / SUBDIVISIONS + 1);
        }
    }
}
