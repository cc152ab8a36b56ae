//! Collector on a loopback port that behaves as a test says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::ExportMetricsServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message as _;

/// Behavior towards one connection.
#[derive(Clone, Debug)]
pub(super) enum Behavior {
    /// Answers 200 and keeps what came.
    Accept,
    /// Answers this status, with this `Retry-After`.
    Status(u16, Option<String>),
    /// Answers 200 with a partial success, and keeps what came.
    Partial(i64, String),
    /// Reads the request and resets the connection.
    Reset,
    /// Reads the request and never answers.
    Silent,
    /// Sends a byte of a response now and then.
    SlowHeaders,
    /// Sends headers without an end.
    EndlessHeaders,
    /// Answers with something that is not HTTP.
    NoHttp,
    /// Keeps what came, answers 200, and sends a byte of the body now and then.
    SlowBody,
    /// Keeps what came, answers 200, and sends a body without an end.
    EndlessBody,
    /// Keeps what came, and answers 200 with a body that is no protobuf.
    GarbageBody,
    /// Answers 200 with a web page, as a proxy for people.
    Page,
    /// The same without its type.
    UntypedPage,
    /// Keeps what came, and answers 200 with JSON.
    Json,
}

/// Everything that a collector has received.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    pub(super) connections: usize,
    /// Request lines and headers.
    pub(super) heads: Vec<String>,
    pub(super) records: Vec<LogRecord>,
    pub(super) resources: Vec<BTreeMap<String, String>>,
    /// Names of the metrics of each request.
    pub(super) metrics: Vec<Vec<String>>,
}

impl Received {
    /// Returns the identifiers of all records.
    pub(super) fn uids(&self) -> BTreeSet<String> {
        self.records.iter().map(|record| texts(&record.attributes)["log.record.uid"].clone()).collect()
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let Value::StringValue(text) = attribute.value.clone()?.value? else { return None };
        Some((attribute.key.clone(), text))
    };
    attributes.iter().filter_map(text).collect()
}

#[derive(Debug, Default)]
struct Shared {
    received: Received,
    behaviors: VecDeque<Behavior>,
    is_stopped: bool,
    connections: Vec<TcpStream>,
}

/// Running collector.
#[derive(Debug)]
pub(super) struct FakeCollector {
    pub(super) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    accepting: Option<JoinHandle<()>>,
}

impl FakeCollector {
    /// Starts a collector that behaves so towards the first connections, and accepts what the later ones send.
    pub(super) fn start(behaviors: &[Behavior]) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), behaviors)
    }

    pub(super) fn start_at(address: SocketAddr, behaviors: &[Behavior]) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { behaviors: behaviors.to_vec().into(), ..Shared::default() }));
        let of_thread = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut now = lock(&of_thread);
                if now.is_stopped {
                    return;
                }
                now.received.connections += 1;
                now.connections.push(stream.try_clone().unwrap());
                let behavior = now.behaviors.pop_front().unwrap_or(Behavior::Accept);
                drop(now);
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || serve(stream, behavior, &shared));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub(super) fn received(&self) -> Received {
        lock(&self.shared).received.clone()
    }

    /// Closes the listener and resets all connections.
    pub(super) fn stop(mut self) -> Received {
        self.end();
        self.received()
    }

    fn end(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        let mut now = lock(&self.shared);
        now.is_stopped = true;
        for stream in now.connections.drain(..) {
            reset(&stream);
        }
        drop(now);
        drop(TcpStream::connect(self.address));
        accepting.join().unwrap();
    }
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resets a connection: the peer gets ECONNRESET instead of an end.
fn reset(stream: &TcpStream) {
    let _gone = rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
    let _gone = stream.shutdown(std::net::Shutdown::Both);
}

/// Reads one request: its head and its decompressed body; `None` if the connection ends before.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (head, length) = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            bytes.drain(..end + 4);
            break (head, length);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    };
    while bytes.len() < length {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    if head.contains("content-encoding: gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        bytes = plain;
    }
    Some((head, bytes))
}

fn keep(head: &str, body: &[u8], shared: &Mutex<Shared>) {
    let mut now = lock(shared);
    if now.is_stopped {
        return;
    }
    if head.contains("/v1/logs") {
        for logs in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
            now.received.resources.push(texts(&logs.resource.unwrap().attributes));
            now.received.records.extend(logs.scope_logs.into_iter().flat_map(|scope| scope.log_records));
        }
    } else {
        for metrics in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
            let names = metrics.scope_metrics.into_iter().flat_map(|scope| scope.metrics).map(|metric| metric.name);
            now.received.metrics.push(names.collect());
        }
    }
}

fn serve(mut stream: TcpStream, behavior: Behavior, shared: &Mutex<Shared>) {
    let Some((head, body)) = request(&mut stream) else { return };
    lock(shared).received.heads.push(head.clone());
    let ok_of = |kind: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let ok = |body: &[u8]| ok_of("application/x-protobuf", body);
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let accepts = matches!(
        behavior,
        Behavior::Accept
            | Behavior::Partial(..)
            | Behavior::SlowBody
            | Behavior::EndlessBody
            | Behavior::GarbageBody
            | Behavior::Json
    );
    if accepts {
        keep(&head, &body, shared);
    }
    // The exporter closes the connection when it has seen enough.
    let _gone = match behavior {
        Behavior::Accept => stream.write_all(&ok(b"")),
        Behavior::GarbageBody => stream.write_all(&ok(b"\xff\xff\xff")),
        Behavior::Page => stream.write_all(&ok_of("text/html; charset=utf-8", b"<html>Log in")),
        Behavior::UntypedPage => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n\n<html>Log in\n"),
        Behavior::Json => stream.write_all(&ok_of("application/json", b"{\"partialSuccess\":{}}")),
        Behavior::Partial(rejected_log_records, error_message) => {
            let partial = ExportLogsPartialSuccess { rejected_log_records, error_message };
            stream.write_all(&ok(&ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()))
        }
        Behavior::Status(status, after) => {
            let after = after.map(|after| format!("Retry-After: {after}\r\n")).unwrap_or_default();
            let to = "Location: http://127.0.0.1:1/elsewhere\r\n";
            stream.write_all(format!("HTTP/1.1 {status} X\r\n{after}{to}Content-Length: 0\r\n\r\n").as_bytes())
        }
        Behavior::Reset => {
            reset(&stream);
            Ok(())
        }
        Behavior::Silent => stream.read(&mut [0]).map(drop),
        Behavior::SlowHeaders => dribble(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0"),
        Behavior::EndlessHeaders => {
            let start = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            start.and_then(|()| (0..).try_for_each(|number: u64| writeln!(stream, "X-{number}: a\r")))
        }
        Behavior::NoHttp => stream.write_all(b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"),
        Behavior::SlowBody => {
            let start = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            start.and_then(|()| dribble(&mut stream, &"x".repeat(100)))
        }
        Behavior::EndlessBody => {
            let start = stream.write_all(endless.as_bytes());
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            start.and_then(|()| (0..).try_for_each(|_: u64| stream.write_all(chunk.as_bytes())))
        }
    };
}

/// Sends a byte every 20 milliseconds, and then waits for the end.
fn dribble(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    for byte in text.bytes() {
        stream.write_all(&[byte])?;
        thread::sleep(Duration::from_millis(20));
    }
    stream.read(&mut [0]).map(drop)
}
