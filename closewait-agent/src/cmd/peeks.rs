//! `closewait peeks`: the helper of an agent that peeks at unread requests. Users do not call it.

use std::{io, os::fd::AsFd as _};

use anyhow::Context as _;
use rustix::net::{SocketType, sockopt::socket_type};

use crate::{signals::BlockedSignals, source::unread::serve_peeks};

/// Peeks at unread requests until the agent ends.
///
/// # Errors
///
/// If standard input is no socket for messages.
pub(super) fn run() -> anyhow::Result<()> {
    // A user who ends the agent may signal all of its processes. The helper notices the agent's end by the socket.
    let _blocked = BlockedSignals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    let stdin = io::stdin();
    let kind = socket_type(&stdin).ok().filter(|kind| *kind == SocketType::SEQPACKET);
    kind.context(
        "standard input is not a socket for messages\nhint: `closewait run --peek first-line` starts this command itself",
    )?;
    serve_peeks(stdin.as_fd())
}
