//! Saved images of processes: what a read of a running process needed, for tests.
//!
//! An [`ImageRecorder`] is between a reader and a running process, and keeps the blocks of memory and the symbols that the reader asks for. An
//! [`Image`] answers the same questions later, on any machine.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
};

use serde::{Deserialize, Serialize};

use super::{
    memory::{Memory, MemoryError},
    process::{Mapping, Symbols, TargetThread},
};

/// Number of bytes of a kept block, and its alignment. It divides the size of every page, so a block is mapped whole or not at all.
const BLOCK: u64 = 256;
/// Maximum size of an uncompressed image, bytes.
const MAX_IMAGE: u64 = 64 << 20;

/// Saved image of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Mappings of the process.
    pub mappings: Vec<Mapping>,
    /// Threads of the process.
    pub threads: Vec<TargetThread>,
    blocks: BTreeMap<u64, Vec<u8>>,
    named: BTreeMap<(String, String), Option<u64>>,
    at: BTreeMap<(String, u64), Option<(String, u64)>>,
}

impl Image {
    /// Reads an image from a file as [`Self::to_bytes`] makes it.
    ///
    /// # Errors
    ///
    /// If the bytes are no image.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut plain = Vec::new();
        flate2::read::DeflateDecoder::new(bytes).take(MAX_IMAGE).read_to_end(&mut plain)?;
        postcard::from_bytes(&plain).map_err(io::Error::other)
    }

    /// Returns the compressed bytes of a file for this image.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded; memory is the only reason.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let plain = postcard::to_extend(self, Vec::new()).map_err(io::Error::other)?;
        let mut compressed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        compressed.write_all(&plain)?;
        compressed.finish()
    }
}

impl Memory for Image {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let unreadable = MemoryError::Unreadable { address, len: into.len() };
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let block = self.blocks.get(&(at / BLOCK * BLOCK)).ok_or(unreadable)?;
            let from = usize::try_from(at % BLOCK).map_err(|_large| unreadable)?;
            let part = block.get(from..).filter(|part| !part.is_empty()).ok_or(unreadable)?;
            let len = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&part[..len]);
            rest = later;
            at = at.checked_add(len as u64).ok_or(unreadable)?;
        }
        Ok(())
    }
}

impl Symbols for Image {
    fn named(&self, mapping: &Mapping, name: &str) -> Option<u64> {
        *self.named.get(&(mapping.path.clone(), name.to_owned()))?
    }

    fn at(&self, mapping: &Mapping, address: u64) -> Option<(String, u64)> {
        self.at.get(&(mapping.path.clone(), address))?.clone()
    }
}

/// Keeps what is read from a process.
pub struct ImageRecorder<'a> {
    memory: &'a dyn Memory,
    symbols: &'a dyn Symbols,
    image: RefCell<Image>,
}

impl<'a> ImageRecorder<'a> {
    /// Returns a recorder of a process with these mappings and threads.
    pub fn new(
        memory: &'a dyn Memory,
        symbols: &'a dyn Symbols,
        mappings: &[Mapping],
        threads: &[TargetThread],
    ) -> Self {
        let image = Image { mappings: mappings.to_vec(), threads: threads.to_vec(), ..Image::default() };
        Self { memory, symbols, image: RefCell::new(image) }
    }

    /// Returns what was read.
    pub fn finish(self) -> Image {
        self.image.into_inner()
    }
}

impl Memory for ImageRecorder<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address, into)?;
        let end = address.saturating_add(into.len() as u64);
        let mut blocks = (address / BLOCK * BLOCK..end).step_by(BLOCK as usize);
        blocks.try_for_each(|start| {
            let mut block = vec![0; BLOCK as usize];
            self.memory.read(start, &mut block)?;
            self.image.borrow_mut().blocks.entry(start).or_insert(block);
            Ok(())
        })
    }
}

impl Symbols for ImageRecorder<'_> {
    fn named(&self, mapping: &Mapping, name: &str) -> Option<u64> {
        let found = self.symbols.named(mapping, name);
        self.image.borrow_mut().named.insert((mapping.path.clone(), name.to_owned()), found);
        found
    }

    fn at(&self, mapping: &Mapping, address: u64) -> Option<(String, u64)> {
        let found = self.symbols.at(mapping, address);
        self.image.borrow_mut().at.insert((mapping.path.clone(), address), found.clone());
        found
    }
}

impl std::fmt::Debug for ImageRecorder<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("ImageRecorder").field("image", &self.image).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::NoSymbols;

    struct Zeros;

    impl Memory for Zeros {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            for (byte, at) in into.iter_mut().zip(address..) {
                *byte = (at / 7) as u8;
            }
            Ok(())
        }
    }

    #[test]
    fn an_image_answers_as_the_process_did() {
        let (mut read, mut replayed) = ([0; 700], [0; 700]);
        let recorder = ImageRecorder::new(&Zeros, &NoSymbols, &[Mapping::default()], &[]);
        recorder.read(1000, &mut read).unwrap();
        assert_eq!(recorder.named(&Mapping::default(), "main"), None);
        let image = recorder.finish();
        let image = Image::from_bytes(&image.to_bytes().unwrap()).unwrap();
        assert_eq!(image.mappings.len(), 1);
        image.read(1000, &mut replayed).unwrap();
        assert_eq!(read, replayed);
        assert!(image.read(10_000, &mut replayed).is_err());
        assert!(Image::from_bytes(b"something else").is_err());
    }
}
