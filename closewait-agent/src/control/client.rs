//! Client for `list`, `report` and `kill`: queries a running agent, with time limits.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketAddrUnix, connect},
};
use serde::Serialize;

use super::{
    Head, MAX_ANSWER, MAX_HEAD, MAX_QUESTION, PATIENCE, PROTOCOL, Request,
    error::{ControlError, MAX_SOCKET_PATH},
    frames::FrameReader,
    peer, place, transfer_time,
};
use crate::{
    clock,
    host::in_time::{CallFailure, call, in_time},
};
use closewait_engine::{text::still_harmless, time::BootTime};

/// Time between two connection attempts while the agent's queue is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Call of a connecting thread while the agent's queue is full.
const FULL_QUEUE: &str = "connect (the agent's queue is full)";
/// Size of a read, bytes.
const READ_BYTES: usize = 256 * 1024;

/// Queries the agent at `path`, and gives each frame of its answer to `take`. Returns whether there is an agent.
/// Trusts root, the own user, and the user to whom root has given the folder of the socket.
///
/// # Errors
///
/// If the agent cannot be queried, is not trusted, gives no complete answer in time, or `take` refuses the answer.
pub fn ask(
    path: &Path,
    query: &impl Serialize,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<bool, ControlError> {
    ask_within(path, query, PATIENCE, take)
}

pub(super) fn ask_within(
    path: &Path,
    query: &impl Serialize,
    patience: Duration,
    take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<bool, ControlError> {
    let Some((mut exchange, mut stream)) = begin(path, query, patience)? else { return Ok(false) };
    exchange.read_answer(&mut stream, take)?;
    Ok(true)
}

/// End of a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// No agent listens.
    Absent,
    /// The agent has ended.
    Ended,
    /// The connection ended without the end of the stream: the agent was killed, or has given up this client.
    Cut,
}

/// Queries the agent at `path` for a stream, and gives each frame to `take` when it arrives. Trusts the same agents as [`ask`].
///
/// # Errors
///
/// If the agent cannot be queried, is not trusted, does not begin to answer in time, or `take` refuses a frame.
pub fn follow(
    path: &Path,
    query: &impl Serialize,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Followed, ControlError> {
    let Some((mut exchange, mut stream)) = begin(path, query, PATIENCE)? else { return Ok(Followed::Absent) };
    let mut bytes = Vec::new();
    exchange.read_head(&mut stream, &mut bytes)?;
    // From now on, the next event may take any time.
    stream.set_nonblocking(false).map_err(|error| exchange.failed("ioctl", error))?;
    let mut frames = FrameReader::default();
    loop {
        if frames.read(&mut bytes, &mut take).map_err(|why| exchange.unusable(still_harmless(why)))? {
            return Ok(Followed::Ended);
        }
        bytes.reserve(READ_BYTES);
        match rustix::io::read(&stream, spare_capacity(&mut bytes)) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(Followed::Cut),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(exchange.failed("read", error.into())),
        }
    }
}

/// Connects to the agent at `path`, and sends the query. Returns `None` if there is no agent.
fn begin<'p>(
    path: &'p Path,
    query: &impl Serialize,
    patience: Duration,
) -> Result<Option<(Exchange<'p>, UnixStream)>, ControlError> {
    let refused = |why| ControlError::Answer { path: path.to_owned(), why };
    let request = Request { protocol: PROTOCOL, query };
    let mut line = serde_json::to_vec(&request).map_err(|error| refused(error.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_QUESTION {
        return Err(refused(format!("the question has {} bytes, and {MAX_QUESTION} are possible", line.len())));
    }
    let began = clock::now();
    let exchange = Exchange { path, patience, began, until: began + patience, last: began, received: 0 };
    let Some(mut stream) = exchange.connect()? else { return Ok(None) };
    exchange.write(&mut stream, &line)?;
    Ok(Some((exchange, stream)))
}

/// Outcome of a connection attempt.
enum Connected {
    /// An agent that the client trusts.
    Agent(UnixStream),
    /// No program listens at the path.
    Absent,
    /// The agent's queue was full all the time.
    Busy,
}

/// Connects to the agent at `path`, and checks that the client may trust it.
fn connected(path: &Path, until: BootTime) -> Result<Connected, ControlError> {
    let failed = |call, error| ControlError::Ask { call, path: path.to_owned(), error };
    let address = SocketAddrUnix::new(path).map_err(|error| failed("connect", error.into()))?;
    let socket = place::new_socket().map_err(|error| failed("socket", error))?;
    call("connect");
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(Connected::Absent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if clock::now() < until => {
                call(FULL_QUEUE);
                thread::sleep(RETRY_INTERVAL);
            }
            Err(Errno::AGAIN) => return Ok(Connected::Busy),
            Err(error) => return Err(failed("connect", error.into())),
        }
    }
    let stream = UnixStream::from(socket);
    let user = peer::user_of(&stream).map_err(|error| failed("getsockopt(SO_PEERCRED)", error))?;
    if peer::is_trusted(user, path) {
        Ok(Connected::Agent(stream))
    } else {
        Err(ControlError::Untrusted { path: path.to_owned(), user })
    }
}

/// One query and its answer, with time limits for both.
struct Exchange<'a> {
    path: &'a Path,
    began: BootTime,
    /// Time limit until the first byte, from the first byte to the last, and without a byte.
    patience: Duration,
    /// Time at which the client gives up.
    until: BootTime,
    /// Time of the last byte, or of the start.
    last: BootTime,
    /// Number of received bytes of the answer.
    received: u64,
}

impl Exchange<'_> {
    fn failed(&self, call: &'static str, error: io::Error) -> ControlError {
        ControlError::Ask { call, path: self.path.to_owned(), error }
    }

    fn unusable(&self, why: impl Into<String>) -> ControlError {
        ControlError::Answer { path: self.path.to_owned(), why: why.into() }
    }

    fn slow(&self) -> ControlError {
        let until = self.until.min(self.last + self.patience);
        ControlError::Slow { path: self.path.to_owned(), waited: until.since(self.began), bytes: self.received }
    }

    /// Returns a non-blocking connection to an agent that the client trusts; `None` if no program listens.
    fn connect(&self) -> Result<Option<UnixStream>, ControlError> {
        if self.path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(ControlError::TooLong { path: self.path.to_owned() });
        }
        let until = self.until;
        match in_time(self.path, self.patience, move |path| connected(path, until), drop) {
            Ok(Ok(Connected::Agent(stream))) => Ok(Some(stream)),
            Ok(Ok(Connected::Absent)) => Ok(None),
            Ok(Ok(Connected::Busy)) | Err(CallFailure::Late { call: FULL_QUEUE, .. }) => Err(self.slow()),
            Ok(Err(error)) => Err(error),
            Err(why) => Err(ControlError::Unanswered { path: self.path.to_owned(), why, asked: true }),
        }
    }

    fn write(&self, stream: &mut UnixStream, mut bytes: &[u8]) -> Result<(), ControlError> {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(stream, PollFlags::OUT)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The agent may have sent a reason, and hung up.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(self.failed("write", error)),
            }
        }
        Ok(())
    }

    fn read_answer(
        &mut self,
        stream: &mut UnixStream,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), ControlError> {
        let mut bytes = Vec::new();
        self.read_head(stream, &mut bytes)?;
        let (mut frames, mut ended) = (FrameReader::default(), false);
        loop {
            ended |= frames.read(&mut bytes, &mut take).map_err(|why| self.unusable(still_harmless(why)))?;
            if self.received > MAX_ANSWER {
                let most = MAX_ANSWER >> 20;
                return Err(
                    self.unusable(format!("it has more than the {most} MiB that are possible; narrow the filters"))
                );
            }
            if self.read(stream, &mut bytes)? == 0 {
                break;
            }
        }
        if ended { Ok(()) } else { Err(self.unusable(format!("it was cut off after {} bytes", self.received))) }
    }

    /// Reads the first line of an answer into `bytes`, and removes it from there.
    fn read_head(&mut self, stream: &mut UnixStream, bytes: &mut Vec<u8>) -> Result<(), ControlError> {
        let end = loop {
            if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if bytes.len() > MAX_HEAD {
                return Err(self.unusable("its first line does not end"));
            }
            if self.read(stream, bytes)? == 0 {
                return Err(self.unusable("it hung up"));
            }
        };
        let head = serde_json::from_slice(bytes.get(..end).unwrap_or_default());
        let not_understood = |error| format!("its first line was not understood: {error}");
        let Head { protocol, agent, refused } =
            head.map_err(|error| self.unusable(still_harmless(not_understood(error))))?;
        if protocol != PROTOCOL {
            return Err(ControlError::Version { path: self.path.to_owned(), protocol, agent });
        }
        if let Some(why) = refused {
            return Err(self.unusable(why));
        }
        bytes.drain(..=end);
        Ok(())
    }

    /// Reads available bytes, or waits for some. Returns their number; 0 at the end.
    fn read(&mut self, stream: &mut UnixStream, to: &mut Vec<u8>) -> Result<usize, ControlError> {
        loop {
            to.reserve(READ_BYTES);
            match rustix::io::read(&*stream, spare_capacity(to)) {
                Ok(read) => {
                    if read > 0 {
                        self.progressed(read as u64);
                    }
                    if clock::now() >= self.until {
                        return Err(self.slow());
                    }
                    return Ok(read);
                }
                Err(Errno::AGAIN) => self.wait(stream, PollFlags::IN)?,
                Err(Errno::INTR) => {}
                // The agent hung up before it had read the whole query.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(error) => return Err(self.failed("read", error.into())),
            }
        }
    }

    /// Extends the time limit by the received bytes: one byte per second is too slow, and any real answer is fast
    /// enough.
    fn progressed(&mut self, bytes: u64) {
        if self.received == 0 {
            self.until = clock::now() + self.patience;
        }
        let before = transfer_time(self.received);
        self.received += bytes;
        self.until = self.until + (transfer_time(self.received) - before);
        self.last = clock::now();
    }

    /// Waits until the stream is ready, or until the total time limit or that without a byte.
    fn wait(&self, stream: &UnixStream, wanted: PollFlags) -> Result<(), ControlError> {
        let rest = self.until.min(self.last + self.patience).since(clock::now());
        if rest.is_zero() {
            return Err(self.slow());
        }
        let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        let mut events = [PollFd::new(stream, wanted)];
        match poll(&mut events, Some(&rest)) {
            Ok(0) => Err(self.slow()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(self.failed("poll", error.into())),
        }
    }
}
