//! Player of a recording.

use std::{io, time::UNIX_EPOCH};

use anyhow::Context as _;

use super::Item;
use crate::{clock::TimeAnchor, sink::Start};
use closewait_engine::{
    Engine,
    model::{Finding, Output, StuckCounts},
    time::BootTime,
};

/// Output of an agent, or its fate.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The event `start`.
    Start(&'a Start),
    /// Another event.
    Finding(&'a Finding),
    /// A reminder of stuck sockets.
    StillStuck(BootTime, StuckCounts),
    /// All output since the last time was handed to the writer of lines.
    HandedOut,
    /// The lines that were handed out last were dropped.
    Unwritten,
}

/// Engine that gets the input of a recorded one.
#[derive(Debug)]
pub struct Player {
    engine: Option<Engine>,
    anchor: TimeAnchor,
    /// Whether the last output was a scan for owners, whose start the engine knows already.
    knows_of_scan: bool,
}

impl Default for Player {
    fn default() -> Self {
        Self { engine: None, knows_of_scan: false, anchor: TimeAnchor::booted_at(UNIX_EPOCH) }
    }
}

impl Player {
    /// Returns the engine, once it has begun.
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Returns the anchor for the times of its latest findings.
    pub fn anchor(&self) -> TimeAnchor {
        self.anchor
    }

    /// Executes an item; `show` receives the output, with the anchor for its time.
    ///
    /// # Errors
    ///
    /// If `show` fails, or the item is invalid at this position.
    pub fn play(
        &mut self,
        item: Item<'_>,
        mut show: impl FnMut(Shown<'_>, TimeAnchor) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        if let Item::Segment(_) = &item {
            // The engine of another segment, which this one does not continue.
            self.engine = None;
            return Ok(());
        }
        let Some(engine) = &mut self.engine else {
            let Item::Began { config, at } = item else {
                anyhow::bail!("the recording is damaged: its first frame is missing\nhint: copy it again");
            };
            let config = config.into_owned();
            anyhow::ensure!(
                config.is_sound(),
                "the recording is damaged: it has settings that no agent takes\nhint: copy it again"
            );
            self.engine = Some(Engine::new(config, at));
            return Ok(());
        };
        match item {
            Item::Segment(_) | Item::Began { .. } => {
                anyhow::bail!("the recording begins twice\nhint: give files one by one")
            }
            Item::Checkpoint(checkpoint) => {
                let restored = checkpoint.restore().context("the recording is damaged: its checkpoint is invalid");
                *engine = restored?;
            }
            Item::Started(start) => show(Shown::Start(&start), self.anchor)?,
            Item::Fact(observation) => engine.handle(observation.into_owned()),
            Item::Time(now) => engine.handle_timeout(now),
            Item::Undecodable(at) => engine.undecodable(at),
            Item::Unwritten { at, lines } => {
                show(Shown::Unwritten, self.anchor)?;
                engine.unwritten(at, lines);
            }
            Item::Refused { at, entries } => engine.unwritten(at, entries),
            Item::LogDropped { at, lines } => engine.log_lines_dropped(at, lines),
            Item::Unexported { at, events } => engine.unexported(at, events),
            Item::Unrecorded { at, observations } => engine.unrecorded(at, observations),
            Item::ScanBegan => {
                // At that time, scans for queries were no output.
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

/// Shows a finding or a reminder. The agent executed all other output, and the results follow as items.
fn show_output(
    output: &Output,
    anchor: TimeAnchor,
    show: &mut impl FnMut(Shown<'_>, TimeAnchor) -> io::Result<()>,
) -> io::Result<()> {
    match output {
        Output::Finding(finding) => show(Shown::Finding(finding), anchor),
        Output::StillStuck { at, counts } => show(Shown::StillStuck(*at, *counts), anchor),
        Output::RefreshLingering(_)
        | Output::Refresh(_)
        | Output::ScanOwners { .. }
        | Output::InspectOwners(_)
        | Output::Audit { .. }
        | Output::RefreshSuspects(_)
        | Output::Query(_)
        | Output::WatchPorts(_)
        | Output::Forget(_)
        | Output::ReadCounters => Ok(()),
    }
}
