//! Memory of a saved image, in which an input changes what single reads return.

use std::{cell::Cell, collections::BTreeMap};

use closewait_stacks::{
    Memory, MemoryError, MemoryReader, ProgramKind, TargetProcess, image::Image, memory::ReadLimit, stack::MAX_FRAMES,
};

/// Number of reads that one pass may need; a sound image of the tests needs fewer than 1,000.
const MOST_READS: u32 = 20_000;

/// Bytes of the input for one change: number of the read, kind, place in the read, value.
const CHANGE: usize = 12;

/// Reads the stacks of one of `images`, which the first byte of an input selects and the others change, and checks them.
pub fn check(kind: ProgramKind, images: &[Image], bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let image = &images[usize::from(*which) % images.len()];
    let memory = ChangedImage::new(image, bytes);
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads) = (&image.mappings, &image.threads);
    let process = TargetProcess { memory: MemoryReader::new(&memory, &limit), mappings, threads, symbols: image };
    if let Ok(stacks) = kind.stacks(&process) {
        assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
        assert!(
            stacks.iter().all(|stack| !stack.frames.is_empty() || stack.cut.is_some() || stack.state.is_some()),
            "an empty stack has a reason"
        );
    }
}

/// Reads images of the tests.
pub fn images<const N: usize>(images: [&[u8]; N]) -> [Image; N] {
    images.map(|image| Image::from_bytes(image).expect("an image of the tests"))
}

/// Image whose reads the input changes.
struct ChangedImage<'a> {
    image: &'a Image,
    changes: BTreeMap<u16, &'a [u8]>,
    reads: Cell<u16>,
    last: Cell<u64>,
}

impl<'a> ChangedImage<'a> {
    /// Returns `image` with the changes in `bytes`, 12 bytes each.
    fn new(image: &'a Image, bytes: &'a [u8]) -> Self {
        let changes = bytes.chunks_exact(CHANGE);
        let changes = changes.map(|change| (u16::from_le_bytes([change[0], change[1]]) % 2048, &change[2..]));
        Self { image, changes: changes.collect(), reads: Cell::new(0), last: Cell::new(0) }
    }
}

impl Memory for ChangedImage<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let number = self.reads.get();
        self.reads.set(number.wrapping_add(1));
        let change = self.changes.get(&number);
        if let Err(error) = self.image.read(address, into) {
            // Zeros keep the reader going behind an address that the image does not have.
            match change {
                Some(_) => into.fill(0),
                None => return Err(error),
            }
        }
        let Some(change) = change.and_then(|change| change.first_chunk::<10>()) else { return Ok(()) };
        let [kind, place, value @ ..] = *change;
        let at = usize::from(place) * 8 % into.len().max(1);
        let word = &mut into[at..];
        let len = word.len().min(8);
        let word = &mut word[..len];
        let mut old = [0; 8];
        old[..len].copy_from_slice(word);
        let (old, value) = (u64::from_le_bytes(old), u64::from_le_bytes(value));
        let new = match kind % 5 {
            0 => value,
            1 => old.wrapping_add(value),
            2 => old ^ value,
            3 => self.last.get().wrapping_add(value % 64 * 8),
            _ => return Err(MemoryError::Unreadable { address, len: into.len() }),
        };
        self.last.set(old);
        word.copy_from_slice(&new.to_le_bytes()[..len]);
        Ok(())
    }
}
