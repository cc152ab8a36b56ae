//! Crowds of descriptors: processes that hold sockets in CLOSE_WAIT and much else while something is measured.
//!
//! The client's end of a socket in CLOSE_WAIT is closed and costs nothing: it waits in FIN_WAIT2 for the server, which never
//! closes, and the kernel frees it after `tcp_fin_timeout`. Both ends of an established connection stay here.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::prelude::*;
use crate::{loopback, namespaces};

/// Beginning of the addresses that a crowd connects to: 127.78.0.0/16.
pub(crate) const NETWORK: &str = "127.78.";

/// Least number of processes of a crowd.
const MIN_PROCESSES: u32 = 3;

/// Most descriptors of one process: a host may forbid more, even to root.
const MAX_DESCRIPTORS: u32 = 16_000;

/// Connections to one listener. The kernel tries the ephemeral ports in steps of up to 16 for each listener
/// (`__inet_hash_connect`, net/ipv4/inet_hashtables.c at v6.18). If it came round, it would take the port of a client that it
/// has freed, and the RST that follows would end the server's socket. With 1000 connections, one socket of 12,000 ended so.
const MAX_CONNECTIONS: u32 = 500;

/// First port of a crowd that has a number of ports. The kernel chooses the clients' ports from 32768 on.
const FIRST_PORT: u16 = 10_000;

/// Descriptors of a process besides those that it is asked for.
const OTHER_DESCRIPTORS: u32 = 64;

#[derive(Args)]
pub(crate) struct Options {
    /// Number of this process in its crowd: the third byte of its addresses
    #[arg(long)]
    number: u8,
    /// Sockets in CLOSE_WAIT
    #[arg(long)]
    close_wait: u32,
    /// Other descriptors: half of them established TCP sockets, half /dev/null; a few listeners come on top
    #[arg(long)]
    other: u32,
    /// Number of listeners with a port each, from `first_port` on; 0: as many as necessary, on ports that the kernel chooses
    #[arg(long, default_value_t = 0)]
    ports: u16,
    /// First of these ports
    #[arg(long, default_value_t = FIRST_PORT)]
    first_port: u16,
}

/// A crowd. Dropping it ends its processes, and with them their sockets.
pub(crate) struct Crowd {
    processes: Vec<Child>,
}

impl Crowd {
    /// Makes `close_wait` sockets in CLOSE_WAIT and `other` descriptors; the first process has the number `first`.
    pub(crate) fn gather(first: u8, close_wait: u32, other: u32) -> Result<Self> {
        let count = (close_wait + other).div_ceil(MAX_DESCRIPTORS).max(MIN_PROCESSES);
        let shares = shares(close_wait, count).zip(shares(other, count));
        Self::start((first..).zip(shares), |command, (close_wait, other)| {
            command.args(["--close-wait", &close_wait.to_string(), "--other", &other.to_string()]);
        })
    }

    /// Makes `close_wait` sockets in CLOSE_WAIT, spread evenly over `ports` ports of servers. Each port belongs to one process, so
    /// there are as many groups.
    pub(crate) fn on_ports(close_wait: u32, ports: u16) -> Result<Self> {
        let count = (close_wait + u32::from(ports)).div_ceil(MAX_DESCRIPTORS).max(MIN_PROCESSES);
        let mut next = u32::from(FIRST_PORT);
        let shares = shares(close_wait, count).zip(shares(ports.into(), count)).map(|(close_wait, ports)| {
            let first_port = next;
            next += ports;
            [("--close-wait", close_wait), ("--ports", ports), ("--first-port", first_port), ("--other", 0)]
        });
        Self::start((0..).zip(shares), |command, options| {
            for (option, number) in options {
                command.arg(option).arg(number.to_string());
            }
        })
    }

    /// Starts processes with these numbers and shares, and waits until all are ready. `options` adds the options of a share.
    fn start<T>(shares: impl Iterator<Item = (u8, T)>, options: impl Fn(&mut Command, T)) -> Result<Self> {
        let mut crowd = Self { processes: Vec::new() };
        for (number, share) in shares {
            let mut command = exec::again();
            command.arg("crowd").args(["--number", &number.to_string()]);
            options(&mut command, share);
            crowd.processes.push(exec::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?);
        }
        for process in &mut crowd.processes {
            let mut line = String::new();
            let stdout = process.stdout.take().context("a crowd has no standard output; this is a bug")?;
            BufReader::new(stdout).read_line(&mut line).context("cannot read from a crowd; this is a bug")?;
            ensure!(line == "ready\n", "a crowd ended before it was ready; its own messages are above");
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Closing takes some seconds, so all begin before the first is waited for.
        self.processes.iter_mut().for_each(|process| drop(process.stdin.take()));
        for process in &mut self.processes {
            let _killed_if_late = exec::wait_at_most(process, Duration::from_secs(30));
        }
    }
}

/// Moves this process into a network namespace for crowds. Call it before the first thread starts.
pub(crate) fn enter_network() -> Result<()> {
    namespaces::enter_new_network()?;
    // The closed ends of the clients are not measured; the kernel forgets them after a second.
    Ok(fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1")?)
}

/// Opens what one process of a crowd holds, prints one line, and holds it until standard input ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    let connections = options.other / 4;
    let necessary = (options.close_wait + connections).div_ceil(MAX_CONNECTIONS);
    let listeners = necessary.max(options.ports.into());
    allow_descriptors(options.close_wait + options.other + listeners + OTHER_DESCRIPTORS)?;
    let listen = |index| {
        let last = u8::try_from(index).context("a crowd has at most 255 listeners; ask for fewer sockets")?;
        loopback::listen([127, 78, options.number, last])
    };
    let listeners = match options.ports {
        0 => (1..=necessary).map(listen).collect::<Result<Vec<_>>>()?,
        count if necessary > count.into() => bail!("{count} ports are too few for {} sockets", options.close_wait),
        count => (0..count)
            .map(|index| loopback::listen_on([127, 78, options.number, 1], options.first_port + index))
            .collect::<Result<Vec<_>>>()?,
    };
    let mut turns = listeners.iter().cycle();
    let mut connect = |_| turns.next().context("a crowd without listeners; this is a bug").and_then(loopback::connect);
    let held = (0..connections).map(&mut connect).collect::<Result<Vec<_>>>()?;
    let half_closed = (0..options.close_wait).map(|index| connect(index).map(|(_client, server)| server));
    let half_closed = half_closed.collect::<Result<Vec<_>>>()?;
    let null = |_| std::fs::File::open("/dev/null").context("cannot open /dev/null; is the limit of open files low?");
    let files = (0..options.other - 2 * connections).map(null).collect::<Result<Vec<_>>>()?;
    println!("ready");
    io::stdout().flush().context("cannot write to standard output; has the bench ended?")?;
    io::stdin().read_to_end(&mut Vec::new()).context("cannot read standard input; has the bench ended?")?;
    drop((listeners, held, half_closed, files));
    Ok(())
}

/// `total` in equal parts, the first ones larger by one where it does not divide.
fn shares(total: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |index| total / count + u32::from(index < total % count))
}

fn allow_descriptors(count: u32) -> Result<()> {
    let old = getrlimit(Resource::Nofile);
    let current = old.current.map(|current| current.max(count.into()));
    setrlimit(Resource::Nofile, Rlimit { current, ..old }).with_context(|| {
        format!("setrlimit(RLIMIT_NOFILE) to {count} failed\nhint: raise the hard limit: `ulimit -Hn`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(100, 3).collect::<Vec<_>>(), [34, 33, 33]);
        assert_eq!(shares(2, 3).collect::<Vec<_>>(), [1, 1, 0]);
    }
}
