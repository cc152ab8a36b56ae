//! `--stacks-jvm`: the process that asks Java virtual machines for the agent, and programs that it leaves alone. The scenarios have
//! machines that answer.

use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpStream,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::PathBuf,
    process::{self, Command},
    time::Duration,
};

use crate::{
    agent::{Agent, Running, closewait, finish},
    clock::{patience, poll_until},
    confinement::{LASTING, assert_confined},
    net::{Id, Namespace, V4},
    setup::capability,
};

const ARGUMENTS: [&str; 5] = ["--stuck-after", "300ms", "--stacks", "auto", "--stacks-jvm"];

/// Returns the lines of `/proc/PID/status`.
pub(crate) fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Returns the process of this name that an agent has started.
pub(crate) fn helper_of(agent: u32, name: &str) -> u32 {
    let parent = agent.to_string();
    let mut helper = None;
    let found = || {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        helper = pids.find(|pid| {
            let status = status(*pid);
            status.get("PPid") == Some(&parent) && status.get("Name").is_some_and(|own| own == name)
        });
        helper.is_some()
    };
    assert!(poll_until(patience(), found), "the agent has no helper");
    helper.expect("found")
}

fn has_ended(pid: u32) -> bool {
    status(pid).get("State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: takes numbers only.
    let sent = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(sent, 0, "kill: {}", io::Error::last_os_error());
}

#[test]
fn the_helper_keeps_four_capabilities_and_the_agent_no_more_than_before() {
    let agent = Agent::start(&ARGUMENTS);
    let helper = helper_of(agent.pid(), "closewait-jvm");
    let kept = [capability::DAC_READ_SEARCH, capability::SETGID, capability::SETUID, capability::SYS_PTRACE];
    let kept = format!("{:016x}", kept.iter().fold(0_u64, |all, one| all | 1 << one));
    let none = format!("{:016x}", 0);
    let expected = [
        ("CapInh", none.as_str()),
        ("CapPrm", &kept),
        ("CapEff", &kept),
        ("CapBnd", &kept),
        ("CapAmb", &none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    let is_confined = || {
        let status = status(helper);
        expected.iter().all(|(name, value)| status.get(*name).is_some_and(|found| found == value))
    };
    assert!(poll_until(patience(), is_confined), "{:?}", status(helper));
    assert_confined(&agent, &LASTING, &LASTING, 0);
    agent.stop().totals();
    assert!(poll_until(patience(), || has_ended(helper)));
}

#[test]
fn the_helper_ends_with_the_agent_and_only_with_it() {
    let agent = Agent::start(&ARGUMENTS);
    let helper = helper_of(agent.pid(), "closewait-jvm");
    // A user who ends the agent may signal both.
    for ignored in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal(helper, ignored);
    }
    assert!(!poll_until(Duration::from_millis(300), || has_ended(helper)));
    signal(agent.pid(), libc::SIGKILL);
    assert!(poll_until(patience(), || has_ended(helper)), "it outlives the agent");
}

#[test]
fn an_agent_whose_helper_was_killed_goes_on() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&ARGUMENTS);
    signal(helper_of(agent.pid(), "closewait-jvm"), libc::SIGKILL);
    let pretender = Pretender::new("killed", &ns);
    agent.wait_for_socket("stuck", &pretender.id);
    agent.wait_for("its process", |event| event["process"]["pid"] == pretender.process.pid());
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("for the agent has ended"), "{}", ended.stderr);
}

/// Program with the name of HotSpot's code, which SIGQUIT would end, and its socket in CLOSE_WAIT.
struct Pretender {
    folder: PathBuf,
    process: Running,
    id: Id,
    /// Open client, so that the socket exits only by its owner.
    _client: TcpStream,
}

impl Pretender {
    fn new(name: &str, ns: &Namespace) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-pretender-{}-{name}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        let program = folder.join("libjvm.so");
        let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| PathBuf::from(path).exists());
        fs::copy(sleep.expect("sleep"), &program).expect("a copy");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        let pair = ns.pair(V4);
        let raw = pair.server.as_raw_fd();
        let keep_open = move || {
            // SAFETY: takes numbers only; the descriptor is the child's copy.
            if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        let mut command = Command::new(&program);
        command.arg0("sleep").arg("1000");
        // SAFETY: between fork and exec, it makes only one system call.
        unsafe { command.pre_exec(keep_open) };
        let process = Running::spawn(&mut command);
        pair.fin();
        Self { folder, process, id: pair.id, _client: pair.client }
    }
}

impl Drop for Pretender {
    fn drop(&mut self) {
        // If this fails, the files stay in the folder for temporary files, which is harmless.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_program_that_only_looks_like_a_machine_gets_no_signal() {
    let ns = Namespace::new();
    let mut pretender = Pretender::new("alone", &ns);
    let pid = pretender.process.pid();
    let mut agent = Agent::start(&ARGUMENTS);
    agent.wait_for("its process", |event| event["process"]["pid"] == pid);
    let ended = agent.stop();
    ended.totals();
    let why = format!(
        "the Java virtual machine {pid} has not dumped its threads: it is no HotSpot JVM: it does not handle SIGQUIT"
    );
    assert!(ended.stderr.contains(&why), "{}", ended.stderr);
    assert!(pretender.process.0.try_wait().expect("wait").is_none(), "it was signaled");
    assert!(!PathBuf::from(format!("/tmp/.attach_pid{pid}")).exists());
}

#[test]
fn the_helper_is_of_no_use_by_hand() {
    let finished = finish(&mut closewait(&["jvm-dumps"]));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("standard input is not a socket"), "{}", finished.stderr);
    let finished = finish(&mut closewait(&["run", "--stacks-jvm"]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{finished:?}");
    assert!(finished.stderr.contains("--stacks-jvm needs stacks auto"), "{}", finished.stderr);
}
