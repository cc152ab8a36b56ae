//! Sockets in CLOSE_WAIT, with a record of when each entered and left.

use std::{
    collections::BTreeMap,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use fastrand::Rng;
use tests_support::clock::Window;

use crate::loopback;
use crate::prelude::*;

/// Every socket of a population has a local address in 127.79.0.0/16.
pub(super) const NETWORK: &str = "127.79.";

/// Local and remote end, as events write them.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// Bounds of a dwell time, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stay {
    pub(super) shortest: f64,
    pub(super) longest: f64,
}

impl Stay {
    fn between(fin: Window, end: Window) -> Self {
        let (shortest, longest) = fin.until(end);
        Self { shortest: shortest.max(0.0), longest }
    }

    /// Error of a dwell time, seconds; 0 if it is possible.
    pub(super) fn off(self, dwell: f64) -> f64 {
        (self.shortest - dwell).max(dwell - self.longest).max(0.0)
    }
}

struct One {
    server: TcpStream,
    /// Half open, so that the kernel keeps its port.
    _client: TcpStream,
    fin: Window,
}

/// Many such sockets.
pub(super) struct Population {
    /// Chooses the sockets that are closed. The same seed chooses the same ones.
    pub(super) random: Rng,
    listener: TcpListener,
    /// The last two bytes of the listener's address.
    number: u16,
    sockets: BTreeMap<Ends, One>,
}

impl Population {
    pub(super) fn new(seed: u64) -> Result<Self> {
        Ok(Self { random: Rng::with_seed(seed), listener: listen(1)?, number: 1, sockets: BTreeMap::new() })
    }

    /// Later sockets have another local address, so that none has the ends of one that was closed.
    pub(super) fn move_on(&mut self) -> Result<()> {
        self.number = self.number.checked_add(1).context("there are no more addresses; use fewer rounds")?;
        self.listener = listen(self.number)?;
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.sockets.len() as u64
    }

    /// Makes `count` more sockets in CLOSE_WAIT.
    pub(super) fn add(&mut self, count: u64) -> Result<()> {
        let address = self.listener.local_addr().context("getsockname failed; this is a bug")?;
        for _ in 0..count {
            let (client, server) = loopback::connect(&self.listener)?;
            let remote = server.peer_addr().context("getpeername failed; this is a bug")?;
            let (fin, closed) = Window::around(|| {
                client.shutdown(Shutdown::Write).context("shutdown failed; this is a bug")?;
                wait_for_close_wait(&server)
            });
            closed?;
            self.sockets.insert((address, remote), One { server, _client: client, fin });
        }
        Ok(())
    }

    /// Closes `count` sockets, and returns the bounds of the time that each was in CLOSE_WAIT.
    pub(super) fn close(&mut self, count: u64) -> Result<Vec<(Ends, Stay)>> {
        let mut closed = Vec::new();
        for _ in 0..count.min(self.len()) {
            let index = self.random.usize(..self.sockets.len());
            let ends = self.sockets.keys().nth(index).copied();
            let Some((ends, one)) = ends.and_then(|ends| self.sockets.remove_entry(&ends)) else { break };
            let One { server, _client, fin } = one;
            let (end, ()) = Window::around(|| drop(server));
            closed.push((ends, Stay::between(fin, end)));
        }
        Ok(closed)
    }

    /// Bounds of the time that each socket has been in CLOSE_WAIT.
    pub(super) fn ages(&self) -> BTreeMap<Ends, Stay> {
        let (now, ()) = Window::around(|| ());
        self.sockets.iter().map(|(ends, one)| (*ends, Stay::between(one.fin, now))).collect()
    }
}

fn listen(number: u16) -> Result<TcpListener> {
    let [high, low] = number.to_be_bytes();
    loopback::listen([127, 79, high, low])
}

/// Waits for the peer's FIN. `tcp_fin` (net/ipv4/tcp_input.c at v6.18) ends the stream and enters CLOSE_WAIT under one lock of
/// the socket, so whoever can read the end of the stream finds it in CLOSE_WAIT.
fn wait_for_close_wait(server: &TcpStream) -> Result<()> {
    let read = server.peek(&mut [0]).context("peek failed; is loopback up?")?;
    ensure!(read == 0, "there is a byte that no client sent; is another program connecting to 127.79.0.0/16?");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_lies_between_the_closest_and_the_farthest_readings() {
        let stay = Stay::between(Window { from: 1.0, to: 2.0 }, Window { from: 5.0, to: 6.0 });
        assert_eq!(stay, Stay { shortest: 3.0, longest: 5.0 });
        assert_eq!((stay.off(4.0), stay.off(2.5), stay.off(5.5)), (0.0, 0.5, 0.5));
    }
}
