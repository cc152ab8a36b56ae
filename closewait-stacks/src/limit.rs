//! Limits of one reading of a process: what it may read, compute and keep.
//!
//! A process chooses what is in its memory, so every cost of a reading has a limit that does not depend on it. All readers and all their
//! loops take from one [`ReadLimit`]. If any limit is reached, everything else of the reading ends at its next read or step.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    sync::Arc,
};

/// Maximum length of the name of a function, bytes. Longer ones end with `…`.
pub const MAX_FUNCTION_BYTES: usize = 512;
/// Maximum length of the path of a source file or object, bytes. Longer ones end with `…`.
pub const MAX_FILE_BYTES: usize = 4096;
/// Maximum number of steps of a reading. A step is the work on some bytes that were read before, 1 to 10 ns. 2,048 threads of large
/// programs take some millions.
pub const MAX_STEPS: u64 = 1 << 27;
/// Maximum number of bytes that a reading keeps until it ends: frames, each name once, unwind rules, line tables. 2,048 threads of large
/// programs take some 10 MiB.
pub const MAX_KEPT: u64 = 32 << 20;
/// Number of steps after which a reading asks whether it may go on.
const STEPS_BETWEEN_CHECKS: u64 = 1 << 14;
/// Number of bytes of a kept name beside its text, with those of the set.
const NAME_OVERHEAD: u64 = 48;

/// Limit that ends a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBound {
    /// Number of reads, or of bytes that are read.
    Reads,
    /// Number of steps of work.
    Work,
    /// Number of bytes that are kept.
    Kept,
    /// Time that the caller gives.
    Time,
}

impl fmt::Display for ReadBound {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Reads => "the limit of reads is reached",
            Self::Work => "the limit of work is reached",
            Self::Kept => "the limit of frames, names and tables is reached",
            Self::Time => "the time is over",
        })
    }
}

/// Reads, bytes, steps and memory that a reading may still use, and the names that it keeps.
#[derive(Debug)]
pub struct ReadLimit {
    reads: Cell<u32>,
    bytes: Cell<u64>,
    steps: Cell<u64>,
    kept: Cell<u64>,
    unchecked: Cell<u64>,
    reached: Cell<Option<ReadBound>>,
    names: RefCell<BTreeSet<Arc<str>>>,
    left_out: RefCell<Vec<String>>,
}

impl ReadLimit {
    /// Returns a limit of this number of reads, and of bytes that are read; of [`MAX_STEPS`] steps and [`MAX_KEPT`] kept bytes.
    pub const fn new(reads: u32, bytes: u64) -> Self {
        Self {
            reads: Cell::new(reads),
            bytes: Cell::new(bytes),
            steps: Cell::new(MAX_STEPS),
            kept: Cell::new(MAX_KEPT),
            unchecked: Cell::new(0),
            reached: Cell::new(None),
            names: RefCell::new(BTreeSet::new()),
            left_out: RefCell::new(Vec::new()),
        }
    }

    /// Returns the number of reads that are left; 0 if a limit is reached.
    pub fn reads_left(&self) -> u32 {
        if self.reached.get().is_some() { 0 } else { self.reads.get() }
    }

    /// Returns the number of steps that are left.
    pub fn steps_left(&self) -> u64 {
        self.steps.get()
    }

    /// Returns the number of bytes that may still be kept.
    pub fn kept_left(&self) -> u64 {
        self.kept.get()
    }

    /// Returns the first limit that was reached: what the reading has found is not complete.
    pub fn reached(&self) -> Option<ReadBound> {
        self.reached.get()
    }

    /// Returns what the readers have left out without reaching a limit of this kind, a sentence each.
    pub fn left_out(&self) -> Vec<String> {
        self.left_out.borrow().clone()
    }

    /// Adds a sentence about what a reader leaves out.
    pub(crate) fn leave_out(&self, sentence: String) {
        self.left_out.borrow_mut().push(sentence);
    }

    /// Takes a read of `len` bytes.
    pub(crate) fn take_read(&self, len: usize) -> Result<(), ReadBound> {
        let bytes = self.bytes.get().checked_sub(len as u64);
        let (Some(reads), Some(bytes)) = (self.reads.get().checked_sub(1), bytes) else {
            return self.end(ReadBound::Reads);
        };
        self.reads.set(reads);
        self.bytes.set(bytes);
        self.check()
    }

    /// Takes steps. Asks `may_go_on` from time to time.
    pub(crate) fn take_steps(&self, steps: u64, may_go_on: impl Fn() -> bool) -> Result<(), ReadBound> {
        let Some(left) = self.steps.get().checked_sub(steps) else { return self.end(ReadBound::Work) };
        self.steps.set(left);
        let unchecked = self.unchecked.get().saturating_add(steps);
        self.unchecked.set(unchecked % STEPS_BETWEEN_CHECKS);
        if unchecked >= STEPS_BETWEEN_CHECKS && !may_go_on() {
            return self.end(ReadBound::Time);
        }
        self.check()
    }

    /// Takes bytes that are kept until the reading ends.
    pub(crate) fn take_kept(&self, bytes: u64) -> Result<(), ReadBound> {
        let Some(left) = self.kept.get().checked_sub(bytes) else { return self.end(ReadBound::Kept) };
        self.kept.set(left);
        self.check()
    }

    /// Returns a name of at most `most` bytes, of which equal ones share their memory.
    pub(crate) fn name(&self, text: &str, most: usize) -> Result<Arc<str>, ReadBound> {
        let text = cut_name(text, most);
        if let Some(known) = self.names.borrow().get(text.as_ref()) {
            return Ok(Arc::clone(known));
        }
        self.take_kept(text.len() as u64 + NAME_OVERHEAD)?;
        let name = Arc::from(text);
        self.names.borrow_mut().insert(Arc::clone(&name));
        Ok(name)
    }

    /// Whether no limit is reached.
    fn check(&self) -> Result<(), ReadBound> {
        self.reached.get().map_or(Ok(()), Err)
    }

    /// Ends the reading. Smaller parts that would still fit must not continue a walk that has lost one.
    fn end(&self, bound: ReadBound) -> Result<(), ReadBound> {
        let first = self.reached.get().unwrap_or(bound);
        self.reached.set(Some(first));
        Err(first)
    }
}

/// Returns a text of at most `most` bytes: a longer one ends with `…`.
pub(crate) fn cut_name(text: &str, most: usize) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(most.saturating_sub(MARK.len()));
    Cow::Owned([&text[..end], MARK].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters_and_says_so() {
        assert_eq!(cut_name("reserve", 7), "reserve");
        assert_eq!(cut_name("reserved", 7), "rese…");
        assert_eq!(cut_name("заказы", 7), "за…");
    }

    #[test]
    fn names_share_their_memory_and_have_a_limit() {
        let limit = ReadLimit::new(1, 1);
        let long = "x".repeat(8 << 10);
        let [one, other] = [(); 2].map(|()| limit.name(&long, MAX_FUNCTION_BYTES).unwrap());
        assert!(Arc::ptr_eq(&one, &other) && one.len() == MAX_FUNCTION_BYTES);
        let names: Vec<_> =
            (0..1 << 20).map_while(|number| limit.name(&format!("{number}{long}"), MAX_FILE_BYTES).ok()).collect();
        let bytes: usize = names.iter().map(|name| name.len()).sum();
        assert!(bytes > 30 << 20 && bytes <= 32 << 20, "{bytes}");
        assert_eq!(limit.reached(), Some(ReadBound::Kept));
        assert_eq!(limit.take_read(0), Err(ReadBound::Kept), "the reading is over");
    }

    #[test]
    fn the_caller_can_end_a_reading_between_two_steps() {
        let limit = ReadLimit::new(1, 1);
        let asked = Cell::new(0);
        let steps = (0..u64::MAX).take_while(|_| {
            let may_go_on = || {
                asked.set(asked.get() + 1);
                asked.get() < 3
            };
            limit.take_steps(100, may_go_on).is_ok()
        });
        assert_eq!(steps.count() as u64, 3 * STEPS_BETWEEN_CHECKS / 100);
        assert_eq!((limit.reached(), limit.reads_left()), (Some(ReadBound::Time), 0));
    }
}
