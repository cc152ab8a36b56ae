//! Plays a recording.

use std::{io, time::UNIX_EPOCH};

use super::Item;
use crate::{clock::TimeAnchor, sink::Start};
use closewait_engine::{
    Engine,
    model::{Finding, Output},
};

/// What was shown, or became of it.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The event `start`.
    Start(&'a Start),
    /// Another event.
    Finding(&'a Finding),
    /// All that was shown since the last time was handed to whoever writes lines.
    HandedOut,
    /// What was handed out last was dropped.
    Unwritten,
}

/// An engine of its own for what an engine was told.
#[derive(Debug)]
pub struct Player {
    engine: Option<Engine>,
    anchor: TimeAnchor,
    /// The last output was a scan for owners, of which the engine knows that it begins.
    knows_of_scan: bool,
}

impl Default for Player {
    fn default() -> Self {
        Self { engine: None, knows_of_scan: false, anchor: TimeAnchor::booted_at(UNIX_EPOCH) }
    }
}

impl Player {
    /// The engine, once it has begun.
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// How to tell the times of what it has found last.
    pub fn anchor(&self) -> TimeAnchor {
        self.anchor
    }

    /// Does what an item says; `show` takes what is to be shown, with how to tell its time.
    ///
    /// # Errors
    ///
    /// If `show` fails, or the item cannot be where it is.
    pub fn play(
        &mut self,
        item: Item<'_>,
        mut show: impl FnMut(Shown<'_>, TimeAnchor) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(engine) = &mut self.engine else {
            let Item::Began { config, at } = item else {
                anyhow::bail!("the recording is damaged: its first frame is missing, copy it again");
            };
            let config = config.into_owned();
            anyhow::ensure!(config.is_sound(), "the recording has settings that no agent takes; it is damaged");
            self.engine = Some(Engine::new(config, at));
            return Ok(());
        };
        match item {
            Item::Began { .. } => anyhow::bail!("the recording begins twice; give files one by one"),
            Item::Started(start) => show(Shown::Start(&start), self.anchor)?,
            Item::Fact(observation) => engine.handle(observation.into_owned()),
            Item::Time(now) => engine.handle_timeout(now),
            Item::Undecodable(at) => engine.undecodable(at),
            Item::Unwritten { at, lines } => {
                show(Shown::Unwritten, self.anchor)?;
                engine.unwritten(at, lines);
            }
            Item::LogDropped { at, lines } => engine.log_lines_dropped(at, lines),
            Item::ScanBegan => {
                // Scans for queries were no output then.
                if !std::mem::take(&mut self.knows_of_scan) {
                    let _known = engine.scan_began();
                }
            }
            Item::Stopping => engine.stop(),
            Item::Polled(count) => {
                for _ in 0..count {
                    let Some(output) = engine.poll_output() else { break };
                    self.knows_of_scan = matches!(output, Output::ScanOwners { .. });
                    show_output(&output, self.anchor, &mut show)?;
                }
            }
            Item::Drained => {
                while let Some(output) = engine.poll_output() {
                    self.knows_of_scan = matches!(output, Output::ScanOwners { .. });
                    show_output(&output, self.anchor, &mut show)?;
                }
            }
            Item::Anchored(anchor) => self.anchor = anchor,
            Item::HandedOut => show(Shown::HandedOut, self.anchor)?,
        }
        Ok(())
    }
}

/// What else the engine wanted done has been done; what came of it follows.
fn show_output(
    output: &Output,
    anchor: TimeAnchor,
    show: &mut impl FnMut(Shown<'_>, TimeAnchor) -> io::Result<()>,
) -> io::Result<()> {
    if let Output::Finding(finding) = output { show(Shown::Finding(finding), anchor) } else { Ok(()) }
}
