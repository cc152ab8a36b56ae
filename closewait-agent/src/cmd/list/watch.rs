//! `closewait list --watch`.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use super::{super::print, request::ListRequest};
use crate::{cli, clock, signals::BlockedSignals};

/// Moves the cursor to the upper left corner, and clears the screen and the lines that have left it.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

/// Lists at every interval, until SIGINT or SIGTERM. Clears a terminal before each list; elsewhere puts an empty line between two
/// lists.
///
/// # Errors
///
/// If there is no answer, or standard output cannot be written.
pub(super) fn watch(request: &ListRequest, args: &cli::ListArgs, interval: Duration) -> anyhow::Result<()> {
    let signals = BlockedSignals::block(&[libc::SIGINT, libc::SIGTERM])?;
    let clears = io::stdout().is_terminal() && request.is_text();
    let mut is_first = true;
    loop {
        let next = clock::now() + interval;
        // The list is complete before the previous one is cleared.
        let mut list = Vec::new();
        if clears {
            list.extend_from_slice(CLEAR);
        } else if !is_first && request.is_text() {
            list.push(b'\n');
        }
        request.show(&args.asked, &mut list)?;
        print(&list)?;
        is_first = false;
        if signals.wait(next.since(clock::now())).is_some() {
            return Ok(());
        }
    }
}
