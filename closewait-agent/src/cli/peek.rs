//! `run --peek`.

use clap::ValueEnum;

/// `run --peek`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeekArg {
    /// Method and path of an unread request, or the server name of TLS.
    FirstLine,
    /// No unread byte is peeked at.
    Never,
}
