//! Export over OTLP by a confined agent, to a collector of the test.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use crate::{
    agent::{Agent, finish, run_command},
    clock::{patience, poll_until},
    confinement::{LASTING, assert_confined},
    leftovers,
    net::{Namespace, V4},
};

/// Request of the agent: its first line and headers, and its body.
type Exported = (String, Vec<u8>);

/// Answers every request with 200, and hands it over.
fn collect(listener: &TcpListener, to: &Sender<Exported>) {
    for stream in listener.incoming() {
        let Some(exported) = stream.ok().and_then(answer) else { continue };
        if to.send(exported).is_err() {
            return;
        }
    }
}

fn answer(mut stream: TcpStream) -> Option<Exported> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    Some((head, body))
}

/// Texts stand in protobuf as they are.
fn contains(requests: &[Exported], path: &str, text: &str) -> bool {
    let has = |body: &[u8]| body.windows(text.len()).any(|window| window == text.as_bytes());
    requests.iter().any(|(head, body)| head.starts_with(&format!("post {path} ")) && has(body))
}

#[test]
fn a_confined_agent_exports_metrics_and_events_and_its_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    // A name: the agent looks it up after it has dropped its privileges.
    let endpoint = format!("http://localhost:{}/base", listener.local_addr().expect("an address").port());
    let (to, requests): (_, Receiver<Exported>) = channel();
    thread::spawn(move || collect(&listener, &to));
    let ns = Namespace::new();
    let mut command = run_command(&["--stuck-after", "300ms", "--events", "stuck", "--otlp-endpoint", &endpoint]);
    command.env("OTEL_METRIC_EXPORT_INTERVAL", "500").env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret");
    let agent = Agent::spawn(&mut command);
    let (leak, _fin) = ns.waiting(V4);
    let mut received = Vec::new();
    let mut wait_for = |what: &str, wanted: &dyn Fn(&[Exported]) -> bool| {
        let found = poll_until(patience(), || {
            received.extend(requests.try_iter());
            wanted(&received)
        });
        assert!(found, "{what}: {} requests", received.len());
    };
    wait_for("metrics", &|all| contains(all, "/base/v1/metrics", "closewait.socket.count"));
    wait_for("a stuck socket", &|all| contains(all, "/base/v1/logs", "closewait.socket.stuck"));
    assert_confined(&agent, &LASTING, &LASTING, 0);
    let ended = agent.stop();
    wait_for("the end", &|all| contains(all, "/base/v1/logs", "closewait.agent.stop"));
    assert!(received.iter().all(|(head, _)| head.contains("x-key: s3cret")));
    assert!(!ended.stderr.contains("s3cret") && !ended.stderr.contains("OTLP"), "{}", ended.stderr);
    drop(leak);
    leftovers::assert_none();
}

#[test]
fn a_setting_that_cannot_be_used_ends_the_start() {
    let ended = finish(run_command(&["--for", "1s"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318"));
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used: https is not supported"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("\nhint: "), "{}", ended.stderr);
    leftovers::assert_none();
}
