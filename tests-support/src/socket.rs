//! System calls on sockets that the standard library lacks.

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    mem::size_of,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use crate::clock::{Window, patience};

/// Creates a stream socket of `family` and `protocol`.
pub fn open(family: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the socket to an address, even if another one there is in TIME_WAIT.
pub fn bind(socket: &impl AsRawFd, address: SocketAddr) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    // SAFETY: `with_raw` lends a pointer to a whole address and its length for the time of the call.
    let result = with_raw(address, |raw, length| unsafe { libc::bind(socket.as_raw_fd(), raw, length) });
    check(result, "bind");
}

/// Makes the socket a listener.
pub fn listen(socket: &impl AsRawFd) {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::listen(socket.as_raw_fd(), 128) };
    check(result, "listen");
}

/// Limits the number of waiting connections to `backlog`, and one.
pub fn limit_backlog(listener: &impl AsRawFd, backlog: usize) {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::listen(listener.as_raw_fd(), backlog as c_int) };
    check(result, "listen");
}

/// Connects the socket, and waits until it is connected.
pub fn connect(socket: &impl AsRawFd, address: SocketAddr) {
    // SAFETY: `with_raw` lends a pointer to a whole address and its length for the time of the call.
    let result = with_raw(address, |raw, length| unsafe { libc::connect(socket.as_raw_fd(), raw, length) });
    check(result, "connect");
}

/// Returns a connection from an address to another one; the kernel chooses the port for 0.
///
/// Many sockets that stay in CLOSE_WAIT each need an address or a port of their own: 60 s after a client has closed, the kernel forgets it
/// and may choose its port again (`TCP_TIMEWAIT_LEN` in include/net/tcp.h at v5.10). If that connects to the same address, its SYN ends the
/// old connection.
pub fn connect_from(near: SocketAddr, far: SocketAddr) -> TcpStream {
    let family = if far.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let client = open(family, 0).expect("a socket");
    bind(&client, near);
    connect(&client, far);
    TcpStream::from(client)
}

/// Disconnects the socket from its peer and keeps the descriptor: `connect` to the family "none".
pub fn disconnect(socket: &impl AsRawFd) {
    let none = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: `none` is a whole address that lives longer than the call.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const none, size_of::<libc::sockaddr>() as u32) };
    check(result, "connect to AF_UNSPEC");
}

/// Makes `close` send a reset.
pub fn linger_zero(socket: &impl AsRawFd) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Sets an option of a type that is the kernel's own for it.
pub fn set_option<T: Copy>(socket: &impl AsRawFd, level: c_int, name: c_int, value: T) {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` lives here for the time of the call and is `length` bytes long.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    check(result, "setsockopt");
}

/// Returns the socket's cookie, as `ss -e` shows it.
pub fn cookie(socket: &impl AsRawFd) -> u64 {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let into = (&raw mut value).cast();
    // SAFETY: `into` points to `length` bytes that live here for the time of the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, into, &raw mut length) };
    check(result, "getsockopt(SO_COOKIE)");
    value
}

/// Returns the inode of the socket, as `/proc/PID/fd` shows it.
pub fn inode(socket: &impl AsRawFd) -> u64 {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("the link of the descriptor");
    let name = link.to_string_lossy();
    let number = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).expect("a socket's link");
    number.parse().expect("an inode number")
}

/// Sends bytes from one end of a connection and reads them at the other.
pub fn exchange(from: &mut impl Write, to: &mut impl Read, bytes: &[u8]) {
    from.write_all(bytes).expect("write");
    let mut read = vec![0; bytes.len()];
    to.read_exact(&mut read).expect("read");
    assert_eq!(read, bytes);
}

/// Waits until the socket has the peer's FIN.
pub fn wait_for_fin(socket: &impl AsRawFd) {
    wait_for(socket, libc::POLLRDHUP);
}

/// Waits until the socket's connection has ended in both directions.
pub fn wait_for_end(socket: &impl AsRawFd) {
    wait_for(socket, libc::POLLHUP);
}

/// Runs `send_fin` and waits until `receiver` has the FIN, which arrived within the window.
pub fn fin(receiver: &impl AsRawFd, send_fin: impl FnOnce()) -> Window {
    let (window, ()) = Window::around(|| {
        send_fin();
        wait_for_fin(receiver);
    });
    window
}

fn wait_for(socket: &impl AsRawFd, event: libc::c_short) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: event, revents: 0 };
    // SAFETY: `poll` is one pollfd that lives here for the time of the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, patience().as_millis() as c_int) };
    check(ready, "poll");
    assert!(poll.revents & event != 0, "waited in vain for poll event {event:#x}");
}

/// Lends the address in the kernel's own form.
fn with_raw<R>(address: SocketAddr, work: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> R) -> R {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            work((&raw const raw).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            work((&raw const raw).cast(), size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

/// Fails the test with the error of `call`, if there was one.
pub fn check(result: c_int, call: &str) {
    assert!(result >= 0, "{call} failed: {}", io::Error::last_os_error());
}
