//! Real receivers from PyPI, `oteltap` and `rotel-agent`, if `PATH` has them.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tests_support::{engine::has_engine, http::free_port};

use super::*;

/// Running receiver, whose output goes to a file.
struct Receiver(Child);

impl Receiver {
    fn start(program: &str, arguments: &[String], address: SocketAddr, output: &Path) -> Option<Self> {
        let to = File::options().append(true).create(true).open(output).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).env("PYTHONUNBUFFERED", "1").stdin(Stdio::null());
        command.stdout(to.try_clone().unwrap()).stderr(to);
        let child = command.spawn();
        if !has_engine(program, child.is_ok()) {
            return None;
        }
        eventually(|| TcpStream::connect(address).is_ok());
        Some(Self(child.unwrap()))
    }

    /// Ends the receiver, which may finish its work, or not.
    fn end(mut self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
        self.0.wait().unwrap();
    }
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port().unwrap()).into()
}

/// Returns the identifiers of the records in the output of a receiver.
fn uids(output: &Path, instance: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(output).unwrap();
    let start = format!("{instance}-");
    let found = text.match_indices(&start);
    found
        .map(|(at, _)| {
            text[at..].split(|one: char| !one.is_ascii_alphanumeric() && one != '-').next().unwrap().to_owned()
        })
        .collect()
}

/// Sends events to a receiver that ends and starts again meanwhile, and compares what it printed with what was sent.
fn restarts(program: &str, arguments: impl Fn(SocketAddr) -> Vec<String>, signal: rustix::process::Signal, gzip: bool) {
    let address = free_address();
    let output: PathBuf = std::env::temp_dir().join(format!("closewait-{program}-{}", std::process::id()));
    let _fresh = fs::remove_file(&output);
    let arguments = arguments(address);
    let Some(mut receiver) = Receiver::start(program, &arguments, address, &output) else { return };
    let timing = ExportTiming { batch_events: 100, ..timing() };
    let mut logs = signal_settings(address, gzip);
    logs.timeout = Duration::from_secs(5);
    let mut running = Running::new(None, Some(logs), timing);
    let mut sent = 0;
    for round in 0..3 {
        if round > 0 {
            // A receiver that acknowledges a record before it prints it loses it when it is killed between the two.
            running.settled(sent);
            let (_, delivered, _) = running.counts();
            let instance = &running.instance;
            eventually(|| uids(&output, instance).len() as u64 >= delivered);
            receiver.end(signal);
            running.send(200);
            sent += 200;
            std::thread::sleep(millis(200));
            receiver = Receiver::start(program, &arguments, address, &output).unwrap();
        }
        for _ in 0..30 {
            running.send(20);
            sent += 20;
            std::thread::sleep(millis(10));
        }
    }
    running.settled(sent);
    let instance = running.instance.clone();
    let (handed_over, delivered, dropped) = running.end(Duration::from_secs(5));
    receiver.end(rustix::process::Signal::TERM);
    let received = uids(&output, &instance).len() as u64;
    assert_eq!((handed_over, delivered + dropped), (sent, sent), "{program}");
    assert_eq!(received + dropped, sent, "{program}: every event is received or counted; {}", output.display());
    fs::remove_file(&output).unwrap();
}

fn signal_settings(address: SocketAddr, gzip: bool) -> SignalSettings {
    signal(Signal::Logs, address, gzip)
}

#[test]
fn oteltap_killed_and_restarted_has_every_event_that_is_not_counted() {
    let arguments = |address: SocketAddr| vec!["--port".to_owned(), address.port().to_string()];
    // It does not decompress.
    restarts("oteltap", arguments, rustix::process::Signal::KILL, false);
}

#[test]
fn rotel_restarted_has_every_event_that_is_not_counted() {
    let grpc = free_address().to_string();
    let arguments = |address: SocketAddr| {
        let (http, verbosity) = (address.to_string(), "--debug-log-verbosity");
        [
            "start",
            "--otlp-http-endpoint",
            &http,
            "--otlp-grpc-endpoint",
            &grpc,
            "--debug-log",
            "logs",
            verbosity,
            "detailed",
        ]
        .into_iter()
        .chain(["--exporter", "blackhole"])
        .map(str::to_owned)
        .collect()
    };
    // It prints what it has accepted a moment later: killed, it would lose that.
    restarts("rotel-agent", arguments, rustix::process::Signal::TERM, true);
}
