//! A load of short TCP connections, each of which passes through CLOSE_WAIT once.
//!
//! The client closes first, so the server's socket enters CLOSE_WAIT, reads the end of the stream and closes.
//! TIME_WAIT stays with the client, and with it a source port for each address and port connected to: every pair of
//! threads has its own address and several listeners.
//!
//! The time of a connection is that of all its system calls: `connect` and `close` of the client, `accept`, `read` and `close` of the
//! server. Loopback delivers within these calls, so all changes of state and what is attached to them are part of it. The time
//! that the connection waits for the server's thread is not: that depends on the scheduler and is many times as long. A thread that
//! another one interrupts within a call shows in the highest percentiles.

mod times;

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
};

use anyhow::anyhow;
use serde_json::json;

pub(crate) use self::times::PERCENTILES;
use self::times::Times;
use crate::prelude::*;
use crate::{loopback, namespaces};

/// Listeners of one pair.
const LISTENERS: usize = 8;

/// Most connections of one pair that the server has not accepted yet. Well under a listener's backlog, where one more would
/// have its SYN dropped and sent again a second later.
const MAX_UNACCEPTED: usize = 32;

#[derive(Args)]
pub(crate) struct Options {
    /// Pairs of a client and a server thread [default: one for each CPU]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pairs: Option<u8>,
    /// Duration in seconds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Makes the load and prints what it was as one JSON object.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Without root the load goes over the loopback that is there; it is 127.0.0.0/8 in either case.
    let _moved = namespaces::enter_new_network();
    let pairs = match options.pairs {
        Some(pairs) => pairs,
        None => thread::available_parallelism().map_or(1, |cpus| u8::try_from(cpus.get()).unwrap_or(64).min(64)),
    };
    let (times, elapsed) = load(pairs, Duration::from_secs(options.seconds))?;
    println!("{}", result(&times, elapsed));
    Ok(())
}

/// The printed object: without connections, the percentiles are null.
fn result(times: &Times, elapsed: Duration) -> Value {
    let connections = times.count();
    let rate = connections as f64 / elapsed.as_secs_f64();
    let percentiles = PERCENTILES.map(|(name, share)| (name.to_owned(), times.percentile(share).into()));
    let microseconds = Value::Object(percentiles.into_iter().collect());
    json!({ "connections": connections, "connections_per_second": rate, "microseconds": microseconds })
}

/// Runs all pairs for `time`. Returns the times of exactly the connections that both ends have closed.
fn load(pairs: u8, time: Duration) -> Result<(Times, Duration)> {
    let listen = |pair| (0..LISTENERS).map(|_| loopback::listen([127, 77, 0, pair])).collect::<Result<Vec<_>>>();
    // All listeners exist before the first connection, so that a pair is not measured while another still binds.
    let listeners = (1..=pairs).map(listen).collect::<Result<Vec<_>>>()?;
    let start = exec::now();
    let deadline = start + time;
    let pairs = thread::scope(|scope| {
        let running: Vec<_> = listeners.iter().map(|own| scope.spawn(move || pair(own, deadline))).collect();
        let join = |handle: thread::ScopedJoinHandle<'_, Result<Times>>| {
            handle.join().map_err(|_panic| anyhow!("a thread of the load panicked; its message is above"))?
        };
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let elapsed = start.elapsed();
    let mut times = Times::new();
    pairs.iter().for_each(|pair| times.merge(pair));
    Ok((times, elapsed))
}

/// One client, and one server in a thread of its own.
fn pair(listeners: &[TcpListener], deadline: Instant) -> Result<Times> {
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.context("getsockname failed on a listener; this is a bug")?;
    let (sender, receiver) = mpsc::sync_channel(MAX_UNACCEPTED);
    thread::scope(|scope| {
        let server = scope.spawn(move || serve(listeners, &receiver));
        let client = connect(&addresses, &sender, deadline);
        // The server ends when it has taken everything and no more can come.
        drop(sender);
        let served = server.join().map_err(|_panic| anyhow!("a server thread panicked; its message is above"))?;
        client.and(served)
    })
}

/// A connection that the client has closed.
struct Closed {
    /// The listener that has it.
    listener: usize,
    /// Time in the client's calls.
    time: Duration,
}

fn connect(addresses: &[SocketAddr], sender: &mpsc::SyncSender<Closed>, deadline: Instant) -> Result<()> {
    for (listener, address) in addresses.iter().enumerate().cycle() {
        let start = exec::now();
        if start >= deadline {
            break;
        }
        let stream = TcpStream::connect(address)
            .with_context(|| format!("connect to {address} failed; wait a minute for TIME_WAIT to pass"))?;
        drop(stream);
        // A server that has failed says why itself.
        if sender.send(Closed { listener, time: start.elapsed() }).is_err() {
            break;
        }
    }
    Ok(())
}

/// Takes one connection from the listener that each message names.
fn serve(listeners: &[TcpListener], receiver: &mpsc::Receiver<Closed>) -> Result<Times> {
    let mut times = Times::new();
    for Closed { listener, time } in receiver {
        let start = exec::now();
        let (mut stream, _peer) =
            listeners[listener].accept().context("accept failed; is the limit of open files low?")?;
        let read = stream.read(&mut [0; 1]).context("read failed although the peer closed in order")?;
        anyhow::ensure!(
            read == 0,
            "read {read} bytes that this program did not send; is another program connecting to 127.77.0.0/16?"
        );
        drop(stream);
        let time = time + start.elapsed();
        times.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_connection_of_every_pair() {
        let (times, elapsed) = load(2, Duration::from_millis(50)).unwrap();
        assert!(times.count() > 0);
        assert!(elapsed >= Duration::from_millis(50));
        let result = result(&times, elapsed);
        let times = PERCENTILES.map(|(name, _share)| result["microseconds"][name].as_f64().unwrap());
        assert!(times[0] > 0.0 && times.is_sorted(), "{result}");
        // No call took longer than the load.
        assert!(times[3] <= elapsed.as_secs_f64() * 1e6, "{result}");
    }
}
