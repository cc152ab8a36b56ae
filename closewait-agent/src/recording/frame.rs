//! Frames: how pieces of a recording are found in a file, and what is cut or damaged told.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The head of a frame.
pub(super) const HEAD: usize = 12;
/// Longer payloads have no place in the head.
const LONGEST: usize = (1 << 24) - 1;
/// Bytes of items in a frame, so that a few bytes from elsewhere cannot become any number of them.
pub(super) const MOST_ITEMS: usize = 16 << 20;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Items, a piece of the stream of deflate.
    Items,
    /// Nothing: the agent has ended, and with it the recording.
    Stopped,
    /// Nothing: no more was kept, though the agent went on.
    Full,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Items => 1,
            Self::Stopped => 2,
            Self::Full => 3,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::Items, Self::Stopped, Self::Full].into_iter().find(|kind| kind.number() == number)
    }
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Of the payload, bytes.
    pub(super) length: usize,
    check: u32,
}

impl Head {
    /// From the head of a frame that is at byte `at` of its file; `None` if none is there.
    pub(super) fn read(bytes: &[u8; HEAD], at: u64) -> Option<Self> {
        let word = |from: usize| bytes[from..].first_chunk().copied().map(u32::from_le_bytes);
        let (first, own, check) = (word(0)?, word(4)?, word(8)?);
        let length = usize::try_from(first & 0x00ff_ffff).ok()?;
        let kind = Kind::of(first >> 24)?;
        (own == head_check(first, check, at)).then_some(Self { kind, length, check })
    }

    /// Whether that is its payload.
    pub(super) fn fits(self, payload: &[u8]) -> bool {
        payload.len() == self.length && crc32fast::hash(payload) == self.check
    }
}

/// A frame at byte `at` of a file; `None` if the payload is too long for one.
pub(super) fn frame(kind: Kind, payload: &[u8], at: u64) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LONGEST)?;
    let (first, check) = (kind.number() << 24 | length, crc32fast::hash(payload));
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    for word in [first, head_check(first, check, at), check] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    Some(bytes)
}

/// Whether `bytes`, of which the first is at byte `at` of a file, have a whole frame anywhere.
pub(super) fn has_frame(bytes: &[u8], at: u64) -> bool {
    (at..).zip(bytes.windows(HEAD).enumerate()).any(|(at, (place, head))| {
        let head = head.first_chunk().and_then(|head| Head::read(head, at));
        head.is_some_and(|head| {
            bytes.get(place + HEAD..place + HEAD + head.length).is_some_and(|payload| head.fits(payload))
        })
    })
}

/// With the place in the file, so that a frame is one only where it was written.
fn head_check(first: u32, check: u32, at: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&first.to_le_bytes());
    hasher.update(&check.to_le_bytes());
    hasher.update(&at.to_le_bytes());
    hasher.finalize()
}

/// Makes payloads of items.
#[derive(Debug)]
pub(super) struct Deflate(Compress);

impl Deflate {
    pub(super) fn new() -> Self {
        // The fastest: the names that come again and again are all that matters, and the agent waits for it.
        Self(Compress::new(Compression::fast(), false))
    }

    /// The next payload, from which all of `items` can be read.
    pub(super) fn payload(&mut self, items: &[u8]) -> Result<Vec<u8>, flate2::CompressError> {
        let mut payload = Vec::new();
        let mut rest = items;
        loop {
            payload.reserve(rest.len() / 2 + 256);
            let before = self.0.total_in();
            self.0.compress_vec(rest, &mut payload, FlushCompress::Sync)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            // Room that is left means that nothing waits to be written.
            if rest.is_empty() && payload.len() < payload.capacity() {
                return Ok(payload);
            }
        }
    }
}

/// Makes items of payloads again.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// The items of the next payload; `None` if it is none, or has too many.
    pub(super) fn items(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut items = Vec::new();
        let mut rest = payload;
        loop {
            items.reserve((rest.len() * 4).clamp(1024, 1 << 20));
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress_vec(rest, &mut items, FlushDecompress::Sync).ok()?;
            if status == Status::StreamEnd || items.len() > MOST_ITEMS {
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
        let bytes = frame(Kind::Items, b"payload", 22).unwrap();
        let head = Head::read(bytes.first_chunk().unwrap(), 22).unwrap();
        assert_eq!((head.kind, head.length), (Kind::Items, 7));
        assert!(head.fits(b"payload") && !head.fits(b"Payload") && !head.fits(b"payloa"));
        assert_eq!(Head::read(bytes.first_chunk().unwrap(), 23), None);
        assert_eq!(Head::read(&[0; HEAD], 22), None);
    }

    #[test]
    fn a_payload_that_the_head_has_no_place_for_is_no_frame() {
        assert!(frame(Kind::Items, &vec![0; LONGEST], 0).is_some());
        assert!(frame(Kind::Items, &vec![0; LONGEST + 1], 0).is_none());
    }

    #[test]
    fn a_payload_that_blows_up_is_refused() {
        let payload = Deflate::new().payload(&vec![0; MOST_ITEMS + 1]).unwrap();
        assert!(payload.len() < MOST_ITEMS / 100);
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
