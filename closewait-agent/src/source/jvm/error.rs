//! Reasons why a Java virtual machine has not dumped its threads.

use std::{io, sync::Arc, time::Duration};

use closewait_engine::text::duration;
use closewait_stacks::StackError;
use thiserror::Error;

use crate::host::deadline::ReadFailure;

/// Reason why a process has not dumped its threads.
#[derive(Debug, Error)]
#[error("process {pid} has not dumped its threads")]
pub struct JvmError {
    /// The process.
    pub pid: u32,
    /// Cause.
    #[source]
    pub why: AttachError,
}

/// Reason why there is no dump.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The process has ended.
    #[error("it has ended")]
    Ended,
    /// Something about the process could not be read or done.
    #[error("{what}: {error}")]
    Unreadable {
        /// Read or action.
        what: &'static str,
        /// Error of the read or action.
        error: io::Error,
    },
    /// The signal would end it, or do something else.
    #[error("it is no HotSpot JVM: {0}")]
    NotHotspot(&'static str),
    /// It would handle the signal later, when it continues and closewait has stopped waiting.
    #[error("it is stopped")]
    Stopped,
    /// An option makes it print its threads at the signal, and answer nobody.
    #[error("it runs with -XX:+DisableAttachMechanism")]
    Disabled,
    /// It would print its threads to its own standard output instead.
    #[error(
        "it has {open} of {limit} descriptors open, and needs {needed} to answer\nhint: its standard output gets its threads by\n    kill -QUIT {pid}"
    )]
    NoDescriptors {
        /// The process.
        pid: u32,
        /// Number of open descriptors.
        open: u64,
        /// Limit on open descriptors.
        limit: u64,
        /// Number of free descriptors that an answer may take.
        needed: u64,
    },
    /// The number of its open descriptors is unknown.
    #[error("its open descriptors are too many to count")]
    UnknownDescriptors,
    /// It answers only its own user and root.
    #[error("it answers only root and its user {user}\nhint: run as root, or with CAP_SETUID and CAP_SETGID")]
    OtherUser {
        /// Effective user of the process.
        user: u32,
    },
    /// The file system of the process's `/tmp` may not answer.
    #[error("its /tmp is on a file system that may not answer")]
    Unresponsive,
    /// The socket or trigger belongs to another user, or is something else.
    #[error("/tmp/{name}, as it sees it, is not its own")]
    Foreign {
        /// Name of the file.
        name: String,
    },
    /// Somebody else listens at its socket.
    #[error("another process listens at its socket")]
    OtherPeer,
    /// The socket was removed, which releases before JDK 9 do not notice.
    #[error("its socket was removed from its /tmp")]
    SocketRemoved,
    /// The signal that makes it listen would do something else.
    #[error("{0}")]
    NotSignaled(Arc<AttachError>),
    /// This process no longer waits for the answer.
    #[error("closewait no longer waits for its answer")]
    Abandoned,
    /// There was no answer in time.
    #[error("it did not answer within {}", duration(*.0))]
    Late(Duration),
    /// It refuses the command.
    #[error("it answers with error {0}")]
    Refused(String),
    /// It answers with something else.
    #[error("its answer: {0}")]
    Malformed(StackError),
    /// It writes more than is read.
    #[error("they are more than {} MiB", .0 >> 20)]
    TooLarge(usize),
    /// This process waits for something in vain.
    #[error("{0}")]
    Unanswered(ReadFailure),
}

impl AttachError {
    /// Returns a function that makes an error of a failed action.
    pub(super) fn unreadable<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Unreadable { what, error: error.into() }
    }
}
