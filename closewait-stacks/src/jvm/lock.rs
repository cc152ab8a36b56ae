//! Locks of a dump.

use std::fmt;

/// Lock that a thread waits for, or a condition at which it is parked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitedLock {
    /// Text that identifies it within a dump: an address, or class and hash code.
    pub identity: String,
    /// Class of the object.
    pub class: Option<String>,
    /// Number of the thread that has it; `None` if the dump does not name it.
    pub owner: Option<u64>,
}

/// Lock that a thread has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldLock {
    /// Text that identifies it within a dump: an address, or class and hash code.
    pub identity: String,
    /// Class of the object.
    pub class: Option<String>,
    /// Position of the frame that took it; `None` if the dump does not name it, as for `java.util.concurrent.locks`.
    pub frame: Option<usize>,
}

impl fmt::Display for WaitedLock {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(to, &self.identity, self.class.as_deref())?;
        self.owner.iter().try_for_each(|owner| write!(to, " of number {owner}"))
    }
}

impl fmt::Display for HeldLock {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(to, &self.identity, self.class.as_deref())?;
        self.frame.iter().try_for_each(|frame| write!(to, " in frame {frame}"))
    }
}

fn write(to: &mut fmt::Formatter<'_>, identity: &str, class: Option<&str>) -> fmt::Result {
    to.write_str(identity)?;
    class.iter().try_for_each(|class| write!(to, " ({class})"))
}
