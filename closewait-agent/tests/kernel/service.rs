//! The agent as a service: what the service manager gets, and the configuration read again on SIGHUP.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixDatagram},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{
    agent::{Agent, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    confinement::{LASTING, assert_confined},
    hooks::Hook,
    net::{Namespace, V4},
    setup::{self, NOBODY, PublicBinary},
};

/// Time without a sign of life after which a service manager would end the agent.
const WATCHDOG: Duration = Duration::from_millis(1000);

/// Socket of a service manager, and a folder for the agent's files.
struct Manager {
    socket: UnixDatagram,
    folder: PathBuf,
    address: String,
    received: Vec<String>,
}

impl Manager {
    /// Creates a manager with an abstract socket.
    fn of_name(name: &str) -> Self {
        let folder = folder(name);
        let name = format!("closewait-manager-{}-{name}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self::of(socket, folder, format!("@{name}"))
    }

    /// Creates a manager with a socket in a folder.
    fn of_path(name: &str) -> Self {
        let folder = folder(name);
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        // As systemd's.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its mode");
        let address = path.to_str().expect("UTF-8").to_owned();
        Self::of(socket, folder, address)
    }

    fn of(socket: UnixDatagram, folder: PathBuf, address: String) -> Self {
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { socket, folder, address, received: Vec::new() }
    }

    /// Makes the command an agent of this manager.
    fn start(&self, command: &mut Command) -> Agent {
        command.env("NOTIFY_SOCKET", &self.address).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Agent::spawn(command)
    }

    /// Receives what has arrived. Returns the number of all messages.
    fn receive(&mut self) -> usize {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.received.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        self.received.len()
    }

    /// Waits for a message that begins like this, after the first `from` ones. Returns its index.
    fn wait_for(&mut self, from: usize, start: &str) -> usize {
        let mut found = None;
        poll_until(patience(), || {
            self.receive();
            found = self.received.iter().skip(from).position(|message| message.starts_with(start));
            found.is_some()
        });
        from + found.unwrap_or_else(|| panic!("no {start} in {:?}", self.received))
    }

    /// Writes the agent's file of settings.
    fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.join("closewait.toml");
        fs::write(&path, text).expect("a file");
        path
    }

    fn socket_of_agent(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new("/run").join(format!("closewait-service-{}-{name}", process::id()));
    let _earlier = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
    folder
}

#[test]
fn a_confined_agent_tells_its_manager_that_it_starts_lives_reloads_and_ends() {
    let binary = PublicBinary::new();
    let arguments = ["run", "--output", "json", "--stuck-after", "300ms", "--socket"];
    for (mut manager, user) in [
        (Manager::of_name("name"), 0),
        (Manager::of_path("path"), 0),
        (Manager::of_name("name-nobody"), NOBODY),
        (Manager::of_path("path-nobody"), NOBODY),
    ] {
        let mut command = Command::new(&binary.path);
        // An ordinary user's agent has no socket here.
        command.args(arguments).arg(manager.socket_of_agent());
        if user == NOBODY {
            setup::become_nobody(&mut command, &LASTING);
        }
        let agent = manager.start(&mut command);
        let starting = manager.wait_for(0, "STATUS=starting");
        let ready = manager.wait_for(0, "READY=1");
        assert!(starting == 0 && ready == 1, "{:?}", manager.received);
        assert_confined(&agent, &LASTING, &LASTING, user);
        let status = manager.wait_for(ready, "STATUS=");
        assert!(manager.received[status].contains(" in CLOSE_WAIT stuck"), "{:?}", manager.received);
        for _sign in 0..3 {
            let last = manager.receive();
            manager.wait_for(last, "WATCHDOG=1");
        }
        let last = manager.receive();
        agent.signal(libc::SIGHUP);
        let reloading = manager.wait_for(last, "RELOADING=1\nMONOTONIC_USEC=");
        manager.wait_for(reloading + 1, "READY=1");
        let last = manager.receive();
        let ended = agent.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("reloaded: no setting has changed"), "{}", ended.stderr);
        manager.wait_for(last, "STOPPING=1");
    }
}

#[test]
fn an_agent_that_hangs_gives_no_sign_of_life() {
    let mut manager = Manager::of_name("hangs");
    let mut command = run_command(&["--socket"]);
    let agent = manager.start(command.arg(manager.socket_of_agent()));
    manager.wait_for(0, "WATCHDOG=1");
    agent.signal(libc::SIGSTOP);
    // What was sent before that.
    std::thread::sleep(WATCHDOG / 10);
    let before = manager.receive();
    std::thread::sleep(WATCHDOG * 2);
    assert_eq!(manager.receive(), before, "{:?}", manager.received);
    agent.signal(libc::SIGCONT);
    manager.wait_for(before, "WATCHDOG=1");
    assert_eq!(agent.stop().code, Some(0));
}

#[test]
fn a_manager_that_does_not_read_delays_nothing() {
    let mut manager = Manager::of_name("deaf");
    let other = UnixDatagram::unbound().expect("a socket");
    let address = SocketAddr::from_abstract_name(&manager.address[1..]).expect("a name");
    other.connect_addr(&address).expect("a connection");
    other.set_nonblocking(true).expect("a socket that does not block");
    let filled = (0..100_000).take_while(|_| other.send(b"X=1").is_ok()).count();
    let mut command = run_command(&["--stuck-after", "300ms", "--socket"]);
    let mut agent = manager.start(command.arg(manager.socket_of_agent()));
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    // It gets what matters when it reads again.
    let first = manager.receive();
    assert!(first >= filled, "{first} of {filled}");
    manager.wait_for(filled, "READY=1");
    let began = boot_seconds();
    assert_eq!(agent.stop().code, Some(0));
    let took = boot_seconds() - began;
    assert!(took < 5.0 * f64::from(slowness()), "it took {took} s to end");
}

#[test]
fn hooks_do_not_get_the_managers_variables_and_their_filter_is_reloaded() {
    let ns = Namespace::new();
    let hook = Hook::new("reload", &ns, "env > $dir/env; touch $dir/done");
    let mut manager = Manager::of_name("reload");
    let program = hook.program();
    let classes = "on-stuck-class = [\"hung\", \"leak\", \"pool\", \"never_accepted\", \"transient\", \"unknown\"]";
    let settings = |certainty: &str| {
        format!(
            "stuck-after = \"300ms\"\non-stuck = \"{program}\"\n{classes}\nmin-certainty = \"{certainty}\"\nhook-every = \"0s\"\n"
        )
    };
    let config = manager.write(&settings("fact"));
    let mut command = run_command(&["--config"]);
    let mut agent = manager.start(command.arg(&config).arg("--socket").arg(manager.socket_of_agent()));
    let (first, _fin) = ns.waiting(V4);
    let event = agent.wait_for_socket("stuck", &first.id);
    assert_ne!(event["verdict"]["certainty"], "fact", "{event}");
    let done = Path::new(&program).with_file_name("done");
    assert!(!poll_until(Duration::from_secs(1) * slowness(), || done.exists()), "not certain enough");

    // A broken file changes nothing, and the agent goes on.
    let reload = |manager: &mut Manager, agent: &Agent, text: &str| {
        manager.write(text);
        let last = manager.receive();
        agent.signal(libc::SIGHUP);
        let reloading = manager.wait_for(last, "RELOADING=1");
        manager.wait_for(reloading + 1, "READY=1");
    };
    reload(&mut manager, &agent, "min-certainty = \"low\"\nstuck-affter = \"1s\"\n");
    let (second, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &second.id);
    assert!(!poll_until(Duration::from_secs(1) * slowness(), || done.exists()), "the old filter");

    reload(&mut manager, &agent, &settings("low").replace("300ms", "400ms"));
    let (third, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &third.id);
    assert!(poll_until(patience(), || done.exists()), "the new filter");
    let environment = hook.read("env");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!environment.contains(name), "{environment}");
    }
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0));
    for line in [
        "closewait.toml:2:1: unknown key stuck-affter",
        "hint: the nearest key is stuck-after",
        "and the agent continues with the old one",
        "reloaded: min-certainty is low",
        "stuck-after needs a restart: 400ms",
    ] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
}

#[test]
fn an_agent_ends_with_its_terminal_and_not_under_nohup() {
    for nohup in [false, true] {
        let manager = Manager::of_name(if nohup { "nohup" } else { "terminal" });
        let (master, terminal) = open_terminal();
        let mut command = run_command(&["--socket"]);
        command.arg(manager.socket_of_agent());
        let descriptor = terminal.as_raw_fd();
        let begin_session = move || {
            // SAFETY: takes nothing, and has no effect on memory.
            if unsafe { libc::setsid() } < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: takes numbers only; the descriptor is the child's copy.
            if unsafe { libc::ioctl(descriptor, libc::TIOCSCTTY, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
            // The tests themselves may run under nohup.
            let action = if nohup { libc::SIG_IGN } else { libc::SIG_DFL };
            // SAFETY: takes numbers only.
            unsafe { libc::signal(libc::SIGHUP, action) };
            Ok(())
        };
        // SAFETY: between fork and exec, it makes only system calls.
        unsafe { command.pre_exec(begin_session) };
        let agent = Agent::spawn(&mut command);
        drop(terminal);
        drop(master);
        let ended = if nohup {
            std::thread::sleep(Duration::from_secs(1));
            agent.stop()
        } else {
            agent.join()
        };
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("reloaded: "), nohup, "{}", ended.stderr);
    }
}

/// Opens a pseudo-terminal: both of its ends, which no program inherits.
fn open_terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("its owner");
    unlockpt(&master).expect("its lock");
    let path = ptsname(&master, Vec::new()).expect("its path");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(path.as_c_str(), flags, Mode::empty()).expect("its other end");
    (master, terminal)
}
