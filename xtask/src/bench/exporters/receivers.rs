//! Receivers of an agent's output: a collector for OTLP, a scraper of metrics, and the socket of a journal. Each has a thread, and
//! counts the bytes that arrive.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Sub,
    os::unix::net::UnixDatagram,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use tests_support::http;

use crate::prelude::*;

/// Socket of a journal, below the file system that is mounted for it.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Maximum length of a datagram that the journal's socket accepts: twice `net.core.wmem_default`.
const MAX_DATAGRAM_BYTES: usize = 512 * 1024;
/// Maximum time of a client of the collector.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Number of messages and bytes that a receiver has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Received {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

impl Sub for Received {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { messages: self.messages - before.messages, bytes: self.bytes - before.bytes }
    }
}

/// What a collector has got, by signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    pub(super) metrics: Received,
    pub(super) logs: Received,
}

/// Collector that accepts everything and reads none of it. Its thread ends with this process.
pub(super) struct Collector {
    pub(super) port: u16,
    collected: Arc<Mutex<Collected>>,
}

impl Collector {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback failed")?;
        let port = listener.local_addr().context("a listener without an address")?.port();
        let collected = Arc::new(Mutex::new(Collected::default()));
        let of_thread = Arc::clone(&collected);
        thread::spawn(move || {
            // Each request has a connection of its own, and the agent sends one of each signal at a time.
            for client in listener.incoming().flatten() {
                let of_client = Arc::clone(&of_thread);
                thread::spawn(move || {
                    // An agent that ends meanwhile gets no answer.
                    let _closed = collect(&client, &of_client);
                });
            }
        });
        Ok(Self { port, collected })
    }

    pub(super) fn collected(&self) -> Collected {
        *locked(&self.collected)
    }
}

/// Reads one request, counts its body, and accepts it.
fn collect(client: &TcpStream, collected: &Mutex<Collected>) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let Some(length) = content_length(&head) else { return Err(io::ErrorKind::InvalidData.into()) };
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    {
        let mut collected = locked(collected);
        let signal = if head.contains("/v1/logs") { &mut collected.logs } else { &mut collected.metrics };
        signal.add(length);
    }
    let mut client = client;
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
}

fn content_length(head: &str) -> Option<usize> {
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(value)
}

/// One scrape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scrape {
    /// Time from the connection to the end of the page.
    pub(super) time: Duration,
    /// Length of the page; `None` if there was none.
    pub(super) bytes: Option<usize>,
}

/// Scraper of `--listen`. Dropping it ends its thread.
pub(super) struct Scraper {
    port: u16,
    scrapes: Arc<Mutex<Vec<Scrape>>>,
    is_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scraper {
    /// Scrapes at an interval.
    pub(super) fn start(port: u16, interval: Duration) -> Self {
        let scrapes = Arc::new(Mutex::new(Vec::new()));
        let is_ended = Arc::new(AtomicBool::new(false));
        let (of_thread, ended) = (Arc::clone(&scrapes), Arc::clone(&is_ended));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let began = exec::now();
                let page = http::get(port, "/metrics");
                locked(&of_thread).push(Scrape { time: began.elapsed(), bytes: page.ok().map(|page| page.len()) });
                thread::park_timeout(interval.saturating_sub(began.elapsed()));
            }
        });
        Self { port, scrapes, is_ended, thread: Some(thread) }
    }

    /// Returns the scrapes since the last call.
    pub(super) fn take(&self) -> Vec<Scrape> {
        std::mem::take(&mut *locked(&self.scrapes))
    }

    /// Returns the page of one more scrape.
    pub(super) fn page(&self) -> Result<String> {
        Ok(http::get(self.port, "/metrics")?)
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has a message of its own.
            let _panicked = thread.join();
        }
    }
}

/// Sum of the values of a metric on a page in Prometheus' text format, and the number of its series.
pub(super) fn sum(page: &str, metric: &str) -> (f64, usize) {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        // The name of another metric may begin with this one.
        (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1))
}

/// Values of a metric with one label on such a page, by the value of the label.
pub(super) fn by_label(page: &str, metric: &str, label: &str) -> Vec<(String, u64)> {
    let start = format!("{metric}{{{label}=\"");
    let value = |line: &str| {
        let (value, number) = line.strip_prefix(&start)?.split_once("\"} ")?;
        Some((value.to_owned(), number.parse().ok()?))
    };
    page.lines().filter_map(value).collect()
}

/// Socket of a journal that counts entries. Its thread ends with this process.
pub(super) struct JournalSocket(Arc<Mutex<Received>>);

impl JournalSocket {
    /// Opens the socket. Call it in a mount namespace with an empty file system at `/run`.
    pub(super) fn open() -> Result<Self> {
        let path = Path::new(JOURNAL);
        fs::create_dir_all(path.parent().context("a socket in no folder")?)?;
        let socket = UnixDatagram::bind(path).with_context(|| format!("cannot listen at {JOURNAL}"))?;
        let received = Arc::new(Mutex::new(Received::default()));
        let of_thread = Arc::clone(&received);
        thread::spawn(move || {
            let mut entry = vec![0; MAX_DATAGRAM_BYTES];
            // Only a bug makes a read fail.
            while let Ok(bytes) = socket.recv(&mut entry) {
                locked(&of_thread).add(bytes);
            }
        });
        Ok(Self(received))
    }

    pub(super) fn received(&self) -> Received {
        *locked(&self.0)
    }
}

/// A panic of another thread leaves numbers that are still true.
fn locked<T>(numbers: &Mutex<T>) -> MutexGuard<'_, T> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_counts_bodies_by_signal() {
        let collector = Collector::start().unwrap();
        for (path, body) in [("/v1/logs", "12345"), ("/v1/metrics", "123"), ("/v1/logs", "")] {
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, collector.port)).unwrap();
            write!(client, "POST {path} HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        let received = |messages, bytes| Received { messages, bytes };
        assert_eq!(collector.collected(), Collected { metrics: received(1, 3), logs: received(2, 5) });
        assert_eq!(received(2, 5) - received(1, 3), received(1, 2));
    }

    #[test]
    fn a_scrape_without_an_answer_has_no_page() {
        let scraper = Scraper::start(http::free_port().unwrap(), Duration::from_secs(60));
        while locked(&scraper.scrapes).is_empty() {
            thread::yield_now();
        }
        assert_eq!(scraper.take().first().unwrap().bytes, None);
        assert_eq!(scraper.take(), []);
    }

    #[test]
    fn numbers_are_read_by_label() {
        let page = "# TYPE a counter\na{b=\"c\"} 2\na{b=\"d\"} 3\na_more{b=\"c\"} 9\n";
        assert_eq!(by_label(page, "a", "b"), [("c".to_owned(), 2), ("d".to_owned(), 3)]);
    }

    #[test]
    fn series_of_one_metric_are_summed() {
        let page = "# HELP a x 7\na{b=\"c d\"} 2\na{otel_metric_overflow=\"true\"} 3\na_more{b=\"c\"} 9\nplain 4\n";
        assert_eq!(sum(page, "a"), (5.0, 2));
        assert_eq!(sum(page, "plain"), (4.0, 1));
        assert_eq!(sum(page, "none"), (0.0, 0));
    }
}
