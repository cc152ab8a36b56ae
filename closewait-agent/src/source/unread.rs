//! Peeks at the first bytes that a program has not read from a socket, in a process and on a thread that can be left behind.
//!
//! The helper of the agent duplicates the program's descriptor (`pidfd_getfd`), peeks (`MSG_PEEK | MSG_DONTWAIT`), and closes the duplicate at once. The
//! program still reads every byte. What such a read could change is excluded before it:
//!
//! | risk | treatment |
//! |---|---|
//! | the number belongs to another file by now, whose close can wait (`filp_close`, fs/open.c) | the link in `/proc/PID/fd` names the socket, and so do inode and cookie of the duplicate |
//! | the process has ended, and another one has its number | the link is read after `pidfd_open`, so either both are of one process or the duplication fails |
//! | the kernel gives the socket the net_cls and net_prio cgroup of the process that gets a descriptor (`__receive_sock`, net/core/sock.c at v5.10) | no duplicate, unless owner and helper are in the same ones, or there are none |
//! | `SO_PEEK_OFF`, an offset that each peek moves (socket(7); for TCP since Linux 6.9) | no peek |
//! | kernel TLS, which decrypts what is peeked (`tls_sw_recvmsg`, net/tls/tls_sw.c at v5.10) | no peek of a socket with an upper layer protocol (`TCP_ULP`) |
//! | the program closes meanwhile: then the close of the duplicate is the last, and waits as `SO_LINGER` says (`inet_release`, net/ipv4/af_inet.c) | no peek of a socket that lingers |
//!
//! A pending error of the socket is not consumed: after a FIN, a read without data returns 0 first (`SOCK_DONE` in `tcp_recvmsg`,
//! net/ipv4/tcp.c at v5.10).

mod helper;

use std::{
    collections::BTreeMap,
    fs, io,
    mem::size_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::fstat,
    net::{RecvFlags, ipproto, recv, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

pub use self::helper::{PeekHelper, serve_peeks};
use crate::{
    clock,
    host::{
        deadline::{self, ItemJob, Patience, ReadResult, Subject},
        proc,
    },
};
use closewait_engine::{
    model::{SocketKey, UnreadQuestion},
    time::BootTime,
    unread::MAX_PEEKED,
};

/// Maximum number of sockets of one pass.
const MAX_SOCKETS: usize = 64;
/// Maximum length of the name of an upper layer protocol (`TCP_ULP_NAME_MAX`, include/net/tcp.h at v5.10).
const MAX_ULP_NAME: usize = 16;

/// First bytes of a socket's receive queue, and the time before the peek.
type UnreadFound = (SocketKey, BootTime, Vec<u8>);

/// Peeks at the unread requests of these sockets, and hands the bytes of those that it could see to `each`.
fn peek_each(
    questions: &[UnreadQuestion],
    patience: &mut Patience,
    mut each: impl FnMut(SocketKey, BootTime, Vec<u8>),
) {
    let mut processes = BTreeMap::<u32, Vec<UnreadQuestion>>::new();
    for question in questions.iter().take(MAX_SOCKETS) {
        processes.entry(question.pid).or_default().push(*question);
    }
    let work = |(pid, questions): &(u32, Vec<UnreadQuestion>), job: &ItemJob<UnreadFound>| {
        if let Err(error) = peek_at(*pid, questions, job) {
            log::debug!("unread requests of process {pid} are unknown: {error}");
        }
    };
    deadline::each(processes.into_iter().collect(), patience, work, |(pid, _), result| match result {
        ReadResult::Value((key, at, bytes)) => each(key, at, bytes),
        ReadResult::Unanswered(why) => log::debug!("unread requests of process {pid} are unknown: {why}"),
    });
}

/// Peeks at the unread requests of a process.
fn peek_at(pid: u32, questions: &[UnreadQuestion], job: &ItemJob<UnreadFound>) -> io::Result<()> {
    let may_wait = job.about(Subject::Peek(pid)).and_then(|()| job.may_wait());
    may_wait.map_err(|why| io::Error::other(why.to_string()))?;
    let number = proc::number(pid).ok_or(io::ErrorKind::NotFound)?;
    job.step("its cgroups");
    let folder = proc::folder(Path::new("/proc"), pid);
    let process = pidfd_open(number, PidfdFlags::empty())?;
    let own = proc::cgroups(Path::new("/proc/self"))?.network;
    if !own.is_empty() && own != proc::cgroups(&folder)?.network {
        return Err(io::Error::other("it is in other net_cls or net_prio cgroups than closewait"));
    }
    job.step("its unread requests");
    for question in questions {
        if job.is_left_behind() {
            return Ok(());
        }
        let at = clock::now();
        match first_bytes(process.as_fd(), &folder, question) {
            Ok(Some(bytes)) => job.put((question.key, at, bytes)),
            Ok(None) => {}
            // The other sockets would be refused, too.
            Err(error) if proc::is_refused(&error) => return Err(error),
            Err(error) => log::debug!("the unread request at descriptor {} of process {pid}: {error}", question.fd),
        }
        job.progress();
    }
    Ok(())
}

/// Returns the first bytes that a program has not read from a socket; `None` if there are none, the descriptor is of something else by
/// now, or a peek could change something.
fn first_bytes(process: BorrowedFd<'_>, folder: &Path, question: &UnreadQuestion) -> io::Result<Option<Vec<u8>>> {
    let UnreadQuestion { fd, inode, .. } = *question;
    let link = fs::read_link(folder.join(format!("fd/{fd}")))?;
    let Some(fd) = i32::try_from(fd).ok().filter(|_| link.as_os_str() == format!("socket:[{inode}]").as_str()) else {
        return Ok(None);
    };
    let mut bytes = [0; MAX_PEEKED];
    let peeked = peek(&pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?, question, &mut bytes);
    // The duplicate is closed.
    let first = peeked.map(|length| {
        length.and_then(|length| bytes.get(..length)).filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec)
    });
    // Nothing of the queue stays on this thread's stack.
    bytes.fill(0);
    std::hint::black_box(&bytes);
    first
}

/// Copies the first bytes of the receive queue, and returns their number; `None` if it is another socket, or a peek could change something.
fn peek(socket: &OwnedFd, question: &UnreadQuestion, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    let is_same = fstat(socket)?.st_ino == question.inode
        && question.cookie.is_none_or(|cookie| sockopt::socket_cookie(socket) == Ok(cookie))
        && sockopt::socket_protocol(socket)? == Some(ipproto::TCP);
    let lingers = || Ok::<_, io::Error>(sockopt::socket_linger(socket)?.is_some_and(|time| !time.is_zero()));
    if !is_same || lingers()? || has_upper_layer(socket.as_fd())? || has_peek_offset(socket.as_fd())? {
        return Ok(None);
    }
    match recv(socket, bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, length)) => Ok(Some(length)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether another protocol reads from the socket before the program does, as kernel TLS.
fn has_upper_layer(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut name = [0_u8; MAX_ULP_NAME];
    Ok(option(socket, (libc::IPPROTO_TCP, libc::TCP_ULP), &mut name)?.is_some_and(|length| length > 0))
}

/// Whether peeks of the program begin at an offset, which each peek moves; never for TCP before Linux 6.9.
fn has_peek_offset(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut offset = [0; size_of::<libc::c_int>()];
    let length = option(socket, (libc::SOL_SOCKET, libc::SO_PEEK_OFF), &mut offset)?;
    Ok(length.is_some() && libc::c_int::from_ne_bytes(offset) >= 0)
}

/// Reads an option of a socket, and returns its length; `None` if the socket or the kernel has none of this name.
fn option(
    socket: BorrowedFd<'_>,
    (level, name): (libc::c_int, libc::c_int),
    value: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and one number to `length`; both outlive the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 {
        return Ok(Some(length as usize));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Ok(None),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, TcpListener, TcpStream},
        process,
        time::Duration,
    };

    use super::*;
    use closewait_engine::unread;

    /// Returns both ends of a connection, on which the client has sent these bytes and its FIN.
    fn sent(bytes: &[u8]) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        (client, server)
    }

    fn question(server: &TcpStream) -> UnreadQuestion {
        UnreadQuestion {
            key: SocketKey(7),
            pid: process::id(),
            fd: server.as_raw_fd().try_into().unwrap(),
            inode: fstat(server).unwrap().st_ino,
            cookie: Some(sockopt::socket_cookie(server).unwrap()),
        }
    }

    /// Returns what the agent finds: nothing, or the request of the socket.
    fn found(question: UnreadQuestion) -> Vec<Option<String>> {
        let mut found = Vec::new();
        peek_each(&[question], &mut Patience::for_one_read(), |key, _at, bytes| {
            assert_eq!(key, SocketKey(7));
            let request = unread::parse(&bytes, bytes.len() == MAX_PEEKED);
            found.push(request.map(|request| request.to_string()));
        });
        found
    }

    #[test]
    fn a_request_is_seen_and_can_still_be_read() {
        let body = b"POST /orders?card=4711 HTTP/1.1\r\nHost: shop.example\r\nCookie: secret\r\n\r\nbody";
        let (_client, mut server) = sent(body);
        let question = question(&server);
        for _ in 0..3 {
            assert_eq!(found(question), [Some("POST /orders".to_owned())]);
        }
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let link = format!("socket:[{}]", question.inode);
        assert_eq!(open.filter(|target| target.as_os_str() == link.as_str()).count(), 1, "the duplicate is closed");
        let mut read = Vec::new();
        server.read_to_end(&mut read).unwrap();
        assert_eq!(read, body);
        assert!(found(question).is_empty(), "nothing is unread");
    }

    #[test]
    fn more_than_the_first_bytes_are_not_seen() {
        let (_client, server) = sent(format!("GET /a{} HTTP/1.1\r\n", "b".repeat(3 * MAX_PEEKED)).as_bytes());
        assert_eq!(found(question(&server)), [Some("GET /*".to_owned())]);
        let (_client, server) = sent(&[b'x'; 3 * MAX_PEEKED]);
        assert_eq!(found(question(&server)), [None]);
    }

    #[test]
    fn another_socket_or_file_is_left_alone() {
        let (_client, server) = sent(b"GET / HTTP/1.1\r\n");
        let asked = question(&server);
        assert_eq!(found(asked).len(), 1);
        assert!(found(UnreadQuestion { inode: asked.inode + 1, ..asked }).is_empty());
        assert!(found(UnreadQuestion { cookie: Some(asked.cookie.unwrap() + 1), ..asked }).is_empty());
        assert!(found(UnreadQuestion { fd: u32::MAX, ..asked }).is_empty());
        assert!(found(UnreadQuestion { pid: u32::MAX >> 1, ..asked }).is_empty());
        drop(server);
        assert!(found(asked).is_empty());
    }

    #[test]
    fn a_socket_that_a_peek_or_a_close_could_change_is_left_alone() {
        let (_client, server) = sent(b"GET / HTTP/1.1\r\n");
        let asked = question(&server);
        sockopt::set_socket_linger(&server, Some(Duration::from_secs(5))).unwrap();
        assert!(found(asked).is_empty());
        sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        assert_eq!(found(asked).len(), 1, "a close with a reset does not wait");
        let offset: libc::c_int = 0;
        // SAFETY: the kernel reads one number, which outlives the call.
        let result = unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(
                server.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEEK_OFF,
                (&raw const offset).cast(),
                length,
            )
        };
        // Linux 6.9 has it for TCP.
        assert_eq!(found(asked).len(), usize::from(result != 0));
    }
}
