use std::{
    io::{Read, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
};

use tokio::sync::oneshot;

use super::*;
use crate::{clock, metrics::ListenAddress};
use closewait_engine::{Config, Engine, time::BootTime};

/// Server with an event loop on a thread of its own.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    event_loop: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn new() -> Self {
        let listener = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).bind().unwrap();
        let address = listener.local_address().unwrap();
        let (stop, event_loop) = answer(MetricsServer::start(listener, AgentFacts::default(), None).unwrap());
        Self { address, stop: Some(stop), event_loop: Some(event_loop) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(CONNECTION_PATIENCE * 2)).unwrap();
        stream
    }

    /// Returns everything that the server sends after this text.
    fn ask(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        read(stream)
    }

    fn get(&self, path: &str, headers: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.event_loop.take().unwrap().join().unwrap();
    }
}

/// Answers the requests of a server until the sender is dropped.
fn answer(mut server: MetricsServer) -> (oneshot::Sender<()>, thread::JoinHandle<()>) {
    let (stop, mut stopped) = oneshot::channel::<()>();
    let event_loop = thread::spawn(move || {
        let engine = Engine::new(Config::default(), BootTime(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    request = server.request() => request.answer(&engine),
                }
            }
        });
        server.finish(Duration::from_secs(2));
    });
    (stop, event_loop)
}

/// Reads to the end; a reset is an end, too.
fn read(mut stream: impl Read) -> String {
    let mut answer = Vec::new();
    let _end_or_reset = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> &str {
    answer
        .strip_prefix("HTTP/1.1 ")
        .or(answer.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .unwrap_or(answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn metrics_are_served_in_the_format_that_the_client_accepts() {
    let server = Running::new();
    let old = server.get("/metrics?x=1", "");
    assert_eq!(status(&old), "200", "{old}");
    assert!(old.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{old}");
    assert!(body(&old).contains("\nclosewait_sockets{state=\"close_wait\"} 0\n"));
    let new =
        server.get("/metrics", "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(new.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{new}");
    assert!(new.ends_with("# EOF\n"));
}

#[test]
fn protobuf_is_served_to_a_client_that_asks_for_it() {
    let server = Running::new();
    let mut stream = server.connect();
    let accept =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,*/*;q=0.1";
    write!(stream, "GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let (head, page) = (String::from_utf8(answer[..head].to_vec()).unwrap(), &answer[head + 4..]);
    let expected =
        "content-type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    assert_eq!(status(&head), "200");
    assert!(head.lines().any(|line| line == expected), "{head}");
    let (mut rest, mut names) = (page, Vec::new());
    while !rest.is_empty() {
        let length = prost::decode_length_delimiter(rest).unwrap();
        let message = &rest[prost::length_delimiter_len(length)..][..length];
        // The tag of the name, its length, and the name.
        assert_eq!(message[0], 0x0a);
        names.push(String::from_utf8(message[2..2 + usize::from(message[1])].to_vec()).unwrap());
        rest = &rest[prost::length_delimiter_len(length) + length..];
    }
    assert!(names.starts_with(&["closewait_sockets".to_owned()]), "{names:?}");
    assert!(names.ends_with(&["closewait_build_info".to_owned()]), "{names:?}");
}

#[test]
fn a_head_has_the_length_and_no_body() {
    let server = Running::new();
    let answer = server.ask(&format!("HEAD /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", server.address));
    assert_eq!((status(&answer), body(&answer)), ("200", ""));
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert!(length.parse::<usize>().unwrap() > 1000, "{answer}");
}

#[test]
fn the_probes_answer_as_long_as_the_event_loop_does() {
    let server = Running::new();
    for path in ["/healthz", "/readyz"] {
        let answer = server.get(path, "");
        assert_eq!((status(&answer), body(&answer)), ("200", "ok\n"), "{path}");
    }
    assert_eq!(status(&server.get("/", "")), "404");
}

#[test]
fn without_an_answer_of_the_event_loop_the_server_says_so() {
    let listener = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).bind().unwrap();
    let address = listener.local_address().unwrap();
    let server = MetricsServer::start(listener, AgentFacts::default(), None).unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        stream
    };
    // All at the same time: each waits for two seconds.
    let began = clock::now();
    let waiting = ["/metrics", "/healthz", "/readyz", "/metrics"].map(get);
    for answer in waiting.map(read) {
        assert_eq!((status(&answer), body(&answer)), ("503", "the event loop of the agent did not answer within 2s\n"));
    }
    let waited = clock::now().since(began);
    assert!(waited < LOOP_PATIENCE * 2, "{waited:?}");
    drop(server);
    let answer = read(get("/metrics"));
    assert_eq!((status(&answer), body(&answer)), ("503", "the agent ends\n"));
}

#[test]
fn only_get_and_head_without_a_body_are_answered() {
    let server = Running::new();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "BREW"] {
        let target = if method == "CONNECT" { "a:1" } else { "/metrics" };
        let answer = server.ask(&format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert!(matches!(status(&answer), "405" | "400"), "{method}: {answer}");
        assert!(status(&answer) == "400" || answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    }
    for (headers, content) in [
        ("Content-Length: 5\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: 99999999999\r\n", ""),
    ] {
        let answer = server.ask(&format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{content}"));
        assert!(matches!(status(&answer), "400" | ""), "{headers}: {answer}");
    }
}

#[test]
fn a_connection_carries_one_request() {
    let server = Running::new();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n";
    let answer = server.ask(&request.repeat(3));
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let hidden = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = server.ask(hidden);
    assert!(!answer.contains("closewait_"), "{answer}");
}

#[test]
fn large_and_broken_headers_are_refused() {
    let server = Running::new();
    for (headers, expected) in [
        (format!("X: {}\r\n", "x".repeat(MAX_HEADER_BYTES)), "431"),
        ("X: x\r\n".repeat(MAX_HEADERS + 1), "431"),
        ("no colon\r\n".to_owned(), "400"),
        ("X: \0\r\n".to_owned(), "400"),
    ] {
        let answer = server.get("/metrics", &headers);
        // The rest of what was sent may cause a reset that discards the answer.
        assert!(status(&answer) == expected || answer.is_empty(), "{}: {answer}", headers.len());
    }
    let long = format!("/{}", "x".repeat(MAX_HEADER_BYTES));
    assert!(matches!(status(&server.get(&long, "")), "414" | "431" | ""));
    for garbage in
        ["\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}\0\r\n\r\n", "GET /metrics\r\n\r\n"]
    {
        let answer = server.ask(garbage);
        assert!(matches!(status(&answer), "400" | ""), "{garbage:?}: {answer}");
    }
    assert_eq!(status(&server.get("/healthz", "")), "200", "and others are served");
}

#[test]
fn a_web_page_cannot_read_metrics_through_a_browser() {
    let server = Running::new();
    let with = |host: &str| server.ask(&format!("GET /metrics HTTP/1.1\r\n{host}\r\n"));
    for good in [
        "Host: 127.0.0.1:9753\r\n",
        "Host: localhost\r\n",
        "Host: LocalHost:1\r\n",
        "Host: [::1]:9753\r\n",
        "Host: ::1\r\n",
    ] {
        assert_eq!(status(&with(good)), "200", "{good}");
    }
    for bad in [
        "Host: evil.example:9753\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: \r\n",
    ] {
        assert!(matches!(status(&with(bad)), "421" | "400"), "{bad}");
    }
    assert_eq!(status(&server.ask("GET /metrics HTTP/1.0\r\n\r\n")), "200", "an old client names no host");
}

#[test]
fn clients_that_send_nothing_or_slowly_keep_no_place() {
    let server = Running::new();
    // More than there are places, and than the kernel's queue has by default.
    let mut slow: Vec<_> = (0..600).map(|_| server.connect()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        if number % 2 == 0 {
            // The server may have closed it already.
            let _closed = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
    }
    for _ in 0..20 {
        let began = clock::now();
        let answer = server.get("/metrics", "");
        assert_eq!(status(&answer), "200", "{answer}");
        let waited = clock::now().since(began);
        assert!(waited < HEADER_PATIENCE / 2, "{waited:?}");
    }
    // The oldest left at once, and the others when their time was over.
    let began = clock::now();
    let last = slow.pop().unwrap();
    assert!(matches!(status(&read(slow.remove(0))), "408" | "400" | ""));
    assert!(clock::now().since(began) < HEADER_PATIENCE / 2);
    assert!(matches!(status(&read(last)), "408" | "400" | ""));
    assert!(clock::now().since(began) < CONNECTION_PATIENCE);
}

#[test]
fn a_client_that_closes_its_side_after_the_request_gets_the_answer() {
    let server = Running::new();
    for _ in 0..5 {
        let mut stream = server.connect();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read(stream);
        assert_eq!(status(&answer), "200", "{answer}");
        assert!(body(&answer).contains("\nclosewait_sockets{state=\"close_wait\"} 0\n"));
    }
    // Without a complete request there is no answer.
    let mut stream = server.connect();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let began = clock::now();
    assert!(matches!(status(&read(stream)), "400" | ""));
    assert!(clock::now().since(began) < HEADER_PATIENCE / 2);
}

#[test]
fn a_unix_socket_is_for_the_user_and_group_of_the_agent_and_goes_away_with_it() {
    let folder = std::env::temp_dir().join(format!("closewait-metrics-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("metrics.sock");
    let listener = ListenAddress::Unix(path.clone()).bind().unwrap();
    let error = ListenAddress::Unix(path.clone()).bind().unwrap_err().to_string();
    assert!(error.contains("another agent answers at") && error.contains("\nhint: "), "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let (stop, event_loop) = answer(MetricsServer::start(listener, AgentFacts::default(), None).unwrap());
    let mut stream = UnixStream::connect(&path).unwrap();
    // A proxy may pass on any host: no browser connects here.
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy.example\r\n\r\n").unwrap();
    let answer = read(stream);
    assert_eq!(status(&answer), "200", "{answer}");
    drop(stop);
    event_loop.join().unwrap();
    assert!(!path.exists());
    std::fs::remove_dir(&folder).unwrap();
}
