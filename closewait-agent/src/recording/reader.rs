//! Reader of a recording.

use std::io::{self, BufReader, Read};

use super::{
    Item, OLDEST_VERSION, VERSION,
    frame::{FrameHead, FrameKind, HEAD, Inflate, MAX_ITEMS_BYTES, has_frame},
    older,
};

/// Beginning of the first line in any version.
pub(super) const NAME: &[u8] = b"closewait recording ";
/// Maximum length of the first line in any version, bytes.
const MAX_LINE_BYTES: usize = NAME.len() + 11;
/// Maximum distance of the next frame behind damage, bytes.
const REACH: usize = 2 * MAX_ITEMS_BYTES;

/// Way a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingEnd {
    /// The agent ended.
    Stopped,
    /// The recording was full, and the agent continued.
    Full,
    /// No more could be written, and the agent continued: a disk was full, or took too long.
    Unwritten,
    /// All frames are whole, but the agent did not end the recording: it was killed, could not write, or still runs.
    Unfinished,
    /// The last frame is incomplete.
    Cut {
        /// Start of the frame, bytes from the start of the file.
        at: u64,
        /// Bytes from there to the end of the file.
        skipped: u64,
    },
}

/// Reason why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingReadError {
    /// The file has other content.
    #[error(
        "this is no recording: the first line is not `closewait recording`\n\
         hint: give a file that `closewait run --record` wrote"
    )]
    NoRecording,
    /// The file is empty.
    #[error("this is no recording: it is empty\nhint: give a file that `closewait run --record` wrote")]
    Empty,
    /// The recording has another version.
    #[error(
        "the recording has format {0}, and this closewait reads formats {OLDEST_VERSION} to {VERSION}\n\
         hint: play it with the closewait that recorded it"
    )]
    Version(String),
    /// Bytes in the middle have changed.
    #[error("the recording is damaged at byte {at}, before its end: the rest cannot be played\nhint: copy it again")]
    Damaged {
        /// Start of the frame, bytes from the start of the file.
        at: u64,
    },
    /// A whole frame has an unknown item.
    #[error("the recording has an unknown item at byte {at}\nhint: play it with the closewait that recorded it")]
    Item {
        /// Start of the frame, bytes from the start of the file.
        at: u64,
        /// Error of the decoder.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// The file cannot be read.
    #[error("read failed at byte {at}\nhint: check that it is a file, and that you may read it")]
    Read {
        /// Number of bytes read.
        at: u64,
        /// Error of the read.
        #[source]
        source: io::Error,
    },
}

/// Iterator over the items of a recording.
#[derive(Debug)]
pub struct Reader<R> {
    from: BufReader<R>,
    /// Number of bytes read.
    at: u64,
    inflate: Inflate,
    version: u32,
    /// Start of the frame of `items`, bytes from the start of the file.
    frame: u64,
    items: io::Cursor<Vec<u8>>,
    end: Option<RecordingEnd>,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// If this is no recording, or one of another version.
    pub fn new(from: R) -> Result<Self, RecordingReadError> {
        let (from, items) = (BufReader::new(from), io::Cursor::default());
        let inflate = Inflate::new();
        let mut reader = Self { from, at: 0, inflate, version: VERSION, frame: 0, items, end: None, failed: false };
        let line = reader.first_line()?;
        let Some((b'\n', line)) = line.split_last() else {
            if reader.at == 0 {
                return Err(RecordingReadError::Empty);
            }
            // A file that was cut this early is a recording too.
            if NAME.starts_with(&line[..line.len().min(NAME.len())]) && line.len() < MAX_LINE_BYTES {
                reader.end = Some(RecordingEnd::Cut { at: 0, skipped: reader.at });
                return Ok(reader);
            }
            return Err(RecordingReadError::NoRecording);
        };
        let version = line.strip_prefix(NAME).and_then(|version| str::from_utf8(version).ok());
        match version.filter(|version| version.bytes().all(|byte| byte.is_ascii_digit())) {
            None => Err(RecordingReadError::NoRecording),
            Some(version) => match version.parse() {
                Ok(known @ OLDEST_VERSION..=VERSION) => Ok(Self { version: known, ..reader }),
                _ => Err(RecordingReadError::Version(version.to_owned())),
            },
        }
    }

    /// Returns the number of bytes read so far.
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// Returns the way the recording ends; `None` before all items were read.
    pub fn end(&self) -> Option<RecordingEnd> {
        self.end.filter(|_| !self.has_items())
    }

    fn has_items(&self) -> bool {
        self.items.position() < self.items.get_ref().len() as u64
    }

    fn first_line(&mut self) -> Result<Vec<u8>, RecordingReadError> {
        let mut line = Vec::new();
        while line.len() < MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            let byte = self.take(1)?;
            if byte.is_empty() {
                break;
            }
            line.extend(byte);
        }
        Ok(line)
    }

    /// Reads `length` bytes; fewer only at the end of the file.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, RecordingReadError> {
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(length as u64).read_to_end(&mut bytes);
        read.map_err(|source| RecordingReadError::Read { at: self.at, source })?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Reads the next frame, or the end.
    fn frame(&mut self) -> Result<(), RecordingReadError> {
        let at = self.at;
        let mut bytes = self.take(HEAD)?;
        if bytes.is_empty() {
            self.end = Some(RecordingEnd::Unfinished);
            return Ok(());
        }
        let Some(head) = bytes.first_chunk().and_then(|head| FrameHead::read(head, at)) else {
            return self.damage(at, bytes);
        };
        let payload = self.take(head.length)?;
        if !head.fits(&payload) {
            bytes.extend(payload);
            return self.damage(at, bytes);
        }
        let end = match head.kind {
            FrameKind::Items => {
                self.frame = at;
                self.items = io::Cursor::new(self.inflate.items(&payload).ok_or(RecordingReadError::Damaged { at })?);
                return Ok(());
            }
            FrameKind::Stopped => RecordingEnd::Stopped,
            FrameKind::Full => RecordingEnd::Full,
            FrameKind::Unwritten => RecordingEnd::Unwritten,
        };
        if !self.take(1)?.is_empty() {
            return Err(RecordingReadError::Damaged { at: self.at - 1 });
        }
        self.end = Some(end);
        Ok(())
    }

    /// Handles the incomplete frame at byte `at`, which has these `bytes`: it is the end of the file, unless whole
    /// frames follow.
    fn damage(&mut self, at: u64, mut bytes: Vec<u8>) -> Result<(), RecordingReadError> {
        bytes.extend(self.take(REACH)?);
        let more = !self.take(1)?.is_empty();
        // A frame that is whole, but at another position than written, counts too: bytes before it are missing or
        // inserted.
        if more || has_frame(&bytes) != Some(false) {
            return Err(RecordingReadError::Damaged { at });
        }
        self.end = Some(RecordingEnd::Cut { at, skipped: self.at - at });
        Ok(())
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item<'static>, RecordingReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            if self.has_items() {
                let item = match self.version {
                    VERSION => rmp_serde::from_read(&mut self.items),
                    _ => older::item(&mut self.items),
                };
                self.failed = item.is_err();
                return Some(item.map_err(|source| RecordingReadError::Item { at: self.frame, source }));
            }
            if self.end.is_some() {
                return None;
            }
            if let Err(error) = self.frame() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}
