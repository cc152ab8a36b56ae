//! Local HTTP service for one test: it answers as it is told, and records the requests.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

/// Behavior towards one connection.
#[derive(Clone, Debug)]
pub enum Behavior {
    /// Status, header lines and body of an answer.
    Answer(u16, String, String),
    /// Text in place of an HTTP answer.
    Garbage,
    /// These bytes, status line included.
    Raw(String),
    /// No answer.
    Hang,
    /// An answer that never ends: one byte every 100 ms.
    Trickle,
    /// The connection ends without an answer.
    Close,
}

/// Answer without more headers.
pub fn answer(status: u16, body: &str) -> Behavior {
    Behavior::Answer(status, String::new(), body.to_owned())
}

/// Request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// Header lines.
    pub headers: Vec<String>,
    /// Bytes of the body.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// Running service.
#[derive(Debug)]
pub struct Sink {
    /// Address on loopback.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts a service with one behavior for each connection; the last one is also for all later connections.
    pub fn new(script: &[Behavior]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (requests, ends) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen, end, script) = (Arc::clone(&requests), Arc::clone(&ends), script.to_vec());
        let thread = thread::spawn(move || serve(&listener, &script, &seen, &end));
        Self { address, requests, ends, thread: Some(thread) }
    }

    /// Returns a URL of this service.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic in the service").clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(listener: &TcpListener, script: &[Behavior], seen: &Mutex<Vec<Request>>, ends: &Arc<AtomicBool>) {
    for number in 0.. {
        let (stream, _from) = listener.accept().expect("a connection");
        if ends.load(Ordering::SeqCst) {
            return;
        }
        let Some(request) = read(&stream) else { continue };
        seen.lock().expect("no panic in a test").push(request);
        let behavior = script.get(number).or(script.last()).expect("a behavior").clone();
        let ends = Arc::clone(ends);
        thread::spawn(move || behave(stream, &behavior, &ends));
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut from = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    let line = lines.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers: lines, body })
}

fn behave(mut stream: TcpStream, behavior: &Behavior, ends: &AtomicBool) {
    // The hook may have given up: then nobody reads, and there is nothing to test.
    let pause = || thread::sleep(Duration::from_millis(100));
    let _unread = match behavior {
        Behavior::Answer(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} Text\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        }
        Behavior::Garbage => stream.write_all(b"\x1b[31mSSH-2.0-OpenSSH\r\n\r\n"),
        Behavior::Raw(text) => stream.write_all(text.as_bytes()),
        Behavior::Hang => {
            while !ends.load(Ordering::SeqCst) {
                pause();
            }
            Ok(())
        }
        Behavior::Trickle => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
            while sent.is_ok() && !ends.load(Ordering::SeqCst) {
                pause();
                sent = stream.write_all(b"x");
            }
            sent
        }
        Behavior::Close => Ok(()),
    };
}
