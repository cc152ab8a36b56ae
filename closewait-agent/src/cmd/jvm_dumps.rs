//! `closewait jvm-dumps`: the helper of an agent that asks Java virtual machines. Users do not call it.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use anyhow::Context as _;
use rustix::net::sockopt::socket_type;

use crate::{signals::BlockedSignals, source::jvm::serve_jvm_dumps};

/// Asks Java virtual machines until the agent ends.
///
/// # Errors
///
/// If standard input is no socket.
pub(super) fn run() -> anyhow::Result<()> {
    // A user who ends the agent may signal all of its processes. The helper notices the agent's end by the socket, and then removes its
    // files from the folders of others.
    let _blocked = BlockedSignals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    let stdin = io::stdin();
    socket_type(&stdin).context(
        "standard input is not a socket\nhint: `closewait run --stacks auto --stacks-jvm` starts this command itself",
    )?;
    let agent = stdin.as_fd().try_clone_to_owned().context("fcntl(F_DUPFD_CLOEXEC) failed")?;
    serve_jvm_dumps(UnixStream::from(agent))
}
