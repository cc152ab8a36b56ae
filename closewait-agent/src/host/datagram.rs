//! Connections to services of the host that receive datagrams.

use std::{
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
};

/// Connects to the service at `address`. The socket waits for nobody: without room, `send` returns
/// [`io::ErrorKind::WouldBlock`].
///
/// # Errors
///
/// If no service listens there, or the kernel refuses.
pub(super) fn connect(address: &SocketAddr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
