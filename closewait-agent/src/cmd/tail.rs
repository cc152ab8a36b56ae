//! `closewait tail`.

use std::{process, thread, time::Duration};

use anyhow::Context as _;
use thiserror::Error;

use super::print;
use crate::{
    cli::{self, EventsArg, OutputFormat},
    clock::{self, TimeAnchor},
    control::{EventKind, Followed, StreamItem, follow},
    signals::BlockedSignals,
    sink::stream::{missed, printable},
};
use closewait_engine::{snapshot::query::Query, text::duration};

/// Reason why the stream of events ended early, or did not begin.
#[derive(Debug, Error)]
enum TailError {
    /// No agent listens.
    #[error(
        "no agent answers at {path}\nhint: start one with `closewait run`, or give its control socket with --socket"
    )]
    Absent {
        /// Control socket.
        path: String,
    },
    /// The connection ended without the end of the stream.
    #[error(
        "the stream ended early: the agent was killed, or this command read too slowly\nhint: check whether the agent still runs"
    )]
    Cut,
}

/// Writes the events of a running agent, until the agent ends or a signal arrives.
///
/// # Errors
///
/// If there is no agent, the stream ends early, or standard output cannot be written.
pub(super) fn tail(args: &cli::TailArgs) -> anyhow::Result<()> {
    let cli::TailArgs { shape, since, events, socket } = args;
    end_on_signal()?;
    let wanted = match events.unwrap_or(EventsArg::default_for(shape.output)) {
        EventsArg::Incidents => EventKind::Incident,
        EventsArg::Stuck => EventKind::Stuck,
        EventsArg::All => EventKind::Socket,
    };
    let text = shape.output == OutputFormat::Text;
    let query = Query::Tail { since: *since, text };
    let mut failure = None;
    let followed = follow(socket, &query, |frame| {
        let item = postcard::from_bytes(frame).map_err(|error| format!("an event was not understood: {error}"))?;
        show(item, wanted, text).map_err(|error| {
            let why = error.to_string();
            failure = Some(error);
            why
        })
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    match followed? {
        Followed::Ended => log::info!("the agent has ended"),
        Followed::Absent => return Err(TailError::Absent { path: socket.display().to_string() }.into()),
        Followed::Cut => return Err(TailError::Cut.into()),
    }
    Ok(())
}

/// Writes an item of the stream if it is wanted.
fn show(item: StreamItem, wanted: EventKind, text: bool) -> anyhow::Result<()> {
    match item {
        StreamItem::Begins(reach) => {
            log::warn!("the agent remembers the events of the last {} only", duration(reach));
            Ok(())
        }
        StreamItem::Event(kind, lines) if kind <= wanted => print(printable(lines).as_bytes()),
        StreamItem::Event(..) => Ok(()),
        StreamItem::Missed(count) => {
            let mut line = Vec::new();
            missed(count, TimeAnchor::now().wall(clock::now()), text, &mut line)?;
            print(&line)
        }
    }
}

/// Ends this process with exit code 0 on SIGINT or SIGTERM, even while it waits for a reader of its output.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "no kernel program is loaded here, and the main thread may wait in a write that no signal ends"
)]
fn end_on_signal() -> anyhow::Result<()> {
    let signals = BlockedSignals::block(&[libc::SIGINT, libc::SIGTERM])?;
    let wait = move || {
        while signals.wait(Duration::from_secs(3600)).is_none() {}
        process::exit(0);
    };
    thread::Builder::new()
        .name("closewait-signal".to_owned())
        .spawn(wait)
        .map(drop)
        .context("starting a thread failed\nhint: check the limit on processes (ulimit -u, TasksMax=)")
}
