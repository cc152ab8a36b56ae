//! Sockets in CLOSE_WAIT, with a record of their own of when each entered and left.

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, ensure};

/// Every socket of a population has a local address in 127.79.0.0/16.
pub(super) const NETWORK: &str = "127.79.";

/// Local and remote end, as events write them.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// Between two readings of the boot clock, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Span {
    fn around<T>(work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let from = boot_now()?;
        let done = work()?;
        Ok((Self { from, to: boot_now()? }, done))
    }
}

/// How long a socket can have stayed, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stay {
    pub(super) shortest: f64,
    pub(super) longest: f64,
}

impl Stay {
    fn between(fin: Span, end: Span) -> Self {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        Self { shortest: seconds(end.from.saturating_sub(fin.to)), longest: seconds(end.to.saturating_sub(fin.from)) }
    }

    /// How far a dwell time is off, seconds; 0 if it is possible.
    pub(super) fn off(self, dwell: f64) -> f64 {
        (self.shortest - dwell).max(dwell - self.longest).max(0.0)
    }
}

struct One {
    server: TcpStream,
    /// Half open, so that the kernel keeps its port.
    _client: TcpStream,
    fin: Span,
}

/// All of them.
pub(super) struct Population {
    listener: TcpListener,
    /// Which address it listens on.
    number: u16,
    sockets: BTreeMap<Ends, One>,
}

impl Population {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { listener: listen(1)?, number: 1, sockets: BTreeMap::new() })
    }

    /// Later sockets have another local address, so that none has the ends of one that was closed.
    pub(super) fn move_on(&mut self) -> Result<()> {
        self.number = self.number.checked_add(1).context("there are no more addresses; use fewer rounds")?;
        self.listener = listen(self.number)?;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Brings so many more into CLOSE_WAIT.
    pub(super) fn add(&mut self, count: u64) -> Result<()> {
        let address = self.listener.local_addr().context("getsockname failed; this is a bug")?;
        for _ in 0..count {
            let client = TcpStream::connect(address).with_context(|| format!("connect to {address} failed"))?;
            let (server, remote) = self.listener.accept().context("accept failed; is the limit of open files low?")?;
            let (fin, ()) = Span::around(|| {
                client.shutdown(Shutdown::Write).context("shutdown failed; this is a bug")?;
                wait_for_close_wait(&server)
            })?;
            self.sockets.insert((address, remote), One { server, _client: client, fin });
        }
        Ok(())
    }

    /// Closes one, the `index`th of them in turn.
    pub(super) fn close(&mut self, index: u64) -> Result<Option<(Ends, Stay)>> {
        let len = self.sockets.len() as u64;
        let at = usize::try_from(index % len.max(1)).context("an index is out of range; this is a bug")?;
        let Some(ends) = self.sockets.keys().nth(at).copied() else { return Ok(None) };
        let Some(One { server, _client, fin }) = self.sockets.remove(&ends) else { return Ok(None) };
        let (end, ()) = Span::around(|| {
            drop(server);
            Ok(())
        })?;
        Ok(Some((ends, Stay::between(fin, end))))
    }

    /// How long each has stayed, were it asked now.
    pub(super) fn ages(&self) -> Result<BTreeMap<Ends, Stay>> {
        let now = boot_now()?;
        let now = Span { from: now, to: now };
        Ok(self.sockets.iter().map(|(ends, one)| (*ends, Stay::between(one.fin, now))).collect())
    }
}

fn listen(number: u16) -> Result<TcpListener> {
    let [high, low] = number.to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 79, high, low), 0));
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// On loopback the FIN has come when the call returns, all but always.
fn wait_for_close_wait(server: &TcpStream) -> Result<()> {
    /// `TCP_CLOSE_WAIT`, include/net/tcp_states.h.
    const CLOSE_WAIT: u8 = 8;
    for _ in 0..1_000_000 {
        let mut state = MaybeUninit::<[u8; 8]>::zeroed();
        let mut length = 8;
        // SAFETY: TCP_INFO writes as many bytes as `length` says at most, which is what `state` has room for.
        let result = unsafe {
            libc::getsockopt(
                server.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                state.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        ensure!(result == 0, "getsockopt(TCP_INFO) failed: {}", io::Error::last_os_error());
        // SAFETY: it was zeroed, and every byte is a value.
        if unsafe { state.assume_init() }[0] == CLOSE_WAIT {
            return Ok(());
        }
    }
    anyhow::bail!("a FIN on loopback did not come; is the loopback up?")
}

/// The boot clock, nanoseconds.
pub(super) fn boot_now() -> Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for a write.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    ensure!(result == 0, "clock_gettime(CLOCK_BOOTTIME) failed: {}", io::Error::last_os_error());
    let seconds = u64::try_from(time.tv_sec).context("a time before boot; this is a bug")?;
    Ok(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).context("less than no nanoseconds; this is a bug")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_lies_between_the_closest_and_the_farthest_readings() {
        let stay = Stay::between(
            Span { from: 1_000_000_000, to: 2_000_000_000 },
            Span { from: 5_000_000_000, to: 6_000_000_000 },
        );
        assert_eq!(stay, Stay { shortest: 3.0, longest: 5.0 });
        assert_eq!((stay.off(4.0), stay.off(2.5), stay.off(5.5)), (0.0, 0.5, 0.5));
    }
}
