//! Everything that goes into the engine, as lines of JSON: so that a test can play it again without a kernel.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{Config, Engine, Events, model::Observation, time::Boot};

/// Layout of the lines.
const FORMAT: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    began: Boot,
    stuck_after: Duration,
    all_events: bool,
    /// Recordings made before there was a limit have none.
    #[serde(default = "no_limit")]
    max_tracked: usize,
}

fn no_limit() -> usize {
    usize::MAX
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A fact went in.
    Fact(Box<Observation>),
    /// [`Engine::handle_timeout`] was called.
    Time(Boot),
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    to: BufWriter<File>,
}

impl Recorder {
    /// Begins a recording of an engine that begins at `began`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn begin(path: &Path, config: &Config, began: Boot) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("creating {} failed; is its folder there?", path.display()))?;
        let mut recorder = Self { to: BufWriter::new(file) };
        let all_events = config.events == Events::All;
        recorder.line(&Head {
            format: FORMAT,
            began,
            stuck_after: config.stuck_after,
            all_events,
            max_tracked: config.max_tracked,
        })?;
        Ok(recorder)
    }

    /// A fact goes in.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn fact(&mut self, observation: &Observation) -> anyhow::Result<()> {
        // As `Line::Fact`, without a copy of it.
        let mut fact = serde_json::to_value(observation)?;
        without_nulls(&mut fact);
        self.line(&serde_json::json!({ "fact": fact }))
    }

    /// The time goes in.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn time(&mut self, now: Boot) -> anyhow::Result<()> {
        self.line(&Line::Time(now))
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.to.flush().context("writing the recording failed; is the disk full?")
    }

    fn line(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.to, line)?;
        self.to.write_all(b"\n").context("writing the recording failed; is the disk full?")
    }
}

/// What is unknown needs no room: a member that is not there is read as unknown.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Plays a recording: an engine of its own gets all that went in, and after each line `outputs` takes what comes out.
///
/// # Errors
///
/// If the recording cannot be read.
pub fn replay(from: impl io::Read, mut outputs: impl FnMut(&mut Engine)) -> anyhow::Result<Engine> {
    let mut lines = BufReader::new(from).lines();
    let head = lines.next().context("the recording is empty")?.context("reading the recording failed")?;
    let head: Head = serde_json::from_str(&head).context("the first line is not that of a recording")?;
    anyhow::ensure!(head.format == FORMAT, "the recording has format {}, this reads {FORMAT}", head.format);
    let config = Config {
        stuck_after: head.stuck_after,
        events: if head.all_events { Events::All } else { Events::Stuck },
        max_tracked: head.max_tracked,
        histogram_every: Duration::from_secs(3600),
        watching: true,
        ephemeral_ports: 32_768..=60_999,
    };
    let mut engine = Engine::new(config, head.began);
    for (number, line) in (2..).zip(lines) {
        let line = line.with_context(|| format!("reading line {number} of the recording failed"))?;
        match serde_json::from_str(&line).with_context(|| format!("line {number} is not that of a recording"))? {
            Line::Fact(observation) => engine.handle(*observation),
            Line::Time(now) => engine.handle_timeout(now),
        }
        outputs(&mut engine);
    }
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::*;
    use crate::engine::{
        model::{Finding, Output, SocketKey},
        testing::socket,
    };

    const STUCK_AFTER: Duration = Duration::from_secs(2);

    fn config() -> Config {
        Config {
            stuck_after: STUCK_AFTER,
            events: Events::Stuck,
            max_tracked: 10,
            histogram_every: Duration::from_secs(60),
            watching: true,
            ephemeral_ports: 32_768..=60_999,
        }
    }

    #[test]
    fn what_was_recorded_gives_the_same_findings_again() {
        let path = std::env::temp_dir().join(format!("closewait-recording-{}", process::id()));
        let at = Boot(1_000_000_000);
        let mut recorder = Recorder::begin(&path, &config(), at).unwrap();
        recorder.fact(&Observation::Enter { key: SocketKey(1 << 63), at, socket: socket(), replaced: false }).unwrap();
        let due = at + STUCK_AFTER;
        recorder.time(due).unwrap();
        recorder.fact(&Observation::LookedAtAll { at: due }).unwrap();
        recorder.fact(&Observation::WalkEnded { began: due, blind: None, saw_listeners: true }).unwrap();
        recorder.fact(&Observation::InquiredAll { at: due, worked: Duration::ZERO }).unwrap();
        recorder.finish().unwrap();
        let mut stuck = 0;
        let engine = replay(File::open(&path).unwrap(), |engine| {
            while let Some(output) = engine.poll_output() {
                stuck += usize::from(matches!(output, Output::Finding(Finding::Stuck { .. })));
            }
        });
        fs::remove_file(&path).unwrap();
        assert_eq!((stuck, engine.unwrap().totals().tracked), (1, 1));
    }

    #[test]
    fn what_is_no_recording_is_refused_with_the_line() {
        assert!(replay(&b""[..], |_engine| {}).is_err());
        assert!(replay(&b"{\"format\":99}\n"[..], |_engine| {}).is_err());
        let head = serde_json::to_string(&Head {
            format: FORMAT,
            began: Boot(0),
            stuck_after: STUCK_AFTER,
            all_events: true,
            max_tracked: 1,
        });
        let error = replay(format!("{}\nx\n", head.unwrap()).as_bytes(), |_engine| {}).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
