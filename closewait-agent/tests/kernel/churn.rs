//! Load of short-lived half-open connections: SYNs from random sources.
//!
//! Each SYN adds a request socket to the kernel's table of connections. The SYN-ACK goes to an address of the
//! loopback that has not requested it, so a reset removes the request again.

use std::{
    io,
    mem::size_of,
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    clock::boot_seconds,
    net::Namespace,
    socket::{self, check},
};

/// Maximum number of SYNs.
const MAX_SYNS: u64 = 5_000_000;
/// Maximum time, seconds.
const MAX_SECONDS: f64 = 120.0;
/// Length of an IPv4 header without options, in bytes; a TCP header without options is as long.
const HEADER: usize = 20;

/// Thread that sends SYNs inside of a namespace until it is stopped.
pub(crate) struct SynChurn {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    /// Listeners, open during the load.
    _listeners: Vec<TcpListener>,
}

impl SynChurn {
    /// Starts the load on `listeners` new listeners.
    pub(crate) fn start(ns: &Namespace, listeners: usize) -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0);
        let listeners: Vec<_> = (0..listeners).map(|_| ns.listen(address.into())).collect();
        listeners.iter().for_each(|listener| socket::limit_backlog(listener, 4096));
        let ports = listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
        let raw = ns.run(|| {
            // With cookies the kernel creates no request sockets while a queue is full.
            std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").expect("tcp_syncookies");
            raw_socket().expect("a raw socket")
        });
        let stop = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(&raw, ports, &stop)
        });
        Self { stop, sender, _listeners: listeners }
    }

    /// Stops the load. Returns the number of sent SYNs.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender")
    }
}

/// Opens a socket for packets with their own IP headers.
fn raw_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(raw: &OwnedFd, ports: Vec<u16>, stop: &AtomicBool) -> u64 {
    let end = boot_seconds() + MAX_SECONDS;
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
        sin_zero: [0; 8],
    };
    let (mut sent, mut chance) = (0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    for port in ports.into_iter().cycle() {
        if stop.load(Ordering::Relaxed) || sent == MAX_SYNS || (sent.is_multiple_of(64) && boot_seconds() > end) {
            break;
        }
        // xorshift64, the same in each run.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let packet = syn(chance, port);
        let (length, to_length) = (packet.len(), size_of::<libc::sockaddr_in>() as libc::socklen_t);
        // SAFETY: packet and address live here during the call and have the given lengths.
        let result = unsafe {
            libc::sendto(raw.as_raw_fd(), packet.as_ptr().cast(), length, 0, (&raw const to).cast(), to_length)
        };
        let full = io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        if !(result < 0 && full) {
            check(i32::try_from(result).expect("a length"), "sendto");
        }
        sent += 1;
    }
    sent
}

/// Returns an IPv4 packet with a SYN to this port of the loopback, from a source address and port by `chance`.
fn syn(chance: u64, port: u16) -> [u8; 2 * HEADER] {
    let random = chance.to_be_bytes();
    let source = [127, 16 | (random[0] & 3), random[1], random[2]];
    let source_port = 1024 + u16::from_be_bytes([random[3], random[4]]) % 60_000;
    let destination = Ipv4Addr::LOCALHOST.octets();
    let mut packet = [0; 2 * HEADER];
    // Version 4, five words of header, a time to live of 64. The kernel sets length, identification and checksum
    // (`raw_send_hdrinc`, net/ipv4/raw.c at v6.18).
    (packet[0], packet[8], packet[9]) = (0x45, 64, libc::IPPROTO_TCP as u8);
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    let tcp = &mut packet[HEADER..];
    tcp[0..2].copy_from_slice(&source_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[4..8].copy_from_slice(&random[4..8]);
    // Five words of header, SYN, the largest window.
    (tcp[12], tcp[13], tcp[14], tcp[15]) = (5 << 4, 2, 0xff, 0xff);
    let pseudo = [&source[..], &destination, &[0, libc::IPPROTO_TCP as u8, 0, HEADER as u8], tcp].concat();
    let sum = checksum(&pseudo);
    packet[HEADER + 16..HEADER + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Returns the Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
