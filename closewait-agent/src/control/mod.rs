//! The Unix socket on which a running agent answers other closewait commands.
//!
//! A connection carries one question and one answer. Each begins with a line of JSON that has the version of the protocol, in
//! every version; frames of typed items follow the line of an answer, and then an end mark. [`crate::sink::answer`] has the
//! items.
//!
//! | file | content |
//! |---|---|
//! | `place` | the socket file: created with the right mode, never in the place of something else, removed only by its owner |
//! | `peer` | who is at the other end, and whether to believe it |
//! | `server` | the agent's side: bounded in clients, bytes and time |
//! | `answer_writer` | an answer that is sent while it is made, as far as its client takes it at once |
//! | `frames` | the parts of an answer, and the mark at its end |
//! | `body`, `pool` | answers in flight: pieces that are freed as they are written, compressed if they are large, within one limit for all |
//! | `client` | the side of `list`, `report` and `kill`: bounded in bytes and time |

mod answer_writer;
mod body;
mod client;
mod error;
mod frames;
mod peer;
mod place;
mod pool;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use closewait_engine::text::harmless_field;

pub use self::{
    answer_writer::AnswerWriter,
    client::ask,
    error::ControlError,
    server::{Asker, Control},
};

/// Default limit of the bytes of all answers in flight: answers that were made and not taken yet.
pub const MAX_BYTES_IN_FLIGHT: usize = 32 << 20;
/// Longest question, bytes.
const MAX_QUESTION: usize = 64 * 1024;
/// Clients that are served at the same time. More wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// Longest answer that a client takes, bytes: two million sockets.
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

/// Version of the protocol: of questions, of the items of an answer and of their encoding. Raise it whenever one of them changes;
/// a test of this module notices a change of the encoding.
pub const PROTOCOL: u32 = 2;

/// Line of a question.
#[derive(Debug, Serialize, Deserialize)]
struct Request<Q> {
    protocol: u32,
    query: Q,
}

/// Member of the line of a question in every version of the protocol; 0 before the first.
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
    /// Reason why there is no answer. Otherwise frames follow.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "harmless_field")]
    refused: Option<String>,
}

impl Head {
    /// The line of this agent.
    fn new(refused: Option<String>) -> Self {
        Self { protocol: PROTOCOL, agent: env!("CARGO_PKG_VERSION").to_owned(), refused }
    }

    /// It with the end of its line.
    fn line(&self) -> Vec<u8> {
        // Text and a number have a form in JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Time that the transfer of an answer may take beyond the patience once `bytes` of it have passed.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / MIN_RATE)
}
