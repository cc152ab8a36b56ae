//! Channels of timers, on which goroutines wait for a time: `<-time.After(d)`, `<-ticker.C`, alone or in a `select`.
//!
//! From `src/runtime/runtime2.go` (`g.waiting`, `sudog`) and `src/runtime/chan.go` (`hchan`), go1.15 to go1.27.

use super::{layout::G_SELF, module::GoModule};
use crate::memory::{MemoryError, readable};

/// Maximum number of channels of one `select` that are examined.
const MAX_CASES: usize = 16;
/// Size of `time.Time`, and of its part that has pointers, bytes (`src/time/time.go`).
const TIME_LEN: u64 = 24;
/// Kind of a struct, and the mask of kinds (`src/internal/abi/type.go`, before 1.21 `src/runtime/typekind.go`).
const STRUCT: (u8, u8) = (25, 0x1f);
/// Words of `time.Time` with pointers, one bit each: the last one, its location. A result with an error has other ones.
const TIME_POINTERS: u8 = 0b100;
/// Maximum number of channels that are examined in one process; beyond it, no goroutine is known to wait for a timer.
const MAX_EXAMINED: u32 = 8192;

/// Offsets in `sudog`, of which a goroutine has one for each channel that it waits for, bytes.
struct SudogLayout {
    /// `sudog.waitlink`, the next one of the same goroutine.
    next: usize,
    /// `sudog.c`, the channel.
    channel: usize,
}

/// Size of the larger `sudog`.
const SUDOG_LEN: usize = 104;
/// First and last offset at which `g.waiting` can be: behind the status, before the fields that only profiles and traces use.
const WAITING: std::ops::RangeInclusive<usize> = 192..=416;

/// Recognizes goroutines that wait for a timer.
pub(super) struct TimerWaits<'m, 'a> {
    module: &'m GoModule<'a>,
    layout: SudogLayout,
    /// Offset of `g.waiting`, which differs between versions; `None` until a goroutine has shown it.
    waiting: Option<usize>,
    /// Number of channels that may still be examined.
    left: u32,
}

impl<'m, 'a> TimerWaits<'m, 'a> {
    pub(super) const fn new(module: &'m GoModule<'a>) -> Self {
        // 1.26 stores pointers to elements and channels twice, one of them hidden from the garbage collector.
        let layout = if module.layout.minor < 26 {
            SudogLayout { next: 64, channel: 80 }
        } else {
            SudogLayout { next: 72, channel: 96 }
        };
        Self { module, layout, waiting: None, left: MAX_EXAMINED }
    }

    /// Whether one of the channels that the goroutine at an address waits for is that of a timer. What cannot be read is none.
    ///
    /// # Errors
    ///
    /// If a limit is reached.
    pub(super) fn is_one(&mut self, goroutine: u64) -> Result<bool, MemoryError> {
        let Some(mut sudog) = self.first_sudog(goroutine)? else { return Ok(false) };
        for _ in 0..MAX_CASES {
            let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
            self.left = left;
            let Some(bytes) = readable(self.module.memory.array::<SUDOG_LEN>(sudog))? else { return Ok(false) };
            if word(&bytes, 0) != goroutine {
                return Ok(false);
            }
            if self.is_timer(word(&bytes, self.layout.channel))? {
                return Ok(true);
            }
            sudog = word(&bytes, self.layout.next);
            if sudog == 0 {
                break;
            }
        }
        Ok(false)
    }

    /// Returns the address of the first `sudog` of a goroutine that waits for a channel; `None` if it is not found.
    fn first_sudog(&mut self, goroutine: u64) -> Result<Option<u64>, MemoryError> {
        if let Some(at) = self.waiting {
            let first = readable(self.module.memory.u64(goroutine.wrapping_add(at as u64)))?;
            return Ok(first.filter(|first| *first != 0));
        }
        const LEN: usize = *WAITING.end() + 8;
        let Some(bytes) = readable(self.module.memory.array::<LEN>(goroutine))? else { return Ok(None) };
        for at in WAITING.step_by(8) {
            let first = word(&bytes, at);
            // A `sudog` begins with its goroutine; nothing else that a goroutine points to does.
            let is_candidate = first != 0 && first.is_multiple_of(8) && first != goroutine + G_SELF as u64;
            if is_candidate && readable(self.module.memory.u64(first))? == Some(goroutine) {
                self.waiting = Some(at);
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    /// Whether a channel is that of a timer: since 1.23 it has a pointer to it; before, and with `asynctimerchan=1`, it has room for one
    /// `time.Time`.
    fn is_timer(&self, channel: u64) -> Result<bool, MemoryError> {
        if channel == 0 {
            return Ok(false);
        }
        let Some(bytes) = readable(self.module.memory.array::<48>(channel))? else { return Ok(false) };
        let (room, element_len) = (word(&bytes, 8), word(&bytes, 24) & 0xffff);
        if room != 1 || element_len != TIME_LEN {
            return Ok(false);
        }
        let has_timer = self.module.layout.minor >= 23;
        if has_timer && word(&bytes, 32) != 0 {
            return Ok(true);
        }
        let element = word(&bytes, if has_timer { 40 } else { 32 });
        let Some(element) = readable(self.module.memory.array::<40>(element))? else { return Ok(false) };
        let (kind, mask) = STRUCT;
        if (word(&element, 0), word(&element, 8), element[23] & mask) != (TIME_LEN, TIME_LEN, kind) {
            return Ok(false);
        }
        // `_type.gcdata`, one bit for each word.
        Ok(readable(self.module.memory.u8(word(&element, 32)))? == Some(TIME_POINTERS))
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}
