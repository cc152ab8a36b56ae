//! The table: what was sent to each engine, and what it answered.

use crate::prelude::*;

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Right answer of an engine.
pub(super) struct Answer {
    pub(super) sent: String,
    pub(super) got: String,
}

/// Answers of all engines.
#[derive(Default)]
pub(super) struct Answers {
    rows: Vec<String>,
    failed: usize,
}

impl Answers {
    /// Asks until the answer is right, at most until `end`, and adds it as a row.
    pub(super) fn ask(&mut self, engine: &str, end: Instant, question: impl Fn() -> Result<Answer>) {
        let began = exec::now();
        let outcome = loop {
            let answer = question();
            if answer.is_ok() || exec::now() >= end {
                break answer;
            }
            thread::sleep(PAUSE);
        };
        let row = match outcome {
            Ok(Answer { sent, got }) => format!("{engine} | {} | {}", markdown::cell(&sent), markdown::cell(&got)),
            Err(error) => {
                self.failed += 1;
                format!("{engine} | | FAILED: {}", markdown::cell(&format!("{error:#}").replace('\n', " ")))
            }
        };
        eprintln!("engines: {row} ({:.0} s)", began.elapsed().as_secs_f64());
        self.rows.push(row);
    }

    /// Prints the table. A wrong answer is an error.
    pub(super) fn print(self) -> Result<()> {
        let count = self.rows.len();
        print!("{}", markdown::table("engine | sent | answered", self.rows));
        println!("engines: {count} asked, {} failed", self.failed);
        ensure!(self.failed == 0, "{} answers of engines are not as expected; see the table", self.failed);
        Ok(())
    }
}
