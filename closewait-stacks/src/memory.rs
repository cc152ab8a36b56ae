//! Reads of another process's memory, with a limit.

use std::sync::Arc;

pub use super::limit::{ReadBound, ReadLimit};

/// Memory of a process.
pub trait Memory {
    /// Fills `into` with the bytes at `address`.
    ///
    /// # Errors
    ///
    /// If a part of them cannot be read: nothing is mapped there, the process has ended, or reading is not allowed.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError>;

    /// Whether the reading may go on. It asks often, also while it computes and reads nothing.
    fn may_go_on(&self) -> bool {
        true
    }
}

/// Error of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A part of the range cannot be read.
    #[error("{len} bytes at {address:#x} cannot be read")]
    Unreadable {
        /// First address.
        address: u64,
        /// Number of bytes.
        len: usize,
    },
    /// The bytes are in a mapping that is never read: their file system may not answer, or the read could change something.
    #[error("it is on {0}")]
    Refused(&'static str),
    /// A limit is reached: what is read may have no end.
    #[error("{0}")]
    Limit(ReadBound),
}

impl From<ReadBound> for MemoryError {
    fn from(bound: ReadBound) -> Self {
        Self::Limit(bound)
    }
}

/// Reads values of a little-endian process, up to a limit.
///
/// The limit is shared by everything that one pass reads from one process, so that no structure in its memory, whatever it contains,
/// can keep the pass busy.
#[derive(Clone, Copy)]
pub struct MemoryReader<'a> {
    memory: &'a dyn Memory,
    limit: &'a ReadLimit,
}

impl<'a> MemoryReader<'a> {
    /// Returns a reader of `memory` up to `limit`.
    pub const fn new(memory: &'a dyn Memory, limit: &'a ReadLimit) -> Self {
        Self { memory, limit }
    }

    /// Fills `into` with the bytes at `address`. Takes steps for the work on all of them.
    ///
    /// # Errors
    ///
    /// If a part of them cannot be read, or a limit is reached.
    pub fn fill(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        const STEPS: u64 = 16;
        self.limit.take_read(into.len())?;
        self.work(STEPS + into.len() as u64 / 8)?;
        self.memory.read(address, into)
    }

    /// Takes steps of work on what was read before. Every loop over such bytes calls it.
    ///
    /// # Errors
    ///
    /// If a limit is reached, or the time is over.
    pub fn work(&self, steps: u64) -> Result<(), MemoryError> {
        Ok(self.limit.take_steps(steps, || self.memory.may_go_on())?)
    }

    /// Takes memory that the reading keeps, bytes.
    ///
    /// # Errors
    ///
    /// If a limit is reached.
    pub fn keep(&self, bytes: usize) -> Result<(), MemoryError> {
        Ok(self.limit.take_kept(bytes as u64)?)
    }

    /// Returns a name of at most `most` bytes, which ends with `…` if it was longer. Equal names share their memory.
    ///
    /// # Errors
    ///
    /// If a limit is reached.
    pub fn name(&self, text: &str, most: usize) -> Result<Arc<str>, MemoryError> {
        self.work(16 + text.len() as u64 / 8)?;
        Ok(self.limit.name(text, most)?)
    }

    /// Adds a sentence about what a reader leaves out, for the caller of the reading.
    pub(crate) fn leave_out(&self, sentence: String) {
        self.limit.leave_out(sentence);
    }

    /// Returns `len` bytes at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`]. More than 16 MiB in one read are beyond the limit: a length from the process may be wrong.
    pub fn bytes(&self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        const MOST: usize = 16 << 20;
        if len > MOST {
            return Err(MemoryError::Limit(ReadBound::Reads));
        }
        let mut bytes = vec![0; len];
        self.fill(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns `N` bytes at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.fill(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns the byte at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn u8(&self, address: u64) -> Result<u8, MemoryError> {
        self.array(address).map(u8::from_le_bytes)
    }

    /// Returns the number of 2 bytes at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn u16(&self, address: u64) -> Result<u16, MemoryError> {
        self.array(address).map(u16::from_le_bytes)
    }

    /// Returns the number of 4 bytes at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// Returns the number of 8 bytes, or the pointer, at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        self.array(address).map(u64::from_le_bytes)
    }

    /// Returns `N` numbers of 8 bytes, or pointers, at `address`.
    ///
    /// # Errors
    ///
    /// See [`Self::bytes`].
    pub fn words<const N: usize>(&self, address: u64) -> Result<[u64; N], MemoryError> {
        let bytes = self.bytes(address, 8 * N)?;
        let mut words = words_of(&bytes);
        Ok([(); N].map(|()| words.next().unwrap_or_default()))
    }

    /// Returns the text at `address` that ends with a NUL byte, cut to `most` bytes. Invalid UTF-8 is replaced.
    ///
    /// # Errors
    ///
    /// See [`Self::fill`].
    pub fn text(&self, address: u64, most: usize) -> Result<String, MemoryError> {
        // A read must not cross into a page that is not mapped, unless the text does.
        const PAGE: u64 = 4096;
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < most {
            let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
            let mut part = vec![0; in_page.min(most - text.len()).min(256)];
            self.fill(at, &mut part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&part[..end]);
                break;
            }
            text.extend_from_slice(&part);
            at = at.checked_add(part.len() as u64).ok_or(MemoryError::Unreadable { address: at, len: part.len() })?;
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Returns the numbers of 8 bytes in `bytes`, without the rest.
pub(crate) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Turns memory that cannot be read into `None`. A limit remains an error: what follows could not be read either.
pub(crate) fn readable<T>(read: Result<T, MemoryError>) -> Result<Option<T>, MemoryError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(MemoryError::Unreadable { .. } | MemoryError::Refused(_)) => Ok(None),
        Err(error @ MemoryError::Limit(_)) => Err(error),
    }
}

impl std::fmt::Debug for MemoryReader<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("MemoryReader").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages of `a`, with a NUL at the end of the second.
    struct Pages;

    impl Memory for Pages {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            let end = address + into.len() as u64;
            if address < 4096 || end > 3 * 4096 {
                return Err(MemoryError::Unreadable { address, len: into.len() });
            }
            for (byte, at) in into.iter_mut().zip(address..) {
                *byte = if at == 3 * 4096 - 1 { 0 } else { b'a' };
            }
            Ok(())
        }
    }

    #[test]
    fn a_text_ends_at_its_nul_or_at_its_limit() {
        let limit = ReadLimit::new(100, 10_000);
        let reader = MemoryReader::new(&Pages, &limit);
        assert_eq!(reader.text(3 * 4096 - 4, 100).as_deref(), Ok("aaa"), "the page after it is not mapped");
        assert_eq!(reader.text(4096, 300).map(|text| text.len()), Ok(300));
        assert!(reader.text(3 * 4096, 10).is_err());
    }

    #[test]
    fn nothing_is_read_beyond_the_limit() {
        let limit = ReadLimit::new(2, 1000);
        let reader = MemoryReader::new(&Pages, &limit);
        assert_eq!(reader.u64(4096), Ok(0x6161_6161_6161_6161));
        assert_eq!(reader.bytes(4096, 993), Err(MemoryError::Limit(ReadBound::Reads)));
        assert_eq!(reader.u8(4096), Err(MemoryError::Limit(ReadBound::Reads)), "a smaller read does not fit either");
        assert_eq!(
            MemoryReader::new(&Pages, &ReadLimit::new(9, u64::MAX)).bytes(4096, usize::MAX),
            Err(MemoryError::Limit(ReadBound::Reads))
        );
    }
}
