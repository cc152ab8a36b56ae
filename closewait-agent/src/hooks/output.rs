//! Output of a program, as far as the log has it.

use closewait_engine::text::harmless;

/// Maximum size of a program's output in the log, bytes.
const MAX_KEPT_BYTES: usize = 4096;
/// Maximum number of those lines: each gets a prefix.
const MAX_LINES: usize = 64;
/// Maximum size of a program's output, bytes. Beyond it, the helper closes the pipe, so that the program cannot keep
/// a CPU busy.
const MAX_READ_BYTES: u64 = 16 << 20;

/// Beginning of a program's output, and the total number of bytes.
#[derive(Debug, Default)]
pub(super) struct CapturedOutput {
    kept: Vec<u8>,
    all: u64,
}

impl CapturedOutput {
    /// Adds a piece. Returns whether to read more.
    pub(super) fn take(&mut self, piece: &[u8]) -> bool {
        self.all = self.all.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        let room = MAX_KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
        self.all < MAX_READ_BYTES
    }

    /// Returns harmless lines for the log, without empty ones; the last one counts the omitted rest.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.kept.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.trim_ascii().is_empty());
        let mut shown: Vec<_> = lines.clone().take(MAX_LINES).map(harmless).collect();
        let left_out = lines.count().saturating_sub(MAX_LINES);
        let unread = if self.all >= MAX_READ_BYTES { ", and its output was closed" } else { "" };
        let beyond = self.all.saturating_sub(u64::try_from(self.kept.len()).unwrap_or(u64::MAX));
        if beyond > 0 {
            shown.push(format!("({beyond} bytes more are left out{unread})"));
        } else if left_out > 0 {
            shown.push(format!("({left_out} lines more are left out)"));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut output = CapturedOutput::default();
        for piece in pieces {
            output.take(piece);
        }
        output.lines()
    }

    #[test]
    fn lines_come_as_they_were_written_and_harmless() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n\n  \nno end"]), ["one", "two", "no end"]);
        assert_eq!(lines(&[b"\x1b[2J\xff\n"]), ["\\u{1b}[2J\\xff"]);
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn of_much_only_the_beginning_is_kept_and_the_rest_counted() {
        let much = vec![b'x'; 100_000];
        let lines = lines(&[&much, &much]);
        assert_eq!((lines.len(), lines[0].len()), (2, MAX_KEPT_BYTES));
        assert_eq!(lines[1], "(195904 bytes more are left out)");
    }

    #[test]
    fn many_short_lines_are_few() {
        let lines = lines(&[b"a\n".repeat(1000).as_slice()]);
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MAX_LINES + 1, "(936 lines more are left out)"));
    }

    #[test]
    fn reading_output_has_a_limit() {
        let (mut output, piece) = (CapturedOutput::default(), vec![b'y'; 1 << 20]);
        assert_eq!((0..100).take_while(|_| output.take(&piece)).count(), 15);
        assert!(output.lines()[1].ends_with("bytes more are left out, and its output was closed)"));
        assert_eq!(output.kept.len(), MAX_KEPT_BYTES);
    }
}
