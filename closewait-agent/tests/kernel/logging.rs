//! A log, a standard output and a recording without a reader: the agent continues, answers and ends in time.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use crate::{
    agent::{Agent, Running, closewait, finish},
    clock::{boot_seconds, patience, poll_until, slowness},
    net::{Namespace, V4},
    socket::check,
};

/// Maximum time from SIGTERM to the end of an agent without readers, seconds.
const END: f64 = 5.0;

/// Folder with FIFOs whose readers are this test.
pub(crate) struct Fifos(pub(crate) PathBuf);

impl Fifos {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-fifos-{}-{name}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    /// Creates a FIFO of 4 KiB with a reader that does not read by itself.
    pub(crate) fn unread(&self, name: &str) -> (String, File) {
        let path = self.path(name);
        let text = CString::new(path.as_str()).expect("no zero in it");
        // SAFETY: the path ends in a zero and outlives the call.
        check(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, "mkfifo");
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a FIFO");
        // SAFETY: takes numbers only; the descriptor is open.
        let size = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        assert_eq!(size, 4096);
        (path, reader)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Returns `closewait` with these arguments and redirections.
    fn command(&self, arguments: &[&str], redirections: &str) -> Command {
        let mut command = Command::new("sh");
        let script = format!("exec \"$@\" {redirections}");
        let closewait = closewait(arguments);
        command.args(["-c", &script, "sh"]).arg(closewait.get_program()).args(closewait.get_args());
        command.env_remove("RUST_LOG");
        command
    }

    /// Returns an agent with these redirections, whose control socket is in the folder.
    pub(crate) fn agent(&self, arguments: &[&str], redirections: &str) -> Command {
        let socket = self.path("agent.sock");
        let run = ["run", "--output", "json", "--stuck-after", "300ms", "--socket", &socket];
        self.command(&[&run[..], arguments].concat(), redirections)
    }

    /// Checks that the agent answers `list`, without a scan of the command.
    fn assert_answers(&self) {
        let listed = finish(&mut closewait(&["list", "--output", "json", "--socket", &self.path("agent.sock")]));
        assert_eq!(listed.code, Some(0), "{listed:?}");
        assert!(!listed.stderr.contains("scanning without it"), "{listed:?}");
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // If this fails, the files stay in the folder for temporary files, which is harmless.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Reads present and future data, until all writers have gone.
fn read_all(mut reader: File) -> String {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    let began = boot_seconds();
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return String::from_utf8_lossy(&all).into_owned(),
            Ok(length) => all.extend(&piece[..length]),
            Err(_empty) => thread::sleep(Duration::from_millis(1)),
        }
        assert!(boot_seconds() - began < patience().as_secs_f64(), "the FIFO has a writer still");
    }
}

/// Returns the number of bytes that a FIFO has now.
fn waiting(reader: &File) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: `bytes` is valid for a write and outlives the call.
    check(unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }, "FIONREAD");
    bytes
}

/// Ends an agent. Returns the time that it took, seconds.
fn terminate(agent: &mut Running) -> f64 {
    let began = boot_seconds();
    // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
    check(unsafe { libc::kill(agent.pid() as libc::pid_t, libc::SIGTERM) }, "kill");
    agent.wait();
    boot_seconds() - began
}

#[test]
fn an_agent_whose_log_has_no_reader_continues_and_tells_what_it_dropped() {
    let (ns, fifos) = (Namespace::new(), Fifos::new("log"));
    let (log, reader) = fifos.unread("log");
    // Many histograms, each a line of the log at this level.
    let listeners: Vec<_> = (0..100).map(|_| ns.listen(V4)).collect();
    let pairs: Vec<_> = listeners.iter().map(|one| ns.pair_at(one, one.local_addr().expect("an address"))).collect();
    let arguments = ["--histogram-every", "10ms"];
    let mut agent = Agent::spawn(fifos.agent(&arguments, &format!("2> {log}")).env("CLOSEWAIT_LOG", "debug"));
    for pair in &pairs {
        pair.fin();
    }
    assert!(poll_until(patience(), || waiting(&reader) >= 4000), "the pipe is full: {}", waiting(&reader));
    for pair in &pairs {
        agent.wait_for_socket("stuck", &pair.id);
    }
    let (late, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &late.id);
    agent.wait_for("a loss", |event| event["event"] == "health" && event["log_lines_dropped"] != 0);
    fifos.assert_answers();
    let began = boot_seconds();
    agent.signal(libc::SIGTERM);
    let reading = thread::spawn(move || read_all(reader));
    let ended = agent.join();
    assert!(boot_seconds() - began < END);
    assert_ne!(ended.totals()["log_lines_dropped"], 0);
    let log = reading.join().expect("the log");
    assert!(log.contains(" lines of the log were dropped here: standard error was not read\n"), "{log:.3000}");
    assert!(log.ends_with('\n'), "the last line is whole");
}

#[test]
fn sigterm_ends_an_agent_without_readers() {
    let (ns, fifos) = (Namespace::new(), Fifos::new("all"));
    let [(log, log_reader), (output, output_reader), (recording, recording_reader)] =
        ["log", "output", "recording"].map(|name| fifos.unread(name));
    // Every FIFO is full.
    for path in [&log, &output, &recording] {
        fill(Path::new(path));
    }
    let readers = [&log_reader, &output_reader, &recording_reader];
    let before = readers.map(waiting);
    let hook = fifos.path("hook");
    fs::write(&hook, "#!/bin/sh\ntouch ${0%/*}/runs\ntrap '' TERM\nwhile :; do sleep 1; done\n").expect("a script");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).expect("chmod");
    let hooks = ["--on-stuck", &hook, "--on-stuck-class", "transient,unknown"];
    let arguments = [&["--events", "all", "--histogram-every", "20ms", "--record", &recording], &hooks[..]].concat();
    let mut agent = Running::spawn(&mut fifos.agent(&arguments, &format!("> {output} 2> {log}")));
    let pairs: Vec<_> = (0..100).map(|_| ns.waiting(V4)).collect();
    let runs = || PathBuf::from(fifos.path("runs")).exists();
    assert!(poll_until(patience(), runs), "the agent has found what is stuck, and its hook runs");
    assert_eq!(readers.map(waiting), before, "nothing was written");
    fifos.assert_answers();
    let took = terminate(&mut agent);
    assert!(took < END * f64::from(slowness()), "{took} s");
    drop(pairs);
}

#[test]
fn a_command_tells_its_errors_to_a_reader_that_is_there_and_ends_without_one() {
    let fifos = Fifos::new("command");
    let fails = ["replay", "/no/such/recording"];
    let (log, mut reader) = fifos.unread("alive");
    // Keeps the FIFO open while the command ends.
    let mut agent = Running::spawn(&mut fifos.command(&fails, &format!("2> {log}")));
    assert_eq!(agent.wait().code(), Some(1));
    let mut text = vec![0; 4096];
    let length = reader.read(&mut text).expect("the error");
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    assert!(text.contains("No such file") && text.contains("\nhint: "), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "a cause is told once: {text}");

    let (log, reader) = fifos.unread("unread");
    fill(Path::new(&log));
    for arguments in [&fails[..], &["run", "--no-such-flag"], &["kill", "--yes"]] {
        let began = boot_seconds();
        let mut agent = Running::spawn(&mut fifos.command(arguments, &format!("2> {log}")));
        assert!(agent.wait().code().is_some_and(|code| code > 0), "{arguments:?}");
        assert!(boot_seconds() - began < 8.0 * f64::from(slowness()), "{arguments:?}");
    }
    drop(reader);
}

/// Fills a FIFO that has no active reader.
fn fill(path: &Path) {
    let mut to = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).expect("a FIFO");
    while to.write(&[b'x'; 512]).is_ok() {}
}

#[test]
fn a_level_that_is_misspelled_is_reported_and_errors_are_too() {
    for level in ["inof", "closewait", "closewait=inof"] {
        let ended = finish(closewait(&["kill", "--yes"]).env("CLOSEWAIT_LOG", level));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(&format!("CLOSEWAIT_LOG has an unknown level: {level}\nhint: ")), "{ended:?}");
        assert!(ended.stderr.contains("closewait: error: "), "{ended:?}");
    }
    let quiet = finish(closewait(&["kill", "--yes"]).env("CLOSEWAIT_LOG", "off"));
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(2), ""));
}
