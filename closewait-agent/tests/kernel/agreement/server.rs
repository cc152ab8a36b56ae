//! Server that hangs and recovers on request, and its clients.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, RawFd},
        unix::net::UnixStream,
    },
    ptr,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{read, write},
    net::accept,
    process::{Resource, Rlimit, setrlimit},
};

use crate::{
    clock::{patience, poll_until},
    net::{Namespace, V4},
    socket::{check, connect_from},
};

/// Number of descriptors of the server: its limit comes near during the test, and is not reached.
const DESCRIPTORS: u64 = 1000;
/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time for which a client waits for an answer of a server that hangs.
const CLIENT_PATIENCE: Duration = Duration::from_millis(100);
/// Request that makes the server hang.
const HANG: u8 = b'h';
/// Request that makes the server close all connections, and serve again.
const RECOVER: u8 = b'r';
/// Descriptor of the listener in the child.
const LISTENER: RawFd = 0;
/// Descriptor of the control connection in the child.
const CONTROL: RawFd = 1;
/// First descriptor of a connection in the child. Lower ones look as if another program had handed them over.
const CONNECTIONS: RawFd = 4;

/// First port of the clients, below those that the kernel chooses. Each has its own: one that is used again would end the connection of the
/// client before it, which the server still has.
const FIRST_PORT: u16 = 20_000;

/// Child process with a listener. It answers each request at once, or keeps each connection without reading it.
pub(super) struct Server {
    pid: libc::pid_t,
    control: UnixStream,
    next_port: AtomicU16,
    pub(super) address: SocketAddr,
}

impl Server {
    pub(super) fn start(ns: &Namespace) -> Self {
        let listener = ns.listen(V4);
        let address = listener.local_addr().expect("the listener's address");
        let (control, of_child) = UnixStream::pair().expect("a control connection");
        let descriptors = [listener.as_raw_fd(), of_child.as_raw_fd()];
        // SAFETY: the child makes only system calls, on its own stack: it neither allocates nor takes a lock, and ends by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: this is the child.
            unsafe { serve(descriptors) };
        }
        check(pid, "fork");
        Self { pid, control, next_port: AtomicU16::new(FIRST_PORT), address }
    }

    /// Makes the server keep each further connection without reading it.
    pub(super) fn hang(&mut self) {
        self.control.write_all(&[HANG]).expect("the server");
    }

    /// Makes the server close all connections, and serve again.
    pub(super) fn recover(&mut self, ns: &Namespace) {
        self.control.write_all(&[RECOVER]).expect("the server");
        // Ends its wait in accept().
        drop(ns.connect(self.address));
    }

    /// Sends requests at a steady rate, and closes each connection after the answer, or when the client has lost patience: early if
    /// the server hangs. Returns the number of requests without an answer. All connections are closed then.
    pub(super) fn ask(&self, ns: &Namespace, requests: usize, hangs: bool) -> usize {
        let patience = if hangs { CLIENT_PATIENCE } else { patience() };
        ns.run(|| {
            let mut unanswered = Vec::new();
            for _ in 0..requests {
                let port = self.next_port.fetch_add(1, Ordering::Relaxed);
                let mut client = connect_from(SocketAddr::new(V4.ip(), port), self.address);
                client.write_all(b"?").expect("write");
                client.set_nonblocking(true).expect("O_NONBLOCK");
                unanswered.push(client);
                thread::sleep(INTERVAL);
                unanswered.retain_mut(is_unanswered);
            }
            poll_until(patience, || {
                unanswered.retain_mut(is_unanswered);
                unanswered.is_empty()
            });
            unanswered.len()
        })
    }
}

fn is_unanswered(client: &mut TcpStream) -> bool {
    client.read(&mut [0]).is_err()
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: takes numbers only; the child was not waited for, so the number is still its own.
        check(unsafe { libc::kill(self.pid, libc::SIGKILL) }, "kill");
        // SAFETY: takes numbers, and no place for the status.
        check(unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) }, "waitpid");
    }
}

/// Returns the clients of an idle pool, whose server has closed all connections.
pub(super) fn idle_pool(ns: &Namespace, size: usize) -> (SocketAddr, Vec<TcpStream>) {
    let listener = ns.listen(V4);
    let address = listener.local_addr().expect("the listener's address");
    let clients = (0..size).map(|_| {
        let mut client = ns.connect(address);
        let (mut server, _address) = listener.accept().expect("accept");
        client.write_all(b"?").expect("write");
        server.read_exact(&mut [0]).expect("the request");
        server.write_all(b"!").expect("write");
        client.read_exact(&mut [0]).expect("the answer");
        client
    });
    (address, clients.collect())
}

/// Serves until the parent ends. Makes only system calls.
///
/// # Safety
///
/// Only for a child of fork: closes every descriptor but the listener and the control connection.
unsafe fn serve([listener, control]: [RawFd; 2]) -> ! {
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    // The numbers of the parent's descriptors are above those of its standard streams, so neither overwrites the other.
    let duplicate = |from: RawFd, to: RawFd| {
        // SAFETY: takes numbers only; nothing in this child uses the descriptor that is replaced.
        let duplicate = unsafe { libc::dup2(from, to) };
        duplicate == to
    };
    let duplicated = duplicate(listener, LISTENER) && (CONTROL..CONNECTIONS).all(|fd| duplicate(control, fd));
    if !duplicated || setrlimit(Resource::Nofile, limit).is_err() {
        // SAFETY: ends this process without running anything of its parent's.
        unsafe { libc::_exit(1) };
    }
    close_connections();
    // SAFETY: it stays open until this process ends.
    let listener = unsafe { BorrowedFd::borrow_raw(LISTENER) };
    // SAFETY: it stays open until this process ends.
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL) };
    let mut hangs = false;
    loop {
        let mut ready = [PollFd::new(&control, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        // A hung server only accepts: it waits there, and not for a request to recover.
        let limit = hangs.then_some(Timespec::default());
        if poll(&mut ready, limit.as_ref()).is_err() {
            continue;
        }
        let [requested, connected] = ready.map(|one| !one.revents().is_empty());
        let mut byte = [0_u8];
        if requested {
            match read(control, &mut byte) {
                Ok(1) if byte == [HANG] => hangs = true,
                Ok(1) => {
                    hangs = false;
                    close_connections();
                }
                // SAFETY: ends this process without running anything of its parent's.
                _ => unsafe { libc::_exit(0) },
            }
        } else if (connected || hangs)
            && let Ok(stream) = accept(listener)
        {
            if hangs {
                let _stays_open = stream.into_raw_fd();
            } else {
                // Closes after the client. One that has gone is closed like one that was answered.
                let _gone =
                    read(&stream, &mut byte).and_then(|_| write(&stream, &byte)).and_then(|_| read(&stream, &mut byte));
            }
        }
    }
}

fn close_connections() {
    for fd in CONNECTIONS..4096 {
        // SAFETY: takes a number only; this child uses no descriptor but the lower ones.
        unsafe { libc::close(fd) };
    }
}
