//! An agent under a memory limit, with more stuck sockets than it can track.

use std::{
    ffi::{CString, OsStr},
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::{
    ability,
    agent::{Agent, closewait, finish, run_command},
    leftovers,
    many::flood,
    net::Namespace,
    setup, socket,
};

/// Sockets in CLOSE_WAIT.
const COUNT: u64 = 50_000;
/// Number of sockets per listener: fewer than the default of `net.core.somaxconn`, 4,096.
const TO_ONE_LISTENER: u16 = 4000;
/// Memory limit, bytes.
pub(crate) const LIMIT: u64 = 64 << 20;

#[test]
fn under_a_memory_limit_an_agent_tracks_fewer_sockets_and_survives() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        // Without a memory controller, nothing limits the agent's memory.
        ability::tell_whether("limit memory", false);
        return;
    };
    let ns = Namespace::inhabited();
    let accepted = flood(&ns, 20);
    let _unaccepted = ns.run(crowd);
    let path = std::env::temp_dir().join(format!("closewait-memory-{}.sock", process::id())).display().to_string();

    let mut agent = Agent::spawn(&mut cgroup.inside(&run_command(&["--stuck-after", "1s", "--socket", &path])));
    let start = agent.events[0].clone();
    let tracked = start["limits"]["max_tracked"].as_u64().expect("a number");
    assert!((1000..COUNT / 2).contains(&tracked), "{start}");
    assert!(start["limits"]["max_sockets"].as_u64() < Some(262_144), "{start}");
    assert!(start["degraded"].to_string().contains("limits: the memory limit of 64 MiB"), "{start}");
    agent.wait_for("`stuck`", |event| event["event"] == "stuck");
    agent.wait_for("`health` with all that are not tracked", |event| {
        event["event"] == "health" && event["untracked"].as_u64() >= Some(COUNT - tracked)
    });

    // A command that queries the agent, and one that scans beside it, under the same limit.
    for asked in [vec!["--socket", &path], vec!["--alone"]] {
        for command in [&["list"][..], &["list", "--output", "json"], &["report"]] {
            let answer = finish(&mut cgroup.inside(&closewait(&[command, &asked].concat())));
            let what = format!("{command:?} {asked:?}: {:?} {}", answer.code, answer.stderr);
            assert_eq!(answer.code, Some(0), "{what}");
            let told = if command.contains(&"json") { &answer.stderr } else { &answer.stdout };
            assert!(told.contains(" more sockets are in CLOSE_WAIT and not shown"), "{what}");
            let rows = answer.stdout.lines().count();
            assert!(command[0] == "report" || (200..COUNT as usize / 2).contains(&rows), "{rows} lines: {what}");
        }
    }
    let report = finish(&mut closewait(&["report", "--output", "json", "--socket", &path]));
    let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert!(report["untracked"].as_u64() >= Some(COUNT - tracked), "{}", report["untracked"]);
    assert_eq!(report["unseen"], serde_json::Value::Null);

    let ended = agent.stop();
    assert!(ended.totals()["untracked"].as_u64() >= Some(COUNT - tracked), "{}", ended.totals());
    assert!(
        ended.stderr.contains("the memory limit of 64 MiB") && ended.stderr.contains("MemoryMax="),
        "{}",
        ended.stderr
    );
    assert_eq!(cgroup.killed(), 0, "nothing in the cgroup was killed");
    drop(accepted);
    leftovers::assert_none();
}

#[test]
fn what_the_user_says_stands_under_a_memory_limit_and_is_warned_of() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else { return };
    let agent = Agent::spawn(&mut cgroup.inside(&run_command(&["--max-tracked", "500000"])));
    let start = &agent.events[0];
    assert_eq!(start["limits"]["max_tracked"], 500_000, "{start}");
    assert!(start["degraded"].to_string().contains("may be too low"), "{start}");
    agent.stop().totals();
}

/// Returns listeners with sockets in CLOSE_WAIT that no program accepts, and which need no descriptors.
fn crowd() -> Vec<TcpListener> {
    let connect_all = |number: u64| {
        let number = u8::try_from(number + 1).expect("few");
        let address = Ipv4Addr::new(127, 44, 0, number);
        let listener = TcpListener::bind((address, 0)).expect("a listener");
        socket::limit_backlog(&listener, 4096);
        let address: SocketAddr = listener.local_addr().expect("its address");
        for [high, low] in (1..=TO_ONE_LISTENER).map(u16::to_be_bytes) {
            drop(socket::connect_from((Ipv4Addr::new(127, 100 + number, high, low), 0).into(), address));
        }
        listener
    };
    (0..COUNT.div_ceil(TO_ONE_LISTENER.into())).map(connect_all).collect()
}

/// Cgroup with a memory limit, and its mount if the test has created that.
pub(crate) struct Cgroup {
    folder: PathBuf,
    mount: Option<PathBuf>,
}

impl Cgroup {
    /// Creates the cgroup; returns `None` where the kernel cannot limit memory.
    pub(crate) fn limited(bytes: u64) -> Option<Self> {
        let name = format!("closewait-test-{}", process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        if v1.join("memory.limit_in_bytes").exists() {
            let folder = v1.join(name);
            fs::create_dir(&folder).expect("a cgroup");
            fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string()).expect("its limit");
            return Some(Self { folder, mount: None });
        }
        let (top, mount) = unified();
        let controllers = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|controller| controller == "memory") {
            mount.iter().for_each(|mount| setup::unmount(mount));
            return None;
        }
        fs::write(top.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        let folder = top.join(name);
        fs::create_dir(&folder).expect("a cgroup");
        fs::write(folder.join("memory.max"), bytes.to_string()).expect("its limit");
        // Otherwise it would be slow instead of being killed.
        let _none: std::io::Result<()> = fs::write(folder.join("memory.swap.max"), "0");
        Some(Self { folder, mount })
    }

    /// Returns a command that runs inside.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        let procs = self.folder.join("cgroup.procs");
        inside.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"").arg(procs).arg(command.get_program());
        inside.args(command.get_args()).env_remove("RUST_LOG");
        inside
    }

    /// Returns the number of processes that the kernel killed because of the memory limit.
    pub(crate) fn killed(&self) -> u64 {
        let count = ["memory.events", "memory.oom_control"].iter().find_map(|name| {
            let text = fs::read_to_string(self.folder.join(name)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        });
        count.expect("a count of killed processes")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that a failed test left inside ends by itself.
        let _busy: std::io::Result<()> = fs::remove_dir(&self.folder);
        self.mount.iter().for_each(|mount| setup::unmount(mount));
    }
}

/// Returns the mount of cgroup v2; mounts it for the test if there is none.
pub(crate) fn unified() -> (PathBuf, Option<PathBuf>) {
    let usual = Path::new("/sys/fs/cgroup");
    if usual.join("cgroup.controllers").exists() {
        return (usual.to_owned(), None);
    }
    let own = std::env::temp_dir().join(format!("closewait-cgroup-{}", process::id()));
    fs::create_dir_all(&own).expect("a folder");
    let path = CString::new(OsStr::as_bytes(own.as_os_str())).expect("no zero in a path");
    setup::mount(c"none", &path, c"cgroup2", 0).expect("mount -t cgroup2");
    (own.clone(), Some(own))
}
