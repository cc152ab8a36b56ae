//! SIGHUP: of a user or service manager, who wants the configuration to be read again, or of a terminal that is gone.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::signals;

/// Meaning of a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// Read the configuration again.
    Reload,
    /// The terminal of this process is gone.
    TerminalGone,
}

/// Listener for SIGHUP. Each listener gets every signal.
#[derive(Debug)]
pub struct Hangups {
    signal: Signal,
    /// Whether this process ends with its terminal: it has one, and was not started by `nohup`.
    has_terminal: bool,
}

impl Hangups {
    /// Catches SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If `pthread_sigmask` or `sigaction` refuses.
    pub(super) fn catch() -> anyhow::Result<Self> {
        let has_terminal = !signals::is_ignored(libc::SIGHUP) && has_terminal();
        signals::unblock(&[libc::SIGHUP])?;
        Self::listen(has_terminal)
    }

    fn listen(has_terminal: bool) -> anyhow::Result<Self> {
        let signal = signal(SignalKind::hangup());
        let signal = signal.context("sigaction failed\nhint: report this with the output of `closewait doctor`")?;
        Ok(Self { signal, has_terminal })
    }

    /// Returns another listener.
    pub(super) fn another(&self) -> anyhow::Result<Self> {
        Self::listen(self.has_terminal)
    }

    /// Returns the meaning of the next signal.
    pub(super) async fn next(&mut self) -> Hangup {
        // The stream has no end.
        let _signal: Option<()> = self.signal.recv().await;
        if self.has_terminal && !has_terminal() { Hangup::TerminalGone } else { Hangup::Reload }
    }
}

/// Whether this process has a controlling terminal: the kernel removes it from all processes of the session before it sends
/// the signal (`disassociate_ctty` and `__tty_hangup` in drivers/tty, v6.18).
fn has_terminal() -> bool {
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open("/dev/tty").is_ok()
}
