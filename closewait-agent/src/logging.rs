//! Log on standard error, written by its own thread.
//!
//! A standard error without an active reader (a waiting pager, a hanging collector) must not delay the agent. Lines
//! go through a queue with a limit. Lines over the limit are dropped and counted, and the log reports their number as
//! soon as it is read again. Commands that end by themselves wait for a slow reader, for a bounded time.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    panic::{self, PanicHookInfo},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use log::LevelFilter;
use rustix::event::PollFlags;

use crate::{
    host::confine,
    host::journal,
    host::poll::poll,
    sink::{Backlog, Settings, Writer, write_fully},
};
use closewait_engine::text::{harmless, harmless_path};

/// Environment variable that selects the log levels.
const VARIABLE: &str = "CLOSEWAIT_LOG";
/// Maximum size of lines that wait for a slow reader of standard error, bytes.
const BACKLOG: usize = 1 << 20;
/// Maximum time that a command that ends by itself waits for a reader of standard error.
const COMMAND_PATIENCE: Duration = Duration::from_secs(5);
/// Maximum time that an ending agent waits for it: the part of its five seconds that the other waits leave.
const AGENT_PATIENCE: Duration = Duration::from_millis(700);
/// Maximum length of a write that does not block on a pipe with free space (`PIPE_BUF`, pipe(7)).
const ATOMIC: usize = 4096;
/// First byte of a piece that stands for dropped lines; their number follows. No line begins with it.
const GAP: u8 = 0;

static LINES: Mutex<Option<LogLines>> = Mutex::new(None);

/// Starts the log on standard error, with the levels in the environment variable `CLOSEWAIT_LOG`. Returns one
/// sentence about invalid levels; the valid ones apply.
pub fn init() -> Option<String> {
    *lines() = Some(LogLines::new(COMMAND_PATIENCE));
    panic::set_hook(Box::new(report_panic));
    let Levels { base, targets, unknown } = Levels::parse(&env::var_os(VARIABLE).unwrap_or_default().to_string_lossy());
    let mut builder = env_logger::Builder::new();
    builder.filter_level(base);
    for (target, level) in &targets {
        builder.filter_module(target, *level);
    }
    let journal = journal::reads(io::stderr());
    let logger = builder
        .format(move |to, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            let text = format!("closewait: {level}: {}", harmless_lines(&record.args().to_string()));
            if !journal {
                return writeln!(to, "{text}");
            }
            text.lines().try_for_each(|line| writeln!(to, "<{}>{line}", journal::priority(record.level())))
        })
        .target(env_logger::Target::Pipe(Box::new(ToLines)))
        .try_init();
    if let Err(error) = logger {
        print(&format!("closewait: warn: the log cannot be set up: {error}\n"));
    }
    (!unknown.is_empty()).then(|| {
        format!(
            "{VARIABLE} has an unknown level: {}\n\
             hint: use off, error, warn, info, debug or trace; the level is {} now",
            unknown.join(", "),
            base.as_str().to_ascii_lowercase()
        )
    })
}

/// Makes the log wait for no reader: it drops a line at once if the queue is full.
pub fn never_wait() {
    if let Some(lines) = &mut *lines() {
        lines.patience = Duration::ZERO;
    }
}

/// Writes text to standard error behind the log's lines.
pub fn print(text: &str) {
    ToLines.take(text.as_bytes());
}

/// Returns the number of lines dropped since the start.
pub fn dropped() -> u64 {
    lines().as_ref().map_or(0, |lines| lines.losses.all.load(Ordering::Relaxed))
}

/// Waits until all lines are written, for a bounded time: at the end of the process.
pub fn flush() {
    let Some((mark, patience)) = lines().as_ref().and_then(|lines| {
        let patience = if lines.patience.is_zero() { AGENT_PATIENCE } else { lines.patience };
        Some((lines.writer.as_ref()?.mark(), patience))
    }) else {
        return;
    };
    // A reader that is not reading now misses the rest.
    let _written: bool = mark.wait(patience);
}

fn lines() -> MutexGuard<'static, Option<LogLines>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the default message of a panic, without waiting for a reader of standard error.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let mut text = format!(
        "closewait: error: thread {} {panic}\nhint: this is a bug in closewait; report it with these lines",
        thread.name().unwrap_or("without a name")
    );
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    // A message may quote text of other programs.
    print(&(harmless_lines(&text) + "\n"));
    flush();
}

/// Makes the lines of a message harmless: it may quote names that other users chose.
pub fn harmless_lines(text: &str) -> String {
    text.split('\n').map(|line| harmless_path(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// Writer of `env_logger`: each write is a line.
struct ToLines;

impl ToLines {
    fn take(&self, bytes: &[u8]) {
        if let Some(lines) = &mut *lines() {
            lines.send(bytes, io::stderr);
        }
    }
}

impl Write for ToLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log lines on their way to the writer.
struct LogLines {
    /// Writer, started with the first line.
    writer: Option<Writer>,
    losses: Arc<DroppedLines>,
    /// Maximum time that a line waits for space in the queue.
    patience: Duration,
    /// Whether the last line has waited in vain, and the queue has not become empty since.
    stalled: bool,
}

/// Number of log lines that were dropped.
#[derive(Debug, Default)]
struct DroppedLines {
    all: AtomicU64,
    /// Dropped lines that the log has not reported yet.
    unreported: AtomicU64,
}

impl DroppedLines {
    fn add(&self, lines: u64) {
        self.all.fetch_add(lines, Ordering::Relaxed);
        self.unreported.fetch_add(lines, Ordering::Relaxed);
    }

    /// Returns the number of lines dropped since the last call, for a report of them.
    fn take(&self) -> u64 {
        self.unreported.swap(0, Ordering::Relaxed)
    }

    /// Counts lines again whose report was not written.
    fn put_back(&self, lines: u64) {
        self.unreported.fetch_add(lines, Ordering::Relaxed);
    }
}

impl LogLines {
    fn new(patience: Duration) -> Self {
        Self { writer: None, losses: Arc::default(), patience, stalled: false }
    }

    /// Queues lines for `to`.
    fn send<W: Write + AsFd + Send + 'static>(&mut self, bytes: &[u8], to: impl FnOnce() -> W) {
        if self.writer.is_none() {
            let settings = Settings {
                name: "closewait-log",
                limit: BACKLOG,
                watches_reader: false,
                at_start: confine::drop_all_capabilities,
            };
            self.writer = Writer::start(Lossy { to: to(), losses: Arc::clone(&self.losses) }, settings).ok();
        }
        let count = count_lines(bytes);
        let Some(writer) = &self.writer else {
            // Without a thread (a limit on processes is reached), a line is written only where that cannot block.
            if !write_at_once(&mut io::stderr(), bytes) {
                self.losses.add(count);
            }
            return;
        };
        let waiting = writer.waiting_bytes();
        self.stalled &= waiting > 0;
        if self.losses.unreported.load(Ordering::Relaxed) > 0 {
            // One gap of many lines is better than many gaps of one.
            if waiting > BACKLOG / 2 {
                self.losses.add(count);
                return;
            }
            let lines = self.losses.take();
            if writer.send([&[GAP][..], &lines.to_le_bytes()].concat()) == Backlog::Full {
                self.losses.put_back(lines);
            }
        }
        if !self.stalled && !self.patience.is_zero() {
            self.stalled = !writer.wait_for_room(bytes.len(), self.patience);
        }
        if writer.send(bytes.to_vec()) == Backlog::Full {
            self.losses.add(count);
        }
    }
}

/// Writer that counts lines that it cannot write, and continues.
struct Lossy<W> {
    to: W,
    losses: Arc<DroppedLines>,
}

impl<W: Write + AsFd> Lossy<W> {
    fn report(&mut self, lines: u64) {
        let report =
            format!("closewait: warn: {lines} lines of the log were dropped here: standard error was not read\n");
        if lines > 0 && write_fully(&mut self.to, report.as_bytes()).is_err() {
            self.losses.put_back(lines);
        }
    }
}

impl<W: Write + AsFd> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gap = bytes.strip_prefix(&[GAP]).and_then(|lines| lines.try_into().ok());
        if let Some(lines) = gap {
            self.report(u64::from_le_bytes(lines));
        } else if write_fully(&mut self.to, bytes).is_err() {
            self.losses.add(count_lines(bytes));
        }
        Ok(bytes.len())
    }

    /// The queue is empty: this reports the lines dropped meanwhile.
    fn flush(&mut self) -> io::Result<()> {
        let lines = self.losses.take();
        self.report(lines);
        Ok(())
    }
}

impl<W: AsFd> AsFd for Lossy<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
}

/// Writes `bytes` if that cannot block. Returns whether it did.
fn write_at_once(to: &mut (impl Write + AsFd), bytes: &[u8]) -> bool {
    bytes.len() <= ATOMIC
        && poll(to.as_fd(), PollFlags::OUT, Duration::ZERO).contains(PollFlags::OUT)
        && to.write_all(bytes).is_ok()
}

fn count_lines(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(ends).unwrap_or(u64::MAX).max(1)
}

/// Log levels.
#[derive(Debug, PartialEq, Eq)]
struct Levels {
    /// Level of all targets that have no level of their own.
    base: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
    /// Invalid parts, made harmless.
    unknown: Vec<String>,
}

impl Levels {
    /// Parses `LEVEL` and `TARGET=LEVEL`, separated by commas.
    fn parse(text: &str) -> Self {
        let mut levels = Self { base: LevelFilter::Info, targets: Vec::new(), unknown: Vec::new() };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (target, level) = part.split_once('=').map_or((None, part), |(target, level)| (Some(target), level));
            match (target, level.trim().parse()) {
                (None, Ok(level)) => levels.base = level,
                (Some(target), Ok(level)) if is_target(target.trim()) => {
                    levels.targets.push((target.trim().to_owned(), level));
                }
                (_, _) => levels.unknown.push(harmless(part.as_bytes())),
            }
        }
        levels
    }
}

/// Whether a text is the path of a module.
fn is_target(target: &str) -> bool {
    !target.is_empty() && target.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '_' | ':' | '-'))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{PipeReader, Read as _},
        thread,
    };

    use super::*;
    use crate::clock;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn lines_of_a_message_are_harmless_and_stay_lines() {
        assert_eq!(harmless_lines("a\\x2d\u{1b}[2J\nhint: \\b\u{202e}"), "a\\\\x2d\\u{1b}[2J\nhint: \\\\b\\u{202e}");
        assert_eq!(harmless_lines("system\\x2dgetty\nhint: b"), "system\\x2dgetty\nhint: b");
    }

    fn parsed(text: &str) -> Levels {
        Levels::parse(text)
    }

    #[test]
    fn a_level_that_is_misspelled_silences_nothing() {
        let levels = |base, targets: &[(&str, LevelFilter)], unknown: &[&str]| Levels {
            base,
            targets: targets.iter().map(|(target, level)| ((*target).to_owned(), *level)).collect(),
            unknown: unknown.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(parsed(""), levels(LevelFilter::Info, &[], &[]));
        assert_eq!(parsed("DEBUG"), levels(LevelFilter::Debug, &[], &[]));
        assert_eq!(parsed("off"), levels(LevelFilter::Off, &[], &[]));
        assert_eq!(parsed("inof"), levels(LevelFilter::Info, &[], &["inof"]));
        assert_eq!(
            parsed("warn, closewait::source = trace,x=inof"),
            levels(LevelFilter::Warn, &[("closewait::source", LevelFilter::Trace)], &["x=inof"])
        );
        // As a filter, the name of a module would show only that module.
        assert_eq!(parsed("closewait"), levels(LevelFilter::Info, &[], &["closewait"]));
        assert_eq!(parsed("a b=info,=info").unknown, ["a b=info", "=info"]);
        assert_eq!(parsed("\u{1b}[2J").unknown, ["\\u{1b}[2J"]);
    }

    struct Log {
        lines: LogLines,
        to: Option<io::PipeWriter>,
    }

    impl Log {
        fn new(patience: Duration) -> (Self, PipeReader) {
            let (reader, to) = io::pipe().unwrap();
            (Self { lines: LogLines::new(patience), to: Some(to) }, reader)
        }

        fn send(&mut self, line: &str) {
            let to = &mut self.to;
            self.lines.send(line.as_bytes(), || to.take().unwrap());
        }

        /// Sends numbered lines of 100 bytes.
        fn send_many(&mut self, numbers: std::ops::Range<usize>) {
            numbers.for_each(|number| self.send(&format!("{number:>99}\n")));
        }

        fn dropped(&self) -> u64 {
            self.lines.losses.all.load(Ordering::Relaxed)
        }
    }

    fn read_all(mut reader: PipeReader) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        })
    }

    /// Checks the numbers of lines, and the reports of dropped lines between them.
    fn check(text: &str, sent: usize, dropped: u64) {
        let (mut next, mut gaps) = (0, 0);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("closewait: warn: ") {
                let lost: usize = rest.split(' ').next().unwrap().parse().unwrap();
                assert!(rest.ends_with("lines of the log were dropped here: standard error was not read"), "{rest}");
                next += lost;
                gaps += 1;
            } else {
                assert_eq!(line.trim().parse(), Ok(next), "in order, and each gap is reported in its place");
                next += 1;
            }
        }
        assert_eq!(next, sent);
        assert!(dropped == 0 && gaps == 0 || dropped > 0 && gaps > 0, "{dropped} {gaps}");
    }

    #[test]
    fn unread_lines_are_dropped_and_counted_where_they_are_missing() {
        let (mut log, reader) = Log::new(Duration::ZERO);
        let began = clock::now();
        log.send_many(0..20_000);
        assert!(clock::now().since(began) < LONG, "nothing waits");
        let dropped = log.dropped();
        assert!((5_000..12_000).contains(&dropped), "{dropped}");
        // Once it is read again, the report needs no further line.
        let reading = read_all(reader);
        assert!(log.lines.writer.as_ref().unwrap().mark().wait(LONG));
        log.send_many(20_000..20_100);
        log.lines.writer.take().unwrap().finish(LONG).unwrap();
        check(&reading.join().unwrap(), 20_100, dropped);
    }

    #[test]
    fn a_report_of_losses_needs_no_other_line() {
        let (mut log, reader) = Log::new(Duration::ZERO);
        log.send_many(0..20_000);
        let (dropped, reading) = (log.dropped(), read_all(reader));
        log.lines.writer.take().unwrap().finish(LONG).unwrap();
        check(&reading.join().unwrap(), 20_000, dropped);
    }

    #[test]
    fn a_command_waits_for_a_slow_reader() {
        let (mut log, mut reader) = Log::new(LONG);
        let reading = thread::spawn(move || {
            let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                all.extend(&piece[..length]);
                thread::sleep(Duration::from_millis(2));
            }
            String::from_utf8(all).unwrap()
        });
        log.send_many(0..30_000);
        log.lines.writer.take().unwrap().finish(LONG).unwrap();
        check(&reading.join().unwrap(), 30_000, 0);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_command_waits_for_a_reader_that_does_not_read_once() {
        let (mut log, _reader) = Log::new(Duration::from_millis(200));
        let began = clock::now();
        log.send_many(0..20_000);
        assert!(clock::now().since(began) < Duration::from_secs(2), "{:?}", clock::now().since(began));
        assert!(log.dropped() > 5_000);
    }

    #[test]
    fn a_disk_that_is_full_loses_lines_and_ends_nothing() {
        let (mut lines, full) = (LogLines::new(Duration::ZERO), File::options().write(true).open("/dev/full").unwrap());
        lines.send(b"one\n", || full);
        assert!(lines.writer.as_ref().unwrap().mark().wait(LONG));
        lines.send(b"two\nthree\n", || -> File { unreachable!("it goes on") });
        assert!(lines.writer.as_ref().unwrap().mark().wait(LONG));
        assert_eq!(lines.losses.all.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn without_a_thread_a_line_is_written_where_that_cannot_wait() {
        let (mut reader, mut to) = io::pipe().unwrap();
        assert!(write_at_once(&mut to, b"line\n"));
        assert!(!write_at_once(&mut to, &[b'x'; ATOMIC + 1]));
        while write_at_once(&mut to, &[b'x'; ATOMIC]) {}
        let mut first = [0; 5];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"line\n");
    }
}
