//! TCP connections over loopback, both ends in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use crate::prelude::*;

/// Listens on a port that the kernel chooses.
pub(crate) fn listen(address: [u8; 4]) -> Result<TcpListener> {
    listen_on(address, 0)
}

/// Listens on this port.
pub(crate) fn listen_on(address: [u8; 4], port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::from(address), port));
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}; is loopback up?"))
}

/// Returns both ends of a new connection, the client's first.
pub(crate) fn connect(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let address = listener.local_addr().context("getsockname failed on a listener; this is a bug")?;
    let client =
        TcpStream::connect(address).with_context(|| format!("connect to {address} failed; is loopback up?"))?;
    let (server, peer) = listener.accept().context("accept failed; is the limit of open files low?")?;
    let own = client.local_addr().context("getsockname failed on a connection; this is a bug")?;
    ensure!(peer == own, "{peer} connected to {address}, not {own}; is another program connecting to 127.0.0.0/8?");
    Ok((client, server))
}
