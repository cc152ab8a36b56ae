//! Dump of threads in text: what `jstack -l`, `jcmd PID Thread.print -l` and the attach command `threaddump -l` answer.
//!
//! Lines are those of `Threads::print_on` (runtime/thread.cpp of JDK 8 to 17, runtime/threads.cpp later) and `JavaThread::print_stack_on`
//! with `javaVFrame::print_lock_info_on` (runtime/vframe.cpp).

use super::{HeldLock, JvmThread, MAX_DUMP_BYTES, MAX_JVM_THREADS, MAX_LOCKS, MAX_NAME_BYTES, WaitedLock, cut, frame};
use crate::StackError;

/// First words of a dump, behind the line with the time.
const TITLE: &str = "Full thread dump ";
/// Maximum number of lines before the title.
const MAX_LINES_BEFORE: usize = 4;
/// Maximum number of lines.
const MAX_LINES: usize = 1 << 20;
/// Maximum number of bytes of a line.
const MAX_LINE_BYTES: usize = 4096;
/// Maximum number of lines of a thread's name.
const MAX_NAME_LINES: usize = 8;

/// Parses a dump. What no line of a dump is, is left out, and so is what is over a limit: [`MAX_JVM_THREADS`] threads, 128
/// frames and 64 locks of each.
///
/// # Errors
///
/// If the text is no dump.
pub fn parse(dump: &[u8]) -> Result<Vec<JvmThread>, StackError> {
    let dump = String::from_utf8_lossy(dump.get(..MAX_DUMP_BYTES).unwrap_or(dump));
    let mut lines = dump.lines().take(MAX_LINES).map(|line| cut(line, MAX_LINE_BYTES));
    if !lines.by_ref().take(MAX_LINES_BEFORE).any(|line| line.starts_with(TITLE)) {
        return Err(StackError::Unexpected("it is no dump of threads".to_owned()));
    }
    let mut parsed = ParsedText::default();
    while let Some(line) = lines.next() {
        if line.starts_with('"') {
            // The rest of the lines is read again if this is no head after all.
            let mut ahead = lines.clone();
            if let Some(thread) = head(line, &mut ahead) {
                if parsed.threads.len() == MAX_JVM_THREADS {
                    break;
                }
                parsed.end_of_thread();
                parsed.threads.push(thread);
                lines = ahead;
            }
        } else if line.starts_with("Found ") && line.contains("deadlock") {
            // The threads of a deadlock are listed once more.
            break;
        } else {
            parsed.line(line);
        }
    }
    parsed.end_of_thread();
    Ok(parsed.threads)
}

/// Returns the feature release of the JDK that has written a dump: 21 of `OpenJDK 64-Bit Server VM (21.0.5+11-LTS mixed mode, sharing)`.
/// `None` if it is unknown, and for JDK 8, whose machine has another number (`25.504-b01`) and no `+` before its build
/// (`java.lang.Runtime.Version`).
pub fn release(dump: &[u8]) -> Option<u32> {
    let head = dump.get(..MAX_LINES_BEFORE * MAX_LINE_BYTES).unwrap_or(dump);
    let head = String::from_utf8_lossy(head);
    let title = head.lines().take(MAX_LINES_BEFORE).find_map(|line| line.strip_prefix(TITLE))?;
    let version = title.rsplit_once(" (")?.1.split(' ').next()?;
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version.contains('+').then(|| version.get(..digits)?.parse().ok()).flatten()
}

/// Parses the head of a thread, whose name can have quotes and any number of lines:
/// `"http-1" #13 daemon prio=5 os_prio=0 tid=0x00007f76240b1a80 nid=0x5de5 waiting for monitor entry  [0x00007f760d2fe000]`.
fn head<'a>(first: &str, more: &mut impl Iterator<Item = &'a str>) -> Option<JvmThread> {
    if let Some(thread) = one_head(first) {
        return Some(thread);
    }
    let mut text = first.to_owned();
    for line in more.take(MAX_NAME_LINES - 1) {
        text.push('\n');
        text.push_str(line);
        // Only a line with a quote can end a name.
        if line.contains('"')
            && let Some(thread) = one_head(&text)
        {
            return Some(thread);
        }
    }
    None
}

fn one_head(text: &str) -> Option<JvmThread> {
    let (name, rest) = text.strip_prefix('"')?.rsplit_once('"')?;
    if !rest.contains(" tid=0x") {
        return None;
    }
    let mut thread = JvmThread { name: cut(name, MAX_NAME_BYTES).to_owned(), ..JvmThread::default() };
    for word in rest.split_ascii_whitespace() {
        if let Some(number) = word.strip_prefix('#') {
            thread.stack.number = number.parse().ok();
        } else if let Some(tid) = word.strip_prefix("nid=") {
            // Hexadecimal up to JDK 18.
            thread.inner_tid = match tid.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok(),
                None => tid.parse().ok(),
            };
        } else if let Some(tid) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')?.parse().ok()) {
            // A thread that carries a virtual one has no `nid`.
            thread.inner_tid = thread.inner_tid.or(Some(tid));
        }
    }
    Some(thread)
}

#[derive(Default)]
struct ParsedText {
    threads: Vec<JvmThread>,
    /// Whether the lines are those of `Locked ownable synchronizers`, which are locks of the thread of this position.
    synchronizers_of: Option<usize>,
    /// Position of the thread that the latest head is of.
    latest: usize,
    /// Lock that the thread has given back until it is notified (`Object.wait`), and that its frames name nevertheless.
    released: Option<String>,
}

impl ParsedText {
    fn line(&mut self, line: &str) {
        let Some(thread) = self.threads.last_mut() else { return };
        if let Some(frame) = line.strip_prefix("\tat ") {
            if let Some(frame) = frame::parse(frame) {
                thread.push(frame);
            }
        } else if let Some(lock) = line.strip_prefix("\t- ") {
            self.lock(lock);
        } else if line.starts_with("\t...") {
            thread.stack.cut = Some("the dump leaves them out".to_owned());
        } else if let Some(state) = line.strip_prefix("   java.lang.Thread.State: ") {
            thread.stack.state = Some(cut(state.trim_end(), MAX_NAME_BYTES).to_owned());
        } else if let Some(number) = line.strip_prefix("   Carrying virtual thread #") {
            thread.carries = number.trim_end().parse().ok();
        } else if let Some(number) = line.strip_prefix("   Mounted virtual thread #") {
            self.mounted(number.trim_end().parse().ok());
        } else if line == "   Locked ownable synchronizers:" {
            self.synchronizers_of = Some(self.latest);
        }
    }

    /// Begins the frames of a virtual thread, which follow those of the thread that carries it.
    fn mounted(&mut self, number: Option<u64>) {
        let inner_tid = self.threads.last().and_then(|carrier| carrier.inner_tid);
        let latest = self.threads.len().saturating_sub(1);
        self.end_of_thread();
        if self.threads.len() < MAX_JVM_THREADS {
            let mut thread = JvmThread { inner_tid, is_virtual: true, ..JvmThread::default() };
            thread.stack.number = number;
            self.threads.push(thread);
            self.latest = latest;
        }
    }

    fn lock(&mut self, line: &str) {
        if let Some(thread) = self.synchronizers_of {
            if let (Some(thread), Some((identity, class))) = (self.threads.get_mut(thread), object(line)) {
                hold(thread, HeldLock { identity, class, frame: None });
            }
            return;
        }
        let Some(thread) = self.threads.last_mut() else { return };
        let frame = thread.stack.frames.len().checked_sub(1);
        if let Some((identity, class)) = line.strip_prefix("locked ").and_then(object) {
            hold(thread, HeldLock { identity, class, frame });
        } else if let Some((identity, class)) = line.strip_prefix("waiting to re-lock in wait() ").and_then(object) {
            self.released = Some(identity.clone());
            thread.waits = Some(WaitedLock { identity, class, owner: None });
        } else if let Some((identity, _)) = line.strip_prefix("waiting on ").and_then(object) {
            self.released = Some(identity);
        } else if let Some((identity, class)) =
            ["waiting to lock ", "parking to wait for "].iter().find_map(|words| object(line.strip_prefix(words)?))
        {
            thread.waits = Some(WaitedLock { identity, class, owner: None });
        }
    }

    /// Ends the thread of the last head.
    fn end_of_thread(&mut self) {
        if let (Some(released), Some(thread)) = (self.released.take(), self.threads.last_mut()) {
            thread.holds.retain(|lock| lock.identity != released);
        }
        self.synchronizers_of = None;
        self.latest = self.threads.len();
    }
}

fn hold(thread: &mut JvmThread, lock: HeldLock) {
    if thread.holds.len() < MAX_LOCKS {
        thread.holds.push(lock);
    }
}

/// Parses `<0x00000000fc0eb9f0> (a java.lang.Object)`, an object and its class.
fn object(text: &str) -> Option<(String, Option<String>)> {
    let (address, rest) = text.trim_start().strip_prefix("<0x")?.split_once('>')?;
    if address.is_empty() || address.len() > 16 || !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let class = rest.trim_start().strip_prefix("(a ").and_then(|class| class.strip_suffix(')'));
    Some((format!("0x{address}"), class.map(|class| cut(class, MAX_NAME_BYTES).to_owned())))
}
