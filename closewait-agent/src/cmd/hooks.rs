//! `closewait hooks`: the helper of an agent. Users do not call it.

use std::{io, os::fd::AsFd as _};

use anyhow::Context as _;
use tokio::net::unix::pipe::Receiver;

use crate::{
    cli,
    hooks::{HookPrograms, serve},
    signals,
};

/// Runs hook programs until the agent ends.
///
/// # Errors
///
/// If standard input is no pipe.
pub(super) fn run(args: &cli::HooksArgs) -> anyhow::Result<()> {
    // The programs inherit signal settings of this process.
    signals::set_defaults()?;
    let cli::HooksArgs { on_stuck, on_pileup, timeout } = args;
    let programs = HookPrograms { stuck: on_stuck.clone(), pileup: on_pileup.clone() };
    let requests = io::stdin().as_fd().try_clone_to_owned().context("fcntl(F_DUPFD_CLOEXEC) failed")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop failed (epoll_create)\nhint: check the limit on open files (ulimit -n)")?;
    runtime.block_on(async {
        let requests = Receiver::from_owned_fd(requests)
            .context("standard input is not a pipe\nhint: `closewait run --on-stuck CMD` starts this command itself")?;
        serve(requests, programs, *timeout).await
    })
}
