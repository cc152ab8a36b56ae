//! Reads a recording.

use std::io::{self, BufReader, Read};

use super::{
    Item, OLDEST_VERSION, VERSION,
    frame::{FrameHead, FrameKind, HEAD, Inflate, MAX_ITEMS_BYTES, has_frame},
    older,
};

/// What the first line of any version begins with.
pub(super) const NAME: &[u8] = b"closewait recording ";
/// Longer than the first line of any version.
const LONGEST_LINE: usize = NAME.len() + 11;
/// Behind damage at one place the next frame is not further away than this.
const REACH: usize = 2 * MAX_ITEMS_BYTES;

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingEnd {
    /// The agent ended.
    Stopped,
    /// It was full, and the agent went on.
    Full,
    /// More could not be written, and the agent went on: a disk was full, or took too long.
    Unwritten,
    /// All that was written is whole, but the agent did not end it: it was killed, could not write, or still runs.
    Unfinished,
    /// The last frame is not whole.
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
    /// It is something else.
    #[error(
        "this is no recording: the first line is not `closewait recording`; give a file that `closewait run --record` wrote"
    )]
    NoRecording,
    /// Nothing is in it.
    #[error("this is no recording: it is empty\nhint: give a file that `closewait run --record` wrote")]
    Empty,
    /// It is of another version.
    #[error(
        "the recording has format {0}, and this closewait reads formats {OLDEST_VERSION} to {VERSION}\n\
         hint: play it with the closewait that recorded it"
    )]
    Version(String),
    /// Something in it is not as it was written, and more comes after it.
    #[error("the recording is damaged at byte {at}, before its end: the rest cannot be played; copy it again")]
    Damaged {
        /// Start of the frame, bytes from the start of the file.
        at: u64,
    },
    /// A whole frame has something that is not known.
    #[error(
        "the recording has something at byte {at} that this closewait does not know; play it with the one that recorded it"
    )]
    Item {
        /// Start of the frame, bytes from the start of the file.
        at: u64,
        /// Error of the decoder.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// The file cannot be read.
    #[error("read failed at byte {at}; may you read the file, and is it one?")]
    Read {
        /// How far it was read, bytes.
        at: u64,
        /// Error of the read.
        #[source]
        source: io::Error,
    },
}

/// Gives the items of a recording, one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    from: BufReader<R>,
    /// Bytes read.
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
            if NAME.starts_with(&line[..line.len().min(NAME.len())]) && line.len() < LONGEST_LINE {
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

    /// How it ends; `None` before all was read.
    pub fn end(&self) -> Option<RecordingEnd> {
        self.end.filter(|_| !self.has_items())
    }

    fn has_items(&self) -> bool {
        self.items.position() < self.items.get_ref().len() as u64
    }

    fn first_line(&mut self) -> Result<Vec<u8>, RecordingReadError> {
        let mut line = Vec::new();
        while line.len() < LONGEST_LINE && line.last() != Some(&b'\n') {
            let byte = self.take(1)?;
            if byte.is_empty() {
                break;
            }
            line.extend(byte);
        }
        Ok(line)
    }

    /// Up to so many bytes; fewer only at the end of the file.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, RecordingReadError> {
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(length as u64).read_to_end(&mut bytes);
        read.map_err(|source| RecordingReadError::Read { at: self.at, source })?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// The next frame, or the end.
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

    /// The frame at byte `at`, which has these `bytes`, is not whole: the end of the file, unless whole ones follow.
    fn damage(&mut self, at: u64, mut bytes: Vec<u8>) -> Result<(), RecordingReadError> {
        bytes.extend(self.take(REACH)?);
        let more = !self.take(1)?.is_empty();
        // A frame that is whole here, and was written elsewhere, is one that follows: bytes before it are missing or too many.
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
