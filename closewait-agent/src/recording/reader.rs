//! Reader of a recording.

use std::{
    borrow::Cow,
    io::{self, BufReader, Read},
};

use closewait_engine::Checkpoint;

use super::{
    Item, OLDEST_VERSION, SEGMENT_VERSION, SegmentStart, VERSION, decode,
    frame::{FrameHead, FrameKind, HEAD, Inflate, MAX_ITEMS_BYTES, has_frame},
    older,
};

/// Beginning of the first line in any version.
pub(super) const NAME: &[u8] = b"closewait recording ";
/// Maximum length of the first line in any version, bytes.
const MAX_LINE_BYTES: usize = NAME.len() + 11;
/// Maximum distance of the next frame behind damage, bytes.
const REACH: usize = 2 * MAX_ITEMS_BYTES;
/// Maximum size of a checkpoint, so that a few hostile bytes cannot become any number of them. A tracked socket takes
/// some 700 bytes.
const MAX_CHECKPOINT_BYTES: u64 = 2 << 30;

/// Way a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingEnd {
    /// The agent ended.
    Stopped,
    /// The recording was full, and the agent continued.
    Full,
    /// No more could be written, and the agent continued: a disk was full, or took too long.
    Unwritten,
    /// The segment has ended, and the next one continues it.
    Continued,
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
        "the recording has format {0}, and this closewait reads formats {OLDEST_VERSION} to {SEGMENT_VERSION}\n\
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
    /// The state of the engine was written by a version of closewait with another state, or is damaged.
    #[error(
        "the state at byte {at} cannot be read: closewait {version} recorded it\n\
         hint: play it with that version, or play later segments"
    )]
    Checkpoint {
        /// Start of its first frame, bytes from the start of the file.
        at: u64,
        /// Version of the agent that wrote it.
        version: String,
        /// Error of the decoder; `None` if the version of the state is another.
        #[source]
        source: Option<rmp_serde::decode::Error>,
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
    /// Start of the segment, if this is one.
    segment: Option<SegmentStart>,
    /// Item that is not in a frame of items.
    ready: Option<Item<'static>>,
    /// Whether to skip the checkpoint, because the engine is known.
    skips_checkpoint: bool,
    end: Option<RecordingEnd>,
    failed: bool,
}

/// Bytes of a checkpoint, from several frames.
struct CheckpointBytes<'a, R> {
    reader: &'a mut Reader<R>,
    part: io::Cursor<Vec<u8>>,
    is_last: bool,
    total: u64,
    /// Failure of the reader, which the decoder cannot return.
    failure: Option<RecordingReadError>,
}

impl<R: Read> CheckpointBytes<'_, R> {
    fn next_part(&mut self) -> Result<(), RecordingReadError> {
        let Some((kind, payload, at)) = self.reader.next_frame()? else { return Ok(()) };
        self.is_last = match kind {
            FrameKind::Checkpoint => false,
            FrameKind::CheckpointEnd => true,
            FrameKind::Items | FrameKind::Stopped | FrameKind::Full | FrameKind::Unwritten | FrameKind::Continued => {
                return Err(RecordingReadError::Damaged { at });
            }
        };
        let part = self.reader.inflate.items(&payload).ok_or(RecordingReadError::Damaged { at })?;
        self.total += part.len() as u64;
        if self.total > MAX_CHECKPOINT_BYTES {
            return Err(RecordingReadError::Damaged { at });
        }
        self.part = io::Cursor::new(part);
        Ok(())
    }
}

impl<R: Read> Read for CheckpointBytes<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.part.read(to)?;
            if read > 0 || to.is_empty() || self.is_last || self.reader.end.is_some() {
                return Ok(read);
            }
            if let Err(failure) = self.next_part() {
                self.failure = Some(failure);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
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
        let mut reader = Self {
            from,
            at: 0,
            inflate,
            version: VERSION,
            frame: 0,
            items,
            segment: None,
            ready: None,
            skips_checkpoint: false,
            end: None,
            failed: false,
        };
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
                Ok(known @ OLDEST_VERSION..=SEGMENT_VERSION) => Ok(Self { version: known, ..reader }),
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
        self.ready.is_some() || self.items.position() < self.items.get_ref().len() as u64
    }

    /// Skips the checkpoint if it comes next: the reader of this segment has the engine already.
    pub(super) const fn skip_checkpoint(&mut self) {
        self.skips_checkpoint = true;
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

    /// Reads the next frame: its kind, its payload and its start; `None` at the end, which is noted.
    fn next_frame(&mut self) -> Result<Option<(FrameKind, Vec<u8>, u64)>, RecordingReadError> {
        let at = self.at;
        let mut bytes = self.take(HEAD)?;
        if bytes.is_empty() {
            self.end = Some(RecordingEnd::Unfinished);
            return Ok(None);
        }
        let Some(head) = bytes.first_chunk().and_then(|head| FrameHead::read(head, at)) else {
            return self.damage(at, bytes).map(|()| None);
        };
        let payload = self.take(head.length)?;
        if !head.fits(&payload) {
            bytes.extend(payload);
            return self.damage(at, bytes).map(|()| None);
        }
        Ok(Some((head.kind, payload, at)))
    }

    /// Reads the checkpoint that begins with this part at byte `at`.
    fn checkpoint(&mut self, kind: FrameKind, payload: &[u8], at: u64) -> Result<(), RecordingReadError> {
        let part = io::Cursor::new(self.inflate.items(payload).ok_or(RecordingReadError::Damaged { at })?);
        let skips = std::mem::take(&mut self.skips_checkpoint);
        let start = self.segment.clone();
        let is_last = kind == FrameKind::CheckpointEnd;
        let mut bytes = CheckpointBytes { reader: self, part, is_last, total: 0, failure: None };
        let version = start.as_ref().map_or_else(|| "?".to_owned(), |start| start.version.clone());
        let unreadable = |source| RecordingReadError::Checkpoint { at, version, source };
        let decoded = if skips {
            io::copy(&mut bytes, &mut io::sink()).map(|_| None).map_err(rmp_serde::decode::Error::InvalidDataRead)
        } else if start.is_none_or(|start| start.checkpoint != Some(Checkpoint::VERSION)) {
            return Err(unreadable(None));
        } else {
            let decoded = decode::<Checkpoint>(&mut bytes);
            // The decoder may leave the last frame, which is empty then.
            let rest = io::copy(&mut bytes, &mut io::sink());
            decoded.and_then(|one| rest.map(|_| Some(one)).map_err(rmp_serde::decode::Error::InvalidDataRead))
        };
        if let Some(failure) = bytes.failure.take() {
            return Err(failure);
        }
        if self.end.is_some() {
            // The end is noted: nothing can be played from here.
            return Ok(());
        }
        self.ready = decoded.map_err(|error| unreadable(Some(error)))?.map(|one| Item::Checkpoint(Box::new(one)));
        Ok(())
    }

    /// Reads the next frame, or the end.
    fn frame(&mut self) -> Result<(), RecordingReadError> {
        let Some((kind, payload, at)) = self.next_frame()? else { return Ok(()) };
        let end = match kind {
            FrameKind::Items => {
                self.frame = at;
                self.items = io::Cursor::new(self.inflate.items(&payload).ok_or(RecordingReadError::Damaged { at })?);
                return Ok(());
            }
            FrameKind::Checkpoint | FrameKind::CheckpointEnd => return self.checkpoint(kind, &payload, at),
            FrameKind::Stopped => RecordingEnd::Stopped,
            FrameKind::Full => RecordingEnd::Full,
            FrameKind::Unwritten => RecordingEnd::Unwritten,
            FrameKind::Continued => RecordingEnd::Continued,
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
            if let Some(item) = self.ready.take() {
                return Some(Ok(item));
            }
            if self.has_items() {
                let item = match self.version {
                    VERSION | SEGMENT_VERSION => decode(&mut self.items),
                    _ => older::item(&mut self.items),
                };
                self.failed = item.is_err();
                if let Ok(Item::Segment(start)) = &item {
                    self.segment = Some(Cow::clone(start).into_owned());
                }
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
