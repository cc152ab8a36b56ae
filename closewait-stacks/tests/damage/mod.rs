//! Damaged images of processes.

use closewait_stacks::{Memory, MemoryError, image::Image};

/// Image with damages that a seed selects.
pub(crate) struct Damaged<'a> {
    pub(crate) image: &'a Image,
    pub(crate) seed: u64,
    pub(crate) damage: Damage,
}

/// Kind of damage.
#[derive(Clone, Copy)]
pub(crate) enum Damage {
    /// Of this number of blocks of 256 bytes, one cannot be read.
    Missing(u64),
    /// Of this number of bytes, one is another.
    Bytes(u64),
    /// Of this number of words, one is that of another place, so that pointers lead to plausible addresses and lists have cycles.
    Words(u64),
}

/// Returns a number that looks random (the finalizer of SplitMix64).
fn mix(seed: u64, value: u64) -> u64 {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(value);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Memory for Damaged<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.image.read(address, into)?;
        let end = address + into.len() as u64;
        match self.damage {
            Damage::Missing(one_of) => {
                let mut blocks = (address / 256..end.div_ceil(256)).map(|block| mix(self.seed, block));
                if blocks.any(|block| block.is_multiple_of(one_of)) {
                    return Err(MemoryError::Unreadable { address, len: into.len() });
                }
            }
            Damage::Bytes(one_of) => {
                for (byte, at) in into.iter_mut().zip(address..) {
                    let random = mix(self.seed, at);
                    if random.is_multiple_of(one_of) {
                        *byte = (random >> 32) as u8;
                    }
                }
            }
            Damage::Words(one_of) => {
                let mut other = [0; 8];
                for (word, at) in into.chunks_exact_mut(8).zip((address..).step_by(8)) {
                    let random = mix(self.seed, at);
                    let distance = 8 * ((random >> 32) % 512);
                    if random.is_multiple_of(one_of) && self.image.read(at.wrapping_sub(distance), &mut other).is_ok() {
                        word.copy_from_slice(&other);
                    }
                }
            }
        }
        Ok(())
    }
}
