//! Metrics of a real leak, scraped from agents that listen on TCP and on a Unix socket.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process,
    time::Duration,
};

use crate::{
    ability::{Ability, can},
    agent::{Agent, finish, run_command},
    clock::{patience, poll_until},
    confinement::{LASTING, assert_confined},
    leftovers,
    net::{Namespace, V4},
};

/// Agent with metrics, and the files of its sockets.
struct Scraped {
    agent: Agent,
    address: String,
    control: PathBuf,
}

impl Scraped {
    fn start(name: &str, address: String) -> Self {
        let control = path(&format!("{name}.control"));
        let arguments = ["--stuck-after", "1s", "--histogram-every", "3s", "--listen", &address];
        let arguments = [&arguments[..], &["--socket", control.to_str().expect("UTF-8")]].concat();
        Self { agent: Agent::start(&arguments), address, control }
    }

    /// Returns the body of an answer with status 200.
    fn get(&self, path: &str) -> String {
        match self.address.strip_prefix("unix:") {
            Some(file) => get(UnixStream::connect(file).expect("connect"), path),
            None => get(TcpStream::connect(&self.address).expect("connect"), path),
        }
    }

    /// Waits until a line of the page of metrics is as `wanted`, and returns the page.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut page = String::new();
        let found = poll_until(patience(), || {
            self.agent.watch(Duration::from_millis(100));
            page = self.get("/metrics");
            wanted(&page)
        });
        assert!(found, "{}: {what}: {page}", self.address);
        page
    }
}

/// Sends a request over a connection, and returns the body of the answer.
fn get(mut stream: impl Read + Write, path: &str) -> String {
    let accept = "Accept: application/openmetrics-text;version=1.0.0";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    body.to_owned()
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("closewait-metrics-{}-{name}", process::id()))
}

/// Returns the value of the only series with these parts.
fn value(page: &str, metric: &str, label: &str) -> Option<f64> {
    let mut found = page.lines().filter(|line| line.starts_with(&format!("{metric}{{")) && line.contains(label));
    let line = found.next()?;
    assert_eq!(found.next(), None, "{metric} {label}");
    let line = line.split(" # ").next().unwrap_or(line);
    Some(line.rsplit_once(' ')?.1.parse().expect("a number"))
}

#[test]
fn a_leak_is_scraped_over_tcp_and_over_a_unix_socket() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let file = path("http");
    let mut agents =
        [Scraped::start("tcp", free.to_string()), Scraped::start("unix", format!("unix:{}", file.display()))];
    let ns = Namespace::new();
    let (leak, _fin) = ns.waiting(V4);
    let port = format!("port=\"{}\"", leak.id.local.port());
    for scraped in &mut agents {
        // Also the thread of the server.
        assert_confined(&scraped.agent, &LASTING, &LASTING, 0);
        assert_eq!((scraped.get("/healthz"), scraped.get("/readyz")), ("ok\n".to_owned(), "ok\n".to_owned()));
        let page =
            scraped.wait_for("a stuck socket", |page| value(page, "closewait_stuck_sockets", &port) == Some(1.0));
        assert!(page.ends_with("# EOF\n"), "{page}");
        assert!(value(&page, "closewait_sockets", "state=\"close_wait\"").is_some_and(|count| count >= 1.0), "{page}");
        let line = page.lines().find(|line| line.starts_with("closewait_stuck_sockets{") && line.contains(&port));
        assert!(line.is_some_and(|line| line.contains("role=\"server\"")), "{line:?}");
        let entered = value(&page, "closewait_oldest_entered_timestamp_seconds", &port).expect("an entry");
        let age = crate::clock::wall_seconds() - entered;
        assert!((1.0..60.0).contains(&age), "{age}");
    }
    drop(leak.server);
    for scraped in &mut agents {
        let page =
            scraped.wait_for("no stuck socket", |page| value(page, "closewait_stuck_sockets", &port) == Some(0.0));
        assert!(value(&page, "closewait_exited_total", "how=\"closed\"").is_some_and(|count| count >= 1.0), "{page}");
    }
    // In a loop of its own: the series of the second agent end three seconds after the exit, too.
    for scraped in &mut agents {
        scraped.wait_for("no series of the group", |page| value(page, "closewait_stuck_sockets", &port).is_none());
        // An exemplar has the cookie of its socket.
        let page = scraped.wait_for("the dwell time", |page| !can(Ability::Cookie) || page.contains(" # {cookie=\""));
        assert!(page.contains("closewait_build_info{version=\""), "{page}");
    }
    for Scraped { agent, control, .. } in agents {
        assert_eq!(agent.stop().code, Some(0));
        assert!(!control.exists());
    }
    assert!(!file.exists(), "it goes away with its agent");
    leftovers::assert_none();
}

#[test]
fn a_port_in_use_is_reported_before_anything_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let ended = finish(&mut run_command(&["--listen", &address.to_string()]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    let said = format!("listening on {address} failed: another program has the address\nhint: ");
    assert!(ended.stderr.contains(&said), "{ended:?}");
    leftovers::assert_none();
}
