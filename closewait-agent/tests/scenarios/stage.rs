//! Stage of a scenario: a network namespace, the programs in it, and their clients.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    agent::Running,
    cgroup::Cgroup,
    clock::{patience, poll_until},
    net::Namespace,
    proc,
};

/// Time limit of programs, longer than any scenario, seconds: programs that outlive the test end by themselves.
const LIMIT_SECONDS: u32 = 150;

const BEFORE_PATH: &str = "GET ";
const AFTER_PATH: &str = " HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Returns the folder that `cargo xtask scenarios` prepares.
pub(crate) fn ready() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("scenarios")
}

/// Clients of a server, for [`Stage::clients`].
pub(crate) struct Clients {
    pub(crate) port: u16,
    pub(crate) path: &'static str,
    /// Number of clients.
    pub(crate) count: u32,
    /// Seconds between the requests of two clients.
    pub(crate) every: f64,
    /// Seconds after which a client without an answer closes its connection.
    pub(crate) patience: f64,
}

pub(crate) struct Stage {
    pub(crate) ns: Namespace,
    programs: Vec<Running>,
    log: PathBuf,
    cgroup: Option<Cgroup>,
    /// Time limit of programs, seconds.
    limit: u32,
}

impl Stage {
    /// Creates a stage; `name` is that of a scenario.
    pub(crate) fn new(name: &str) -> Self {
        Self::lasting(name, LIMIT_SECONDS)
    }

    /// Creates a stage whose programs end after this time, seconds.
    pub(crate) fn lasting(name: &str, limit: u32) -> Self {
        let logs = ready().join("logs");
        fs::create_dir_all(&logs).expect("a folder for logs");
        let log = logs.join(format!("{name}.log"));
        File::create(&log).expect("a log");
        Self { ns: Namespace::new(), programs: Vec::new(), log, cgroup: None, limit }
    }

    /// Starts a program.
    pub(crate) fn start(&mut self, program: impl AsRef<Path>, arguments: &[&str]) {
        let log = File::options().append(true).open(&self.log).expect("the log");
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", &self.limit.to_string()]).arg(program.as_ref()).args(arguments);
        command.current_dir(programs()).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log")).stderr(log);
        let child = self.ns.run(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self.programs.push(Running(child));
    }

    /// Starts a program in Python that needs only its standard library.
    pub(crate) fn python(&mut self, file: &str) {
        self.start("python3", &[file]);
    }

    /// Starts a program in Python with arguments.
    pub(crate) fn python_with(&mut self, file: &str, arguments: &[&str]) {
        self.start("python3", &[&[file], arguments].concat());
    }

    /// Starts clients that ask for a path again and again, and give up if they get no answer in time.
    pub(crate) fn clients(&mut self, clients: &Clients) {
        let Clients { port, path, count, every, patience } = clients;
        let numbers = [port.to_string(), count.to_string(), every.to_string(), patience.to_string()];
        let [port, count, every, patience] = numbers.each_ref().map(String::as_str);
        self.python_with("clients.py", &[port, path, count, every, patience]);
    }

    /// Starts a program of the virtual environment.
    pub(crate) fn venv(&mut self, program: &str, arguments: &[&str]) {
        self.start(ready().join("venv/bin").join(program), arguments);
    }

    /// Starts a program in Go.
    pub(crate) fn go(&mut self, program: &str) {
        self.start(ready().join("bin").join(program), &[]);
    }

    /// Stops the first program, as Ctrl-Z does.
    pub(crate) fn stop(&self) {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::kill(self.first() as libc::pid_t, libc::SIGSTOP) };
        assert_eq!(result, 0, "kill: {}", io::Error::last_os_error());
    }

    /// Limits the first program to a share of one CPU, in percent.
    pub(crate) fn limit_cpu(&mut self, percent: u32) {
        let pid = self.first();
        self.cgroup.insert(Cgroup::with_cpu(percent)).add(pid);
    }

    /// Freezes the first program, as a paused container is.
    pub(crate) fn freeze(&mut self) {
        let pid = self.first();
        let group = self.cgroup.insert(Cgroup::freezer());
        group.add(pid);
        group.freeze();
    }

    /// Process id of the first program that was started, which is a child of `timeout`.
    pub(crate) fn first(&self) -> u32 {
        let timeout = self.programs.first().expect("a program").pid();
        let mut pids = proc::inhabitants(&self.ns).into_iter();
        pids.find(|pid| proc::parent(*pid) == Some(timeout)).unwrap_or_else(|| panic!("it has ended{}", self.said()))
    }

    /// Waits until somebody listens at this port.
    pub(crate) fn listens(&self, port: u16) {
        assert!(poll_until(patience(), || proc::listens(&self.ns, port)), "nobody listens at {port}{}", self.said());
    }

    /// Waits until a program has printed this.
    pub(crate) fn says(&self, text: &str) {
        let said = || fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text));
        assert!(poll_until(patience(), said), "nobody says {text:?}{}", self.said());
    }

    /// Waits until at least `count` sockets are in CLOSE_WAIT.
    pub(crate) fn has_waiting(&self, count: usize) {
        let there = || proc::close_wait(&self.ns).len() >= count;
        assert!(poll_until(patience(), there), "{} are in CLOSE_WAIT{}", proc::close_wait(&self.ns).len(), self.said());
    }

    /// Returns a client that sends this and waits for nothing.
    pub(crate) fn visit(&self, port: u16, request: &str) -> TcpStream {
        let mut client = self.ns.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        client.write_all(request.as_bytes()).expect("a request");
        client
    }

    /// Returns a client that requests a path and waits for nothing.
    pub(crate) fn ask(&self, port: u16, path: &str) -> TcpStream {
        self.visit(port, &format!("{BEFORE_PATH}{path}{AFTER_PATH}"))
    }

    /// Returns a client that has received its answer.
    pub(crate) fn answered(&self, port: u16, path: &str) -> TcpStream {
        let mut client = self.ask(port, path);
        client.set_read_timeout(Some(patience())).expect("a limit");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let mut buffer = [0; 4096];
            let size = client.read(&mut buffer).unwrap_or_else(|error| panic!("{error}{}", self.said()));
            assert!(size > 0, "the answer ended too early: {:?}{}", String::from_utf8_lossy(&answer), self.said());
            answer.extend_from_slice(&buffer[..size]);
        }
        client
    }

    /// Returns the output of the programs, for the message of a failure.
    fn said(&self) -> String {
        format!("; {} has:\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Only the programs and their children are in it: this process's threads have left.
        for pid in proc::inhabitants(&self.ns) {
            // SAFETY: takes numbers only.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
        self.cgroup.iter().for_each(Cgroup::thaw);
        // A group can be removed once its processes have gone.
        self.programs.clear();
        if let Some(group) = self.cgroup.take() {
            assert!(poll_until(patience(), || group.remove()) || thread::panicking(), "the cgroup cannot be removed");
        }
    }
}

/// Returns `unread_bytes` of a socket with this unread request: the FIN counts as one.
pub(crate) const fn unread(path: &str) -> u64 {
    (BEFORE_PATH.len() + path.len() + AFTER_PATH.len()) as u64 + 1
}

/// Returns the folder of the programs' sources.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/programs")
}

pub(crate) fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
