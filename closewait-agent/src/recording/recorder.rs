//! Writes a recording.

use std::{
    borrow::Cow,
    fmt,
    fs::{File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::Context as _;

use super::{
    Item, VERSION,
    frame::{Deflate, HEAD, Kind, MOST_ITEMS, frame},
};
use crate::engine::{Config, time::Boot};

/// The least that a recording may be limited to, bytes.
pub const LEAST_MAX: u64 = 64 * 1024;
/// A frame is written when it has so many bytes of items, at the latest.
const FRAME: usize = 64 * 1024;
/// Only who may run the agent may read what it has seen: names of processes, addresses.
const MODE: u32 = 0o600;

/// Writes a recording.
pub struct Recorder {
    to: Box<dyn Write>,
    deflate: Deflate,
    /// Items that are not written yet.
    items: Vec<u8>,
    written: u64,
    max: u64,
    full: bool,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("written", &self.written).field("max", &self.max).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins a recording of an engine that begins at `began`, in a file of at most `max` bytes that only its owner may
    /// read. What is there already is overwritten, unless another agent writes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn create(path: &Path, max: u64, config: &Config, began: Boot) -> anyhow::Result<Self> {
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
            // Devices and pipes stay what they are.
            if file.metadata()?.is_file() {
                file.set_permissions(Permissions::from_mode(MODE))?;
            }
            Ok::<File, std::io::Error>(file)
        };
        let shown = path.display();
        let file = open()
            .with_context(|| format!("creating {shown} failed; is its folder there, and may you write to it?"))?;
        file.try_lock().with_context(|| format!("locking {shown} failed; name another file with --record"))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.set_len(0).with_context(|| format!("emptying {shown} failed; name another file with --record"))?;
        }
        Self::begin(file, max, config, began).with_context(|| format!("recording to {shown} failed"))
    }

    /// The same, to something that is no file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn begin(to: impl Write + 'static, max: u64, config: &Config, began: Boot) -> anyhow::Result<Self> {
        let mut recorder = Self::empty(to, max)?;
        recorder.item(&Item::Began { config: Cow::Borrowed(config), at: began })?;
        recorder.flush()?;
        Ok(recorder)
    }

    /// One in which nothing is yet, for items of another.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn empty(to: impl Write + 'static, max: u64) -> anyhow::Result<Self> {
        let (deflate, items) = (Deflate::new(), Vec::new());
        let mut recorder = Self { to: Box::new(to), deflate, items, written: 0, max: max.max(LEAST_MAX), full: false };
        recorder.write(format!("closewait recording {VERSION}\n").as_bytes())?;
        Ok(recorder)
    }

    /// Keeps an item. Whether it is in the file already, [`Recorder::flush`] decides.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        if self.full {
            return Ok(());
        }
        item.encode(&mut self.items).context("an item has no form in a recording; report this")?;
        if self.items.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    /// Writes what is not written yet; then the agent can be killed, and all of it is there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        if self.items.is_empty() || self.full {
            return Ok(());
        }
        anyhow::ensure!(self.items.len() <= MOST_ITEMS, "an item is too large for a recording; report this");
        let payload = self.deflate.payload(&self.items).context("compressing the recording failed; report this")?;
        self.items.clear();
        let bytes = frame(Kind::Items, &payload, self.written).context("a frame is too long; report this")?;
        // There is always room to say that there is no more.
        let end = self.written.saturating_add(bytes.len() as u64).saturating_add(HEAD as u64);
        if end <= self.max {
            return self.write(&bytes);
        }
        self.full = true;
        self.items = Vec::new();
        self.end(Kind::Full)
    }

    /// Whether nothing more is kept, for want of room.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The most that it may take, bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Writes what is not written yet, and that it ends here.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        if self.full { Ok(()) } else { self.end(Kind::Stopped) }
    }

    fn end(&mut self, kind: Kind) -> anyhow::Result<()> {
        let bytes = frame(kind, &[], self.written).context("a frame is too long; report this")?;
        self.write(&bytes)
    }

    /// In one call, so that a crash between two leaves whole frames.
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.to.write_all(bytes).context("write failed; is the disk full?")?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
