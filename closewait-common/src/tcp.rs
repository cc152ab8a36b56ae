//! Constants of the kernel's TCP that both sides use.

/// States of `enum` in `include/net/tcp_states.h`, the same since Linux 2.6.
pub mod state {
    /// The connection is established.
    pub const ESTABLISHED: u8 = 1;
    /// The program is connecting.
    pub const SYN_SENT: u8 = 2;
    /// The program has closed its sending side, and the peer has not acknowledged that.
    pub const FIN_WAIT1: u8 = 4;
    /// The peer has acknowledged the program's FIN, and has not closed its own side.
    pub const FIN_WAIT2: u8 = 5;
    /// Both sides have closed; the kernel keeps the endpoints for a while.
    pub const TIME_WAIT: u8 = 6;
    /// No connection: closed, reset, timed out or destroyed.
    pub const CLOSE: u8 = 7;
    /// The peer has sent its FIN, the program has not closed.
    pub const CLOSE_WAIT: u8 = 8;
    /// The program has closed too; its FIN is in transit.
    pub const LAST_ACK: u8 = 9;
    /// The socket is a listener.
    pub const LISTEN: u8 = 10;
}

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_MPTCP`, the protocol of a program's socket of a Multipath TCP connection (`include/uapi/linux/in.h`).
pub const IPPROTO_MPTCP: u16 = 262;

/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

/// `RCV_SHUTDOWN` of `include/net/sock.h`: the FIN of the peer has arrived.
pub const RCV_SHUTDOWN: u8 = 1;
/// `SEND_SHUTDOWN` of `include/net/sock.h`: the program will send no more.
pub const SEND_SHUTDOWN: u8 = 2;
