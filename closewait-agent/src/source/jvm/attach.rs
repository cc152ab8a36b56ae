//! Signal, connection, request and answer of the attach protocol.

use std::{
    os::fd::{AsFd, OwnedFd},
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

/// Maximum number of bytes of an answer that only says whether a command has worked.
const MAX_REPLY_BYTES: usize = 4096;
/// Number of bytes of a read.
const READ_BYTES: usize = 64 << 10;

/// Answer of a process.
#[derive(Debug, Default, PartialEq, Eq)]
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
    may_go_on: &'a dyn Fn() -> bool,
    // Dropped after everything that its rights are needed for.
    _identity: Option<OtherIdentity>,
}

impl<'a> AttachSession<'a> {
    /// Opens the process's `/tmp`, and makes this thread one of its user. The exchange ends when `may_go_on`, which is called at each step,
    /// returns `false`.
    pub(super) fn new(
        target: &'a Hotspot,
        time: Duration,
        may_go_on: &'a dyn Fn() -> bool,
    ) -> Result<Self, AttachError> {
        let check = || if may_go_on() { Ok(()) } else { Err(AttachError::Abandoned) };
        check()?;
        let folder = AttachFolder::of(target)?;
        check()?;
        let identity = OtherIdentity::of(target.user, target.group);
        let identity = identity.map_err(AttachError::unreadable("becoming its user"))?;
        Ok(Self { target, folder, time, began: clock::now(), may_go_on, _identity: identity })
    }

    /// Returns the dump of the threads of the system, up to `most` bytes of it.
    pub(super) fn threads(&self, most: usize) -> Result<AttachAnswer, AttachError> {
        self.ask(&["threaddump", "-l"], most)
    }

    /// Returns the dump of all threads, which JDK 21 and later write into a file, up to `most` bytes of it.
    pub(super) fn virtual_threads(&self, most: usize) -> Result<AttachAnswer, AttachError> {
        self.ask_for_file("Thread.dump_to_file -overwrite -format=json", most)
    }

    /// Sends a command with its arguments, and returns the answer, up to `most` bytes of it.
    fn ask(&self, command: &[&str], most: usize) -> Result<AttachAnswer, AttachError> {
        let stream = self.send(command)?;
        accepted(self.receive(&stream, most)?)
    }

    /// Sends a diagnostic command that writes a file, and returns up to `most` bytes of what the process writes there: a pipe, whose path
    /// is put behind the command.
    fn ask_for_file(&self, command: &str, most: usize) -> Result<AttachAnswer, AttachError> {
        let placed = self.folder.pipe()?;
        let Some(pipe) = placed.file() else { return Err(AttachError::Ended) };
        let stream = self.send(&["jcmd", &format!("{command} {}", placed.path())])?;
        let (mut written, mut has_ended) = (AttachAnswer::default(), false);
        while !has_ended && !written.is_cut {
            match self.read_some(pipe, &mut written, most)? {
                // Nobody has opened it yet, or the writer has closed it.
                ReadSome::End if written.text.is_empty() => self.wait()?,
                ReadSome::End => has_ended = true,
                ReadSome::Data => {}
                ReadSome::Later => {
                    poll(pipe.as_fd(), PollFlags::IN, TICK);
                }
            }
            // A process that fails before it opens the file answers at once.
            has_ended |=
                written.text.is_empty() && poll(stream.as_fd(), PollFlags::IN, Duration::ZERO).contains(PollFlags::IN);
        }
        if written.is_cut {
            return Ok(written);
        }
        accepted(self.receive(&stream, MAX_REPLY_BYTES)?)?;
        // What was written between the last read and the answer.
        while !written.is_cut && matches!(self.read_some(pipe, &mut written, most)?, ReadSome::Data) {}
        Ok(written)
    }

    /// Sends a command. Returns the connection.
    fn send(&self, command: &[&str]) -> Result<OwnedFd, AttachError> {
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
        Ok(stream)
    }

    /// Returns a connection to the process, which listens after a signal if it does not yet.
    fn connect(&self) -> Result<OwnedFd, AttachError> {
        if let Some(stream) = self.connect_once()? {
            return Ok(stream);
        }
        self.target.may_be_signaled()?;
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

    /// Returns everything that the process sends until it closes the connection.
    fn receive(&self, stream: &OwnedFd, most: usize) -> Result<AttachAnswer, AttachError> {
        let mut answer = AttachAnswer::default();
        loop {
            match self.read_some(stream, &mut answer, most)? {
                ReadSome::End => return Ok(answer),
                ReadSome::Data if answer.is_cut => return Ok(answer),
                ReadSome::Data => {}
                // A process that ends closes the socket.
                ReadSome::Later => {
                    poll(stream.as_fd(), PollFlags::IN, TICK);
                }
            }
        }
    }

    /// Reads what there is now, up to `most` bytes in all.
    fn read_some(&self, from: impl AsFd, answer: &mut AttachAnswer, most: usize) -> Result<ReadSome, AttachError> {
        self.check_time()?;
        let mut part = vec![0; READ_BYTES];
        match rustix::io::read(from, &mut part[..]) {
            Ok(0) => Ok(ReadSome::End),
            Ok(count) => {
                let room = most.saturating_sub(answer.text.len());
                answer.text.extend_from_slice(part.get(..count.min(room)).unwrap_or_default());
                answer.is_cut = count > room;
                Ok(ReadSome::Data)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(ReadSome::Later),
            Err(error) => Err(AttachError::Unreadable { what: "its answer", error: error.into() }),
        }
    }

    /// Waits a moment.
    fn wait(&self) -> Result<(), AttachError> {
        self.check_time()?;
        self.target.wait(TICK)
    }

    fn check_time(&self) -> Result<(), AttachError> {
        if !(self.may_go_on)() {
            return Err(AttachError::Abandoned);
        }
        if clock::now().since(self.began) >= self.time { Err(AttachError::Late(self.time)) } else { Ok(()) }
    }
}

/// Result of a read.
enum ReadSome {
    Data,
    End,
    Later,
}

/// Returns what is behind the line with the result, if that is a success.
fn accepted(answer: AttachAnswer) -> Result<AttachAnswer, AttachError> {
    if let Some(text) = answer.text.strip_prefix(b"0\n") {
        return Ok(AttachAnswer { text: text.to_owned(), is_cut: answer.is_cut });
    }
    let shown = answer.text.get(..MAX_ERROR_BYTES).unwrap_or(&answer.text);
    Err(AttachError::Refused(harmless(shown.trim_ascii())))
}
