//! Signal, connection, request and answer of the attach protocol.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with},
};

use super::{
    AttachError,
    identity::OtherIdentity,
    place::{AttachFolder, path_of},
    target::Hotspot,
};
use crate::{
    clock,
    host::{peer_credentials::PeerCredentials, poll::poll},
};
use closewait_engine::{text::harmless, time::BootTime};

/// Time between two looks at a process that has not answered yet.
const TICK: Duration = Duration::from_millis(20);
/// Number of the arguments of a command.
const ARGUMENTS: usize = 3;
/// Maximum number of bytes to show of an error.
const MAX_ERROR_BYTES: usize = 200;

/// Answer of a process.
pub(super) struct AttachAnswer {
    /// Text behind the line with the result.
    pub(super) text: Vec<u8>,
    /// Whether there was more of it.
    pub(super) is_cut: bool,
}

/// Exchange with a process, until a time.
pub(super) struct AttachSession<'a> {
    target: &'a Hotspot,
    folder: AttachFolder,
    time: Duration,
    began: BootTime,
    progress: &'a dyn Fn(),
    // Dropped after everything that its rights are needed for.
    _identity: Option<OtherIdentity>,
}

impl<'a> AttachSession<'a> {
    /// Opens the process's `/tmp`, and makes this thread one of its user.
    pub(super) fn new(target: &'a Hotspot, time: Duration, progress: &'a dyn Fn()) -> Result<Self, AttachError> {
        let folder = AttachFolder::of(target)?;
        progress();
        let identity = OtherIdentity::of(target.user, target.group);
        let identity = identity.map_err(AttachError::unreadable("becoming its user"))?;
        Ok(Self { target, folder, time, began: clock::now(), progress, _identity: identity })
    }

    /// Sends a command with its arguments, and returns the answer, up to `most` bytes of it.
    pub(super) fn ask(&self, command: &[&str], most: usize) -> Result<AttachAnswer, AttachError> {
        let stream = self.connect()?;
        let mut request = b"1\0".to_vec();
        for at in 0..=ARGUMENTS {
            request.extend_from_slice(command.get(at).copied().unwrap_or_default().as_bytes());
            request.push(0);
        }
        // It is shorter than any socket's buffer.
        let sent = send(&stream, &request, SendFlags::NOSIGNAL).map_err(AttachError::unreadable("the request"))?;
        if sent != request.len() {
            return Err(AttachError::Refused("the request was cut".to_owned()));
        }
        let answer = self.receive(&stream, most)?;
        let end = answer.text.iter().position(|byte| *byte == b'\n').unwrap_or(answer.text.len());
        let (result, text) = answer.text.split_at(end);
        if result == b"0" {
            return Ok(AttachAnswer { text: text.get(1..).unwrap_or_default().to_owned(), is_cut: answer.is_cut });
        }
        let shown = answer.text.get(..MAX_ERROR_BYTES).unwrap_or(&answer.text);
        Err(AttachError::Refused(harmless(shown.trim_ascii())))
    }

    /// Returns a connection to the process, which listens after a signal if it does not yet.
    fn connect(&self) -> Result<OwnedFd, AttachError> {
        if let Some(stream) = self.connect_once()? {
            return Ok(stream);
        }
        if self.target.has_lost_socket {
            return Err(AttachError::SocketRemoved);
        }
        let _removed_at_the_end = self.folder.trigger()?;
        self.target.signal()?;
        loop {
            self.wait()?;
            if let Some(stream) = self.connect_once()? {
                return Ok(stream);
            }
        }
    }

    /// Returns a connection; `None` if the process does not listen yet.
    fn connect_once(&self) -> Result<Option<OwnedFd>, AttachError> {
        let Some(socket) = self.folder.socket()? else { return Ok(None) };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(AttachError::unreadable("a socket"))?;
        let address = SocketAddrUnix::new(path_of(&socket)).map_err(AttachError::unreadable("its socket"))?;
        loop {
            match connect(&stream, &address) {
                Ok(()) => break,
                // Its backlog is full.
                Err(Errno::AGAIN) => self.wait()?,
                // The socket is bound before it listens, under another name.
                Err(error) => {
                    return Err(AttachError::Unreadable { what: "connecting to its socket", error: error.into() });
                }
            }
        }
        let peer = PeerCredentials::of(&stream).map_err(AttachError::unreadable("the other end of its socket"))?;
        if !self.target.is(peer.pid) {
            return Err(AttachError::OtherPeer);
        }
        Ok(Some(stream))
    }

    fn receive(&self, stream: &OwnedFd, most: usize) -> Result<AttachAnswer, AttachError> {
        let (mut text, mut part) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match rustix::io::read(stream, &mut part[..]) {
                Ok(0) => return Ok(AttachAnswer { text, is_cut: false }),
                Ok(count) => {
                    let room = most.saturating_sub(text.len());
                    text.extend_from_slice(part.get(..count.min(room)).unwrap_or_default());
                    if count > room {
                        return Ok(AttachAnswer { text, is_cut: true });
                    }
                    (self.progress)();
                    self.check_time()?;
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.check_time()?;
                    (self.progress)();
                    // A process that ends closes the socket.
                    poll(stream.as_fd(), PollFlags::IN, TICK);
                }
                Err(error) => return Err(AttachError::Unreadable { what: "its answer", error: error.into() }),
            }
        }
    }

    /// Waits a moment.
    fn wait(&self) -> Result<(), AttachError> {
        self.check_time()?;
        (self.progress)();
        self.target.wait(TICK)
    }

    fn check_time(&self) -> Result<(), AttachError> {
        if clock::now().since(self.began) >= self.time { Err(AttachError::Late(self.time)) } else { Ok(()) }
    }
}
