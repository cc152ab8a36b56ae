//! Writer of a recording.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

use super::{
    Item, VERSION,
    failure::write_failed,
    file::Destination,
    frame::{Deflate, FrameKind, HEAD, MAX_ITEMS_BYTES, frame},
};
use crate::{
    host::confine,
    sink::{Backlog, Mark, Settings, Writer},
};
use closewait_engine::{Config, time::BootTime};

/// Minimum of the size limit of a recording, bytes.
pub const MIN_MAX_BYTES: u64 = 64 * 1024;
/// Size of items at which a frame is written, bytes.
const FRAME_BYTES: usize = 64 * 1024;
/// Maximum size of frames that wait for a disk or for the reader of a pipe, bytes.
const BACKLOG: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };
/// Maximum time that the start of the agent waits for the first write, to report a full disk.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// Writer of a recording.
pub struct Recorder {
    to: FrameTarget,
    deflate: Deflate,
    /// Items that are not written yet.
    items: Vec<u8>,
    written: u64,
    max: u64,
    ended: Option<EarlyEnd>,
}

/// Destination of frames.
enum FrameTarget {
    /// Memory, or a file whose writes the caller waits for.
    Direct(Box<dyn Write>),
    /// A thread that writes, so that the caller does not wait for a disk.
    Thread(Writer),
}

/// Reason why a recording ended before the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyEnd {
    /// The recording has reached its maximum size.
    Full,
    /// Frames came faster than the thread wrote them, up to the limit of waiting bytes.
    Behind {
        /// Bytes that wait to be written.
        waiting: usize,
    },
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("written", &self.written).field("max", &self.max).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins a recording of an engine that begins at `began`, in a file of at most `max` bytes that only its owner
    /// may read. Overwrites an earlier recording, unless another agent writes it. A thread writes the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn create(path: &Path, max: u64, config: &Config, began: BootTime) -> anyhow::Result<Self> {
        let work = || {
            let to = Destination::create(path)?;
            // The thread starts before the agent drops its capabilities, and needs none.
            let at_start = confine::drop_all_capabilities;
            let settings = Settings { name: "closewait-rec", limit: BACKLOG, watches_reader: true, at_start };
            let writer = Writer::start(to, settings).context(
                "starting the thread that writes failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
            )?;
            let recorder = Self::start(FrameTarget::Thread(writer), max, config, began)?;
            recorder.wait_for_start()?;
            Ok::<Self, anyhow::Error>(recorder)
        };
        work().with_context(|| format!("recording to {} failed", path.display()))
    }

    /// Begins a recording to a writer that is no file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn begin(to: impl Write + 'static, max: u64, config: &Config, began: BootTime) -> anyhow::Result<Self> {
        Self::start(FrameTarget::Direct(Box::new(to)), max, config, began)
    }

    /// Begins a recording without items, for items of another.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn empty(to: impl Write + 'static, max: u64) -> anyhow::Result<Self> {
        Self::named(FrameTarget::Direct(Box::new(to)), max)
    }

    fn start(to: FrameTarget, max: u64, config: &Config, began: BootTime) -> anyhow::Result<Self> {
        let mut recorder = Self::named(to, max)?;
        recorder.item(&Item::Began { config: Cow::Borrowed(config), at: began })?;
        recorder.flush()?;
        Ok(recorder)
    }

    /// Begins with the first line.
    fn named(to: FrameTarget, max: u64) -> anyhow::Result<Self> {
        let (deflate, items) = (Deflate::new(), Vec::new());
        let mut recorder = Self { to, deflate, items, written: 0, max: max.max(MIN_MAX_BYTES), ended: None };
        recorder.write(format!("closewait recording {VERSION}\n").into_bytes())?;
        Ok(recorder)
    }

    /// Waits a short time until a thread has written the first bytes.
    fn wait_for_start(&self) -> anyhow::Result<()> {
        let FrameTarget::Thread(writer) = &self.to else { return Ok(()) };
        if !writer.mark().wait(START_PATIENCE) {
            log::warn!("the recording is late: its destination does not take the first bytes; the agent continues");
        }
        writer.failure().map_or(Ok(()), |error| Err(write_failed(error)))
    }

    /// Adds an item. [`Recorder::flush`] writes it to the file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        item.encode(&mut self.items)
            .context("an item has no form in a recording\nhint: report this with the output of `closewait doctor`")?;
        if self.items.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes all pending items, or hands them to the thread that writes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        if self.items.is_empty() || self.ended.is_some() {
            return Ok(());
        }
        anyhow::ensure!(
            self.items.len() <= MAX_ITEMS_BYTES,
            "an item is too large for a recording\nhint: report this with the output of `closewait doctor`"
        );
        let payload = self
            .deflate
            .payload(&self.items)
            .context("compressing the recording failed\nhint: report this with the output of `closewait doctor`")?;
        self.items.clear();
        let bytes = frame(FrameKind::Items, &payload, self.written).context(FRAME_TOO_LONG)?;
        // There is always space for the end.
        let end = self.written.saturating_add(bytes.len() as u64).saturating_add(HEAD as u64);
        if end <= self.max {
            return self.write(bytes);
        }
        self.end(FrameKind::Full)?;
        self.ended = Some(EarlyEnd::Full);
        self.items = Vec::new();
        Ok(())
    }

    /// Returns the reason why the recording ended early; `None` while it continues.
    pub fn ended(&self) -> Option<EarlyEnd> {
        self.ended
    }

    /// Returns the maximum size of the recording, bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Returns the mark behind all frames so far. When a thread has written them, they survive a kill of the agent.
    pub fn mark(&self) -> Option<Mark> {
        match &self.to {
            FrameTarget::Thread(writer) => Some(writer.mark()),
            FrameTarget::Direct(_) => None,
        }
    }

    /// Writes all pending items and the end; waits for the thread that writes, at most for `patience`.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or takes too long.
    pub fn finish(mut self, patience: Duration) -> anyhow::Result<()> {
        self.flush()?;
        if self.ended.is_none() {
            self.end(FrameKind::Stopped)?;
        }
        match self.to {
            FrameTarget::Direct(_) => Ok(()),
            FrameTarget::Thread(writer) => match writer.write_out(patience) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
                written => written.map_err(write_failed),
            },
        }
    }

    fn end(&mut self, kind: FrameKind) -> anyhow::Result<()> {
        let bytes = frame(kind, &[], self.written).context(FRAME_TOO_LONG)?;
        match &mut self.to {
            FrameTarget::Direct(_) => self.write(bytes),
            FrameTarget::Thread(writer) => {
                writer.send_last(bytes);
                Ok(())
            }
        }
    }

    /// Writes a whole frame in one call, so that a crash between two calls leaves whole frames.
    fn write(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        let length = bytes.len() as u64;
        match &mut self.to {
            FrameTarget::Direct(to) => to.write_all(&bytes).map_err(write_failed)?,
            FrameTarget::Thread(writer) => {
                if let Some(error) = writer.failure() {
                    return Err(write_failed(error));
                }
                if writer.send(bytes) == Backlog::Full {
                    let waiting = writer.waiting_bytes();
                    self.end(FrameKind::Unwritten)?;
                    self.ended = Some(EarlyEnd::Behind { waiting });
                    self.items = Vec::new();
                    return Ok(());
                }
            }
        }
        self.written += length;
        Ok(())
    }
}

const FRAME_TOO_LONG: &str = "a frame is too long\nhint: report this with the output of `closewait doctor`";

#[cfg(test)]
mod tests;
