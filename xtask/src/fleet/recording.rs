//! Lines of `closewait replay`.

use std::time::SystemTime;

use crate::prelude::*;

/// Events of a recording.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) events: Vec<Value>,
    /// Size of each line with its end, bytes, and the type of its event.
    pub(super) sizes: Vec<(String, usize)>,
    /// Time of the first event, which is `start`.
    pub(super) started: SystemTime,
}

impl Replayed {
    /// Plays a recording with the built agent.
    pub(super) fn of(closewait: &Path, recording: &Path) -> Result<Self> {
        let text = exec::quiet(Command::new(closewait).arg("replay").arg(recording).args(["--output", "json"]))?;
        let parse = |line| serde_json::from_str(line).with_context(|| format!("no JSON from {}", recording.display()));
        let events = text.lines().map(parse).collect::<Result<Vec<Value>>>()?;
        let name = |event: &Value| event["event"].as_str().unwrap_or_default().to_owned();
        let sizes = events.iter().map(name).zip(text.lines().map(|line| line.len() + 1)).collect();
        let first = events.first().context("a recording without events")?;
        ensure!(first["event"] == "start", "{} begins with {first}", recording.display());
        Ok(Self { sizes, started: time(&first["time"])?, events })
    }

    /// Whether an event of a stuck socket names the program.
    pub(super) fn has_program(&self) -> bool {
        self.events.iter().any(|event| event["event"] == "stuck" && !event["process"]["exe"].is_null())
    }
}

/// Returns the time that a member has.
pub(super) fn time(member: &Value) -> Result<SystemTime> {
    let text = member.as_str().with_context(|| format!("no time: {member}"))?;
    humantime::parse_rfc3339(text).with_context(|| format!("no time: {text}"))
}
