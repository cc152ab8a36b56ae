//! The Unix socket on which a running agent answers other closewait commands.
//!
//! A connection carries one question and one answer, each a line of JSON; the text that the answer's line announces
//! follows it.
//!
//! | file | content |
//! |---|---|
//! | `place` | the socket file: created with the right mode, never in the place of something else, removed only by its owner |
//! | `peer` | who is at the other end, and whether to believe it |
//! | `server` | the agent's side: bounded in clients, bytes and time |
//! | `body`, `pool` | answers in flight: pieces that are freed as they are written, compressed if they are large, within one limit for all |
//! | `client` | the side of `list`, `report` and `kill`: bounded in bytes and time |
//! | `screen` | removes from an answer what could act on a terminal |

mod body;
mod client;
mod error;
mod peer;
mod place;
mod pool;
mod screen;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    body::BodyWriter,
    client::ask,
    error::ControlError,
    screen::{harmless_json, harmless_text},
    server::{Asker, Control},
};

/// Where the agent listens unless told otherwise.
pub const PATH: &str = "/run/closewait/agent.sock";
/// Default limit of the bytes of all answers in flight: answers that were made and not taken yet.
pub const MAX_BYTES_IN_FLIGHT: usize = 32 << 20;
/// Longest question, bytes.
const MAX_QUESTION: usize = 64 * 1024;
/// Clients that are served at the same time. More wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// Longest answer that a client takes, bytes: a million sockets in JSON and half as much again.
const MAX_ANSWER: u64 = 1 << 30;
/// Longest first line of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Time for a client to connect, to ask and to see the first byte; time for the server to get the question; longest time
/// without a byte in either direction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for a question to wait until earlier answers were taken. Shorter than [`PATIENCE`], so that the client learns why.
const QUEUE_PATIENCE: Duration = Duration::from_secs(4);
/// Slowest transfer of an answer, bytes per second beyond the first [`PATIENCE`].
const MIN_RATE: u64 = 256 * 1024;

/// First line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Head {
    /// A complete answer of this many bytes follows.
    Bytes(u64),
    /// An answer follows that is not complete.
    Part {
        /// Length of the text.
        bytes: u64,
        /// What is missing, for people.
        missing: String,
    },
    /// There is no answer, for this reason.
    Refused(String),
}

/// Time that the transfer of an answer may take beyond the patience once `bytes` of it have passed.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / MIN_RATE)
}
