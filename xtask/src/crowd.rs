//! A crowd of descriptors to look through: one process which holds sockets in CLOSE_WAIT and much else.
//!
//! The client's end of a socket in CLOSE_WAIT is closed and costs nothing: it waits in FIN_WAIT2 for the server, which never
//! closes, and the kernel forgets it after `tcp_fin_timeout`. Both ends of an established connection stay here.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fs_err as fs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where every connection of a crowd goes to: 127.78.0.0/16.
pub(crate) const NETWORK: &str = "127.78.";

/// Connections to one listener. The kernel walks through the ephemeral ports in steps of up to 16 for each listener
/// (`__inet_hash_connect`, net/ipv4/inet_hashtables.c at v6.18). If it came round, it would take the port of a client that it
/// has forgotten, and the RST that follows would end the server's socket.
const TO_ONE_LISTENER: u32 = 1000;

/// Descriptors of a process beside those that it is asked for.
pub(crate) const BESIDE: u32 = 64;

#[derive(Args)]
pub(crate) struct Options {
    /// Which crowd this is: the third byte of its addresses
    #[arg(long)]
    number: u8,
    /// Sockets in CLOSE_WAIT
    #[arg(long)]
    close_wait: u32,
    /// Other descriptors: half of them established TCP sockets and listeners, half /dev/null
    #[arg(long)]
    other: u32,
}

/// How many of what a process opens beside its sockets in CLOSE_WAIT.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    listeners: u32,
    /// Each is two descriptors.
    connections: u32,
    files: u32,
}

impl Parts {
    fn of(close_wait: u32, other: u32) -> Self {
        let listeners = (close_wait + other / 4).div_ceil(TO_ONE_LISTENER);
        let connections = (other / 2).saturating_sub(listeners) / 2;
        Self { listeners, connections, files: other.saturating_sub(listeners + 2 * connections) }
    }
}

/// Opens everything, says so with one line, and holds it until standard input ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    let parts = Parts::of(options.close_wait, options.other);
    allow_descriptors(options.close_wait + options.other + BESIDE)?;
    let listeners = (0..parts.listeners).map(|index| listener(options.number, index)).collect::<Result<Vec<_>>>()?;
    let mut turns = listeners.iter().cycle();
    let mut connect = || turns.next().context("a crowd without listeners connects; this is a bug").and_then(connection);
    let mut held = Vec::new();
    for _ in 0..parts.connections {
        held.push(connect()?);
    }
    let mut half_closed = Vec::new();
    for _ in 0..options.close_wait {
        let (client, server) = connect()?;
        drop(client);
        half_closed.push(server);
    }
    let null = |_| std::fs::File::open("/dev/null").context("cannot open /dev/null; is the limit of open files low?");
    let files = (0..parts.files).map(null).collect::<Result<Vec<_>>>()?;
    println!("ready");
    io::stdout().flush().context("cannot write to standard output; has the bench ended?")?;
    io::stdin().read_to_end(&mut Vec::new()).context("cannot read standard input; has the bench ended?")?;
    drop((listeners, held, half_closed, files));
    Ok(())
}

fn listener(number: u8, index: u32) -> Result<TcpListener> {
    let last = u8::try_from(index + 1).context("a crowd has at most 255 listeners; ask for fewer sockets")?;
    let address = SocketAddr::from((Ipv4Addr::new(127, 78, number, last), 0));
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}; is loopback up?"))
}

/// Both ends of a new connection.
fn connection(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let address = listener.local_addr().context("getsockname failed on a listener; this is a bug")?;
    let client =
        TcpStream::connect(address).with_context(|| format!("connect to {address} failed; is loopback up?"))?;
    let (server, peer) = listener.accept().context("accept failed; is the limit of open files low?")?;
    let own = client.local_addr().context("getsockname failed on a connection; this is a bug")?;
    ensure!(peer == own, "{peer} connected to {address}, not {own}; is another program connecting to 127.78.0.0/16?");
    Ok((client, server))
}

/// Highest number of descriptors that one process of a crowd can have: `fs.nr_open` with CAP_SYS_RESOURCE, which raises the
/// limit, else the limit of this process.
pub(crate) fn most_descriptors() -> Result<u32> {
    let path = "/proc/sys/fs/nr_open";
    let most = fs::read_to_string(path)?.trim().parse().with_context(|| format!("{path} has no number"))?;
    // Only the hard limit changes: some measured programs close every descriptor up to the soft one.
    let old = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { maximum: Some(most), ..old }).is_ok();
    let hard = if raised { most } else { old.maximum.unwrap_or(most) };
    Ok(u32::try_from(hard).unwrap_or(u32::MAX))
}

fn allow_descriptors(count: u32) -> Result<()> {
    let old = getrlimit(Resource::Nofile);
    let current = old.current.map(|current| current.max(count.into()));
    setrlimit(Resource::Nofile, Rlimit { current, ..old })
        .with_context(|| format!("setrlimit(RLIMIT_NOFILE) to {count} failed; run as root, with CAP_SYS_RESOURCE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_exactly_the_descriptors_asked_for() {
        for (close_wait, other) in [(4000, 12_000), (0, 33_334), (1, 7), (50_000, 0), (17, 99_999)] {
            let parts = Parts::of(close_wait, other);
            let opened = parts.listeners + 2 * parts.connections + parts.files;
            assert_eq!(opened, other.max(parts.listeners), "{close_wait} {other}: {parts:?}");
        }
        assert_eq!(Parts::of(4000, 12_000), Parts { listeners: 7, connections: 2996, files: 6001 });
    }

    #[test]
    fn a_listener_is_never_asked_too_much() {
        for (close_wait, other) in [(4000, 12_000), (33_334, 33_334), (999, 1)] {
            let parts = Parts::of(close_wait, other);
            assert!(close_wait + parts.connections <= parts.listeners * TO_ONE_LISTENER, "{parts:?}");
        }
    }

    #[test]
    fn a_process_may_have_what_its_limit_says() {
        let current = getrlimit(Resource::Nofile).current.unwrap_or(0);
        assert!(u64::from(most_descriptors().unwrap()) >= current.min(u32::MAX.into()));
    }
}
