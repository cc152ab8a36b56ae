//! Frames: they delimit the parts of a recording in a file, and reveal cuts and damage.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Size of the head of a frame, bytes.
pub(super) const HEAD: usize = 12;
/// Maximum length of a payload, which the head can store, bytes.
const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;
/// Maximum size of the items in a frame, so that a few hostile bytes cannot become any number of them.
pub(super) const MAX_ITEMS_BYTES: usize = 16 << 20;
/// Maximum size of payloads checked behind damage, bytes. The rest of a frame that was cut has some kilobytes, of
/// which one position in 256 looks like the head of a frame; only crafted bytes reach this limit.
const MAX_CHECKED_BYTES: usize = 1 << 30;

/// Content of a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Items: a part of the deflate stream.
    Items,
    /// Empty: the agent has ended, and with it the recording.
    Stopped,
    /// Empty: the recording was full, and the agent continued.
    Full,
    /// Empty: no more could be written, and the agent continued.
    Unwritten,
    /// Part of a checkpoint, which the next frame continues: a part of the deflate stream.
    Checkpoint,
    /// Last part of a checkpoint.
    CheckpointEnd,
    /// Empty: the segment has ended, and the next one continues it.
    Continued,
}

impl FrameKind {
    fn number(self) -> u32 {
        match self {
            Self::Items => 1,
            Self::Stopped => 2,
            Self::Full => 3,
            Self::Unwritten => 4,
            Self::Checkpoint => 5,
            Self::CheckpointEnd => 6,
            Self::Continued => 7,
        }
    }

    fn of(number: u32) -> Option<Self> {
        let ends = [Self::Stopped, Self::Full, Self::Unwritten, Self::Continued];
        let all = [Self::Items, Self::Checkpoint, Self::CheckpointEnd].into_iter().chain(ends);
        all.into_iter().find(|kind| kind.number() == number)
    }

    /// Whether the frame ends its file, and has no payload.
    fn ends(self) -> bool {
        match self {
            Self::Items | Self::Checkpoint | Self::CheckpointEnd => false,
            Self::Stopped | Self::Full | Self::Unwritten | Self::Continued => true,
        }
    }
}

/// Fields of a frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: FrameKind,
    /// Length of the payload, bytes.
    pub(super) length: usize,
    check: u32,
}

impl FrameHead {
    /// Reads the head of a frame at byte `at` of its file; `None` if none is there.
    pub(super) fn read(bytes: &[u8; HEAD], at: u64) -> Option<Self> {
        let own = bytes[4..].first_chunk().copied().map(u32::from_le_bytes)?;
        let head = Self::parse(bytes)?;
        (own == head.own_check(at)).then_some(head)
    }

    /// Parses the head of a frame at any position.
    fn parse(bytes: &[u8; HEAD]) -> Option<Self> {
        let word = |from: usize| bytes[from..].first_chunk().copied().map(u32::from_le_bytes);
        let (first, check) = (word(0)?, word(8)?);
        Some(Self { kind: FrameKind::of(first >> 24)?, length: usize::try_from(first & 0x00ff_ffff).ok()?, check })
    }

    /// Computes the check of the head. It includes the position in the file, so that a frame is valid only where it
    /// was written.
    fn own_check(self, at: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.first().to_le_bytes());
        hasher.update(&self.check.to_le_bytes());
        hasher.update(&at.to_le_bytes());
        hasher.finalize()
    }

    /// Returns the first word: type and length.
    fn first(self) -> u32 {
        self.kind.number() << 24 | u32::try_from(self.length).unwrap_or(u32::MAX)
    }

    /// Whether `payload` belongs to this head.
    pub(super) fn fits(self, payload: &[u8]) -> bool {
        payload.len() == self.length && crc32fast::hash(payload) == self.check
    }
}

/// Builds a frame for byte `at` of a file; `None` if the payload is too long.
pub(super) fn frame(kind: FrameKind, payload: &[u8], at: u64) -> Option<Vec<u8>> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return None;
    }
    let head = FrameHead { kind, length: payload.len(), check: crc32fast::hash(payload) };
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    for word in [head.first(), head.own_check(at), head.check] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    Some(bytes)
}

/// Whether `bytes` have a whole frame anywhere, even one that was written at another position of the file: bytes
/// before it may be missing or inserted. `None` if the check takes too long.
pub(super) fn has_frame(bytes: &[u8]) -> Option<bool> {
    let mut checked = 0;
    for (place, head) in bytes.windows(HEAD).enumerate() {
        let Some(head) = head.first_chunk().and_then(FrameHead::parse) else { continue };
        let Some(payload) = bytes.get(place + HEAD..).and_then(|rest| rest.get(..head.length)) else { continue };
        // Frames that end a recording have no payload, and the check of an empty one is 0. A power failure leaves
        // zeros.
        let ends = head.kind.ends();
        let zeros = bytes.get(place + 4..place + 8) == Some(&[0; 4]);
        if ends == payload.is_empty() && !(ends && zeros) && head.fits(payload) {
            return Some(true);
        }
        checked += payload.len();
        if checked > MAX_CHECKED_BYTES {
            return None;
        }
    }
    Some(false)
}

/// Compressor of items into payloads.
#[derive(Debug)]
pub(super) struct Deflate(Compress);

impl Deflate {
    pub(super) fn new() -> Self {
        // The fastest level: it finds the repeated names, which is enough, and the agent waits for it.
        Self(Compress::new(Compression::fast(), false))
    }

    /// Returns the next payload, from which all of `items` can be read.
    pub(super) fn payload(&mut self, items: &[u8]) -> Result<Vec<u8>, flate2::CompressError> {
        let mut payload = Vec::new();
        let mut rest = items;
        loop {
            payload.reserve(rest.len() / 2 + 256);
            let before = self.0.total_in();
            self.0.compress_vec(rest, &mut payload, FlushCompress::Sync)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            // Unused capacity means that no output is pending.
            if rest.is_empty() && payload.len() < payload.capacity() {
                return Ok(payload);
            }
        }
    }
}

/// Decompressor of payloads into items.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// Returns the items of the next payload; `None` if it is invalid, or has too many.
    pub(super) fn items(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut items = Vec::new();
        let mut rest = payload;
        loop {
            items.reserve((rest.len() * 4).clamp(1024, 1 << 20));
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress_vec(rest, &mut items, FlushDecompress::Sync).ok()?;
            if status == Status::StreamEnd || items.len() > MAX_ITEMS_BYTES {
                return None;
            }
            let idle = self.0.total_in() == taken && self.0.total_out() == given;
            rest = rest.get(usize::try_from(self.0.total_in() - taken).ok()?..)?;
            if rest.is_empty() && items.len() < items.capacity() {
                return Some(items);
            }
            if idle {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_is_one_only_where_it_was_written() {
        let bytes = frame(FrameKind::Items, b"payload", 22).unwrap();
        let head = FrameHead::read(bytes.first_chunk().unwrap(), 22).unwrap();
        assert_eq!((head.kind, head.length), (FrameKind::Items, 7));
        assert!(head.fits(b"payload") && !head.fits(b"Payload") && !head.fits(b"payloa"));
        assert_eq!(FrameHead::read(bytes.first_chunk().unwrap(), 23), None);
        assert_eq!(FrameHead::read(&[0; HEAD], 22), None);
    }

    #[test]
    fn a_payload_that_the_head_has_no_place_for_is_no_frame() {
        assert!(frame(FrameKind::Items, &vec![0; MAX_PAYLOAD_BYTES], 0).is_some());
        assert!(frame(FrameKind::Items, &vec![0; MAX_PAYLOAD_BYTES + 1], 0).is_none());
    }

    #[test]
    fn a_payload_that_blows_up_is_refused() {
        let payload = Deflate::new().payload(&vec![0; MAX_ITEMS_BYTES + 1]).unwrap();
        assert!(payload.len() < MAX_ITEMS_BYTES / 100);
        assert_eq!(Inflate::new().items(&payload), None);
    }

    proptest! {
        #[test]
        fn each_payload_has_all_of_its_items(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..6)) {
            let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
            for piece in pieces {
                prop_assert_eq!(inflate.items(&deflate.payload(&piece).unwrap()), Some(piece));
            }
        }

        #[test]
        fn any_payload_is_survived(payload: Vec<u8>) {
            let _items = Inflate::new().items(&payload);
        }
    }
}
