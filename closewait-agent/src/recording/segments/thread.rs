//! Thread that writes segments. It reports failures, and never ends because of one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Seek as _, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::fdatasync;
use serde::Serialize as _;

use super::{folder::SegmentFolder, name};
use crate::{
    clock,
    recording::{
        SEGMENT_VERSION,
        frame::{Deflate, FrameKind, frame},
    },
};
use closewait_engine::Checkpoint;

/// Size of the parts of a checkpoint, bytes before compression.
const PART_BYTES: usize = 256 * 1024;

/// Length of the head of a piece: its kind, and the number of items, 4 bytes.
pub(super) const PIECE_HEAD: usize = 5;

/// Kind of a piece for the thread, its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SegmentPiece {
    /// Items of the current segment.
    Items = b'i',
    /// A new segment: the next of [`WriterState::heads`].
    Segment = b's',
    /// The end of the recording.
    End = b'e',
}

/// Beginning of a segment.
#[derive(Debug)]
pub(super) struct SegmentHead {
    /// First items, encoded.
    pub(super) items: Vec<u8>,
    /// State of the engine; `None` if it begins here.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether this segment continues the one before.
    pub(super) continues: bool,
}

/// State that the thread shares with the event loop.
#[derive(Debug, Default)]
pub(super) struct WriterState {
    /// Beginnings of segments for which a piece is in the queue.
    pub(super) heads: VecDeque<SegmentHead>,
    /// Whether the thread has begun a segment and can write it.
    pub(super) is_recording: bool,
    /// Size of the input in the current segment, bytes.
    pub(super) input_bytes: u64,
    /// Number of items that the thread dropped, until the event loop takes it.
    pub(super) dropped: u64,
    /// Reason why the thread could not write, until the event loop takes it.
    pub(super) failure: Option<io::Error>,
}

/// State that the thread shares with the event loop.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedState(Arc<Mutex<WriterState>>);

impl SharedState {
    pub(super) fn lock(&self) -> MutexGuard<'_, WriterState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Segment that is being written.
struct OpenSegment {
    number: u64,
    file: File,
    deflate: Deflate,
    /// Number of bytes in whole frames.
    written: u64,
}

/// Destination of the pieces.
pub(super) struct SegmentWriter {
    folder: SegmentFolder,
    open: Option<OpenSegment>,
    shared: SharedState,
}

impl SegmentWriter {
    pub(super) const fn new(folder: SegmentFolder, shared: SharedState) -> Self {
        Self { folder, open: None, shared }
    }

    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        let now = clock::now();
        match piece.split_first() {
            Some((&kind, _)) if kind == SegmentPiece::Items as u8 => {
                let items = piece.get(PIECE_HEAD..).unwrap_or_default();
                let Some(open) = &mut self.open else {
                    // The event loop knows of the failure, or will.
                    self.shared.lock().dropped += count(piece);
                    return Ok(());
                };
                self.folder.prune(open.written.saturating_add(items.len() as u64), now);
                let written = open.is_there().and_then(|()| open.items(FrameKind::Items, items));
                let mut state = self.shared.lock();
                match &written {
                    Ok(written) => state.input_bytes += written,
                    Err(_) => state.dropped += count(piece),
                }
                drop(state);
                written.map(|_| ())
            }
            Some((&kind, _)) if kind == SegmentPiece::Segment as u8 => {
                let mut state = self.shared.lock();
                let Some(head) = state.heads.pop_front() else { return Ok(()) };
                state.is_recording = false;
                drop(state);
                let ended = self.end(if head.continues { FrameKind::Continued } else { FrameKind::Unwritten });
                if let Err(error) = ended {
                    // A reader goes on from the checkpoint of the next segment.
                    log::debug!("a segment of the recording has no end: {error}");
                }
                self.begin(&head)?;
                let mut state = self.shared.lock();
                (state.is_recording, state.input_bytes) = (true, 0);
                Ok(())
            }
            _ => self.end(FrameKind::Stopped),
        }
    }

    /// Begins a segment. Nothing of it stays if that fails.
    fn begin(&mut self, head: &SegmentHead) -> io::Result<()> {
        self.folder.prune(0, clock::now());
        let (number, file) = self.folder.create()?;
        let mut open = OpenSegment { number, file, deflate: Deflate::new(), written: 0 };
        let begun = open.begin(head);
        if begun.is_err() {
            // The first error counts.
            let _stays = self.folder.delete(number);
        }
        begun?;
        self.folder.prune(open.written, clock::now());
        self.open = Some(open);
        Ok(())
    }

    /// Ends the segment.
    fn end(&mut self, kind: FrameKind) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let ended = open.frame(kind, &[]).and_then(|_| Ok(fdatasync(&open.file)?));
        self.folder.finished(open.number, open.written, clock::now());
        ended
    }

    /// Ends the segment after a failure: at its last whole frame, with a frame that says so if there is room.
    fn abandon(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let whole = open.file.set_len(open.written).and_then(|()| open.file.seek(SeekFrom::Start(open.written)));
        let ended = whole.and_then(|_| open.frame(FrameKind::Unwritten, &[]));
        if let Err(error) = ended {
            log::debug!("a segment of the recording has no end: {error}");
        }
        self.folder.finished(open.number, open.written, clock::now());
    }
}

impl Write for SegmentWriter {
    /// Takes a whole piece. A failure ends the segment, and the event loop takes it from the shared state.
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.take(piece) {
            self.abandon();
            let mut state = self.shared.lock();
            state.is_recording = false;
            state.failure.get_or_insert(error);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for SegmentWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Returns the number of items in a piece.
fn count(piece: &[u8]) -> u64 {
    piece.get(1..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes).into()
}

impl OpenSegment {
    /// Checks that the file has a name: what is written to a removed one is lost.
    fn is_there(&self) -> io::Result<()> {
        match self.file.metadata()?.nlink() {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} was removed", name(self.number)))),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, head: &SegmentHead) -> io::Result<()> {
        let line = format!("closewait recording {SEGMENT_VERSION}\n");
        self.file.write_all(line.as_bytes())?;
        self.written = line.len() as u64;
        self.items(FrameKind::Items, &head.items)?;
        if let Some(checkpoint) = &head.checkpoint {
            let mut parts = CheckpointParts { to: self, part: Vec::with_capacity(PART_BYTES) };
            let encoded = checkpoint.serialize(&mut rmp_serde::Serializer::new(&mut parts).with_struct_map());
            encoded.map_err(|error| {
                // The error of the write itself says why.
                if let rmp_serde::encode::Error::InvalidValueWrite(error) = error {
                    io::Error::from(error)
                } else {
                    io::Error::other(error)
                }
            })?;
            let last = std::mem::take(&mut parts.part);
            self.items(FrameKind::CheckpointEnd, &last)?;
        }
        Ok(fdatasync(&self.file)?)
    }

    /// Writes bytes as a frame. Returns its size.
    fn items(&mut self, kind: FrameKind, items: &[u8]) -> io::Result<u64> {
        let payload = self.deflate.payload(items).map_err(io::Error::other)?;
        self.frame(kind, &payload)
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<u64> {
        let bytes = frame(kind, payload, self.written).ok_or_else(|| io::Error::other("a frame is too long"))?;
        self.file.write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }
}

/// Destination of a checkpoint's bytes: one frame for each part.
struct CheckpointParts<'a> {
    to: &'a mut OpenSegment,
    part: Vec<u8>,
}

impl Write for CheckpointParts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART_BYTES {
            self.to.items(FrameKind::Checkpoint, &self.part)?;
            self.part.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
