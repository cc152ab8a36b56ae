//! Requests of the agent to the helper that asks Java virtual machines, and its answers. Both ends are the same program, so the format has
//! no version.
//!
//! ```text
//! request: kind (1 byte), 3 zeros, pid (4 bytes), start of the process in nanoseconds since boot (8 bytes)
//! answer:  kind (1 byte), 3 zeros, length (4 bytes), that many bytes: the dump as the process wrote it, or a reason
//! ```
//!
//! Numbers are little-endian. A request has nothing that the helper hands on to a process.

use std::io::{self, Read, Write};

use super::attach::AttachAnswer;

/// Maximum number of bytes of a dump that the agent reads. It keeps less of it than [`closewait_stacks::jvm::MAX_DUMP_BYTES`], because it
/// has the dumps of many processes parsed, and may have little memory.
pub(super) const MAX_HELPER_DUMP_BYTES: usize = 4 << 20;
/// Maximum number of bytes of a reason.
const MAX_REASON_BYTES: usize = 1024;

/// Dump of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DumpKind {
    /// Threads of the system, in text.
    Threads,
    /// All threads, in JSON.
    Virtual,
}

/// Request for a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DumpRequest {
    pub(super) kind: DumpKind,
    /// Process.
    pub(super) pid: u32,
    /// Start of the process, in nanoseconds since boot: a process with another start is another process.
    pub(super) started_ns: u64,
}

/// Answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DumpReply {
    /// Dump, as the process wrote it.
    Dump(AttachAnswer),
    /// Reason why there is none.
    Refused(String),
}

impl DumpRequest {
    /// Number of bytes of a request.
    const BYTES: usize = 16;

    /// Sends the request.
    pub(super) fn write_to(self, to: &mut impl Write) -> io::Result<()> {
        let kind = match self.kind {
            DumpKind::Threads => 0_u32,
            DumpKind::Virtual => 1,
        };
        let parts = [&kind.to_le_bytes()[..], &self.pid.to_le_bytes(), &self.started_ns.to_le_bytes()];
        to.write_all(&parts.concat())
    }

    /// Receives a request; `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// If it is no request, or cannot be received.
    pub(super) fn read_from(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; Self::BYTES];
        match from.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (head, started) = bytes.split_at(8);
        let (kind, pid) = head.split_at(4);
        let kind = match number(kind) {
            0 => DumpKind::Threads,
            1 => DumpKind::Virtual,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let started_ns = started.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        Ok(Some(Self { kind, pid: number(pid), started_ns }))
    }
}

impl DumpReply {
    /// Sends the answer.
    pub(super) fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, body): (u32, &[u8]) = match self {
            Self::Dump(AttachAnswer { text, is_cut }) => (u32::from(*is_cut), text),
            Self::Refused(why) => {
                (2, why.get(..why.floor_char_boundary(MAX_REASON_BYTES)).unwrap_or_default().as_bytes())
            }
        };
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        to.write_all(&[kind.to_le_bytes(), length.to_le_bytes()].concat())?;
        to.write_all(body)
    }

    /// Receives an answer.
    ///
    /// # Errors
    ///
    /// If it is no answer, or cannot be received.
    pub(super) fn read_from(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 8];
        from.read_exact(&mut head)?;
        let (kind, length) = head.split_at(4);
        let length = number(length);
        if length as usize > MAX_HELPER_DUMP_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = Vec::new();
        if from.take(length.into()).read_to_end(&mut text)? < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match number(kind) {
            cut @ (0 | 1) => Ok(Self::Dump(AttachAnswer { text, is_cut: cut == 1 })),
            2 => Ok(Self::Refused(String::from_utf8_lossy(&text).into_owned())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Returns a number of four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_same_at_the_other_end() {
        let mut sent = Vec::new();
        let requests = [
            DumpRequest { kind: DumpKind::Threads, pid: 4711, started_ns: 0x0102_0304_0506_0708 },
            DumpRequest { kind: DumpKind::Virtual, pid: u32::MAX, started_ns: u64::MAX },
        ];
        requests.iter().for_each(|request| request.write_to(&mut sent).unwrap());
        assert_eq!(sent.len(), 2 * DumpRequest::BYTES);
        let from = &mut &sent[..];
        for request in requests {
            assert_eq!(DumpRequest::read_from(from).unwrap(), Some(request));
        }
        assert_eq!(DumpRequest::read_from(from).unwrap(), None);
        assert_eq!(DumpRequest::read_from(&mut &sent[..7]).unwrap(), None, "the agent has ended within a request");
        sent[1] = 1;
        assert!(DumpRequest::read_from(&mut &sent[..]).is_err(), "an unknown kind");
    }

    #[test]
    fn answers_are_the_same_at_the_other_end_and_bounded() {
        for reply in [
            DumpReply::Dump(AttachAnswer { text: b"Full thread dump".to_vec(), is_cut: false }),
            DumpReply::Dump(AttachAnswer { text: vec![b'x'; MAX_HELPER_DUMP_BYTES], is_cut: true }),
            DumpReply::Dump(AttachAnswer::default()),
            DumpReply::Refused("it is stopped".to_owned()),
        ] {
            let mut sent = Vec::new();
            reply.write_to(&mut sent).unwrap();
            assert_eq!(DumpReply::read_from(&mut &sent[..]).unwrap(), reply);
            sent.pop();
            assert!(DumpReply::read_from(&mut &sent[..]).is_err(), "the end is missing");
        }
        let mut sent = Vec::new();
        DumpReply::Refused("ж".repeat(MAX_REASON_BYTES)).write_to(&mut sent).unwrap();
        assert_eq!(DumpReply::read_from(&mut &sent[..]).unwrap(), DumpReply::Refused("ж".repeat(MAX_REASON_BYTES / 2)));
        let too_long = [0_u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat();
        assert!(DumpReply::read_from(&mut &too_long[..]).is_err());
    }
}
