//! Unix socket on which a running agent answers other closewait commands.
//!
//! A connection carries one query and one answer. In every version of the protocol, each begins with a line of JSON
//! that has the version. After the line of an answer follow frames of typed items, and an end mark.
//! [`crate::sink::answer`] has the items.
//!
//! | file | content |
//! |---|---|
//! | `place` | the socket file: created with the right mode, never in place of another file, removed only by its creator |
//! | `peer` | identity of the other end, and whether to trust it |
//! | `server` | the agent's side: bounded in clients, bytes and time |
//! | `answer_writer` | an answer that is sent while it is made, as far as its client reads it at once |
//! | `frames` | the parts of an answer, and the mark at its end |
//! | `body`, `pool` | answers in flight: pieces that are freed as they are sent, compressed if they are large, within one limit for all |
//! | `events` | recent events, and the clients that follow them: an answer that ends with the agent |
//! | `client` | the side of `list`, `report` and `kill`: bounded in bytes and time |

mod answer_writer;
mod body;
mod client;
mod error;
mod events;
mod frames;
mod peer;
mod place;
mod pool;
mod server;
#[cfg(test)]
mod tests;

use std::{os::unix::net::UnixListener, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use closewait_engine::text::harmless_field;

pub use self::{
    answer_writer::AnswerWriter,
    client::{Followed, ask, follow},
    error::{ControlError, MAX_SOCKET_PATH},
    events::{EventForm, EventKind, EventLog, MAX_EVENT_BYTES, MAX_EVENTS, RecentEvent, StreamItem},
    place::SocketFile,
    server::{Control, QueryClient},
};

/// Listens at `path` for something else than queries, with the same care for other files. Returns the listener, its file, and
/// warnings about the folder.
///
/// # Errors
///
/// If another file is there, or the socket cannot be created within two seconds.
pub fn bind_file(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile, Vec<String>), ControlError> {
    place::occupy_in_time(path, mode)
}

/// Mode of the control socket.
const SOCKET_MODE: u32 = 0o600;
/// Default limit of the bytes of all answers in flight, which were made and not read yet.
pub const MAX_BYTES_IN_FLIGHT: usize = 32 << 20;
/// Maximum length of a query, bytes.
const MAX_QUESTION: usize = 64 * 1024;
/// Maximum number of clients served at the same time. More wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// Maximum length of an answer, bytes: two million sockets.
const MAX_ANSWER: u64 = 1 << 30;
/// Maximum length of the first line of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Time limit for a client to connect, to send its query and to get the first byte; for the server to get the query;
/// and without a byte in either direction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time limit for a query to wait until clients have read earlier answers. Shorter than [`PATIENCE`], so that the
/// client gets the reason.
const QUEUE_PATIENCE: Duration = Duration::from_secs(4);
/// Minimum transfer rate of an answer, bytes per second beyond the first [`PATIENCE`].
const MIN_RATE: u64 = 256 * 1024;

/// Version of the protocol: of queries, of the items of an answer and of their encoding. Raise it whenever one of
/// them changes; a test of this module detects a change of the encoding.
pub const PROTOCOL: u32 = 19;

/// Line of a query.
#[derive(Debug, Serialize, Deserialize)]
struct Request<Q> {
    protocol: u32,
    query: Q,
}

/// Member of the line of a query in every version of the protocol; 0 before the first.
#[derive(Debug, Deserialize)]
struct AnyRequest {
    #[serde(default)]
    protocol: u32,
}

/// First line of an answer. Every version of the protocol has these members.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Head {
    protocol: u32,
    /// Version of the agent.
    #[serde(deserialize_with = "harmless_field")]
    agent: String,
    /// Reason why there is no answer. Without one, frames follow.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "harmless_field")]
    refused: Option<String>,
}

impl Head {
    /// Creates the first line of this agent.
    fn new(refused: Option<String>) -> Self {
        Self { protocol: PROTOCOL, agent: env!("CARGO_PKG_VERSION").to_owned(), refused }
    }

    /// Encodes the line, with its end.
    fn line(&self) -> Vec<u8> {
        // This cannot fail: text and a number have a form in JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Returns the additional time limit for an answer after `bytes` of it.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / MIN_RATE)
}
