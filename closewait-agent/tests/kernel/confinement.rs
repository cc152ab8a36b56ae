//! Dropped privileges of a running agent, which works without them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpStream,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{PermissionsExt as _, chown},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    ability::{Ability, can},
    agent::{Agent, Running, closewait, finish, run_command},
    leftovers,
    net::{Id, Namespace, V4},
    schema,
    setup::{self, NOBODY, PublicBinary, capability},
};

/// Capabilities of a running agent.
pub(crate) const LASTING: [u32; 4] =
    [capability::BPF, capability::PERFMON, capability::SYS_PTRACE, capability::DAC_READ_SEARCH];
/// An ordinary user, other than the agent's.
const SOMEBODY: libc::uid_t = 12345;

#[test]
fn an_agent_of_root_has_four_capabilities_on_every_thread_and_does_its_work() {
    let socket = Socket::new();
    let mut command = run_command(&["--stuck-after", "300ms", "--socket", socket.path()]);
    let mut agent = Agent::spawn(&mut command);
    assert_confined(&agent, &LASTING, &LASTING, 0);
    assert_degraded(&agent, &[]);
    works(&mut agent, &socket);
    assert_confined(&agent, &LASTING, &LASTING, 0);
    assert!(agent.stop().stderr.contains("CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF"));
    assert!(!socket.0.exists(), "its socket goes away with it");
    leftovers::assert_none();
}

#[test]
fn an_agent_of_nobody_with_ambient_capabilities_does_the_same_work() {
    let (binary, socket) = (PublicBinary::new(), Socket::of_nobody());
    let mut agent = Agent::spawn(&mut of_nobody(&binary, &socket, &LASTING));
    assert_confined(&agent, &LASTING, &LASTING, NOBODY);
    assert_degraded(&agent, &["network namespaces"]);
    works(&mut agent, &socket);
    assert_eq!(agent.stop().code, Some(0));
    assert!(!socket.0.exists(), "its socket goes away with it");
    leftovers::assert_none();
}

#[test]
fn the_right_to_enter_namespaces_stays_if_it_is_asked_for() {
    let socket = Socket::new();
    let mut command = run_command(&["--enter-namespaces", "--socket", socket.path()]);
    let agent = Agent::spawn(&mut command);
    let kept = [&LASTING[..], &[capability::SYS_ADMIN]].concat();
    assert_confined(&agent, &kept, &kept, 0);
    assert_eq!(agent.stop().code, Some(0));
}

#[test]
fn without_what_loads_programs_nobody_is_told_which_capability_it_is() {
    let (binary, socket) = (PublicBinary::new(), Socket::of_nobody());
    for (granted, missing) in [
        (&[capability::PERFMON, capability::SYS_PTRACE, capability::DAC_READ_SEARCH][..], "CAP_BPF"),
        (&[capability::BPF, capability::SYS_PTRACE, capability::DAC_READ_SEARCH], "CAP_PERFMON"),
    ] {
        let ended = finish(&mut of_nobody(&binary, &socket, granted));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(77), ""), "{ended:?}");
        assert!(ended.stderr.contains(&format!("missing {missing}: ")), "{ended:?}");
    }
    leftovers::assert_none();
}

#[test]
fn without_one_of_the_others_one_thing_is_degraded_and_the_rest_works() {
    let (binary, socket) = (PublicBinary::new(), Socket::of_nobody());
    let unlisted =
        if can(Ability::FdCount) { &["the system calls"][..] } else { &["its descriptors", "the system calls"] };
    for (granted, what, unseen) in [
        (
            &[capability::BPF, capability::PERFMON, capability::DAC_READ_SEARCH][..],
            "processes",
            &["its program", "the system calls"][..],
        ),
        (&[capability::BPF, capability::PERFMON, capability::SYS_PTRACE], "system calls", unlisted),
    ] {
        let mut agent = Agent::spawn(&mut of_nobody(&binary, &socket, granted));
        assert_confined(&agent, granted, granted, NOBODY);
        assert_degraded(&agent, &[what, "network namespaces"]);
        let Stuck { id, mut holder, _client } = Stuck::new(&Namespace::new());
        if can(Ability::Files) {
            let event = stuck_with_process(&mut agent, &id);
            assert_eq!(event["owners"][0]["pid"], holder.pid(), "{event}");
            let said: Vec<&str> =
                event["process"]["unseen"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            assert_eq!(said.len(), unseen.len(), "{event}");
            assert!(said.iter().zip(unseen).all(|(said, part)| said.starts_with(part)), "{event}");
        } else {
            // What /proc does not show is unknown, and not empty.
            let event = agent.wait_for_socket("stuck", &id);
            assert_eq!((&event["owners"], &event["process"]), (&Value::Null, &Value::Null), "{event}");
        }
        holder.end();
        agent.wait_for_socket("leave", &id);
        assert_eq!(agent.stop().code, Some(0));
    }
    leftovers::assert_none();
}

#[test]
fn root_without_the_right_to_enter_namespaces_says_so_and_works() {
    let socket = Socket::new();
    let mut command = run_command(&["--stuck-after", "300ms", "--socket", socket.path()]);
    setup::drop_only(&mut command, capability::SYS_ADMIN);
    let mut agent = Agent::spawn(&mut command);
    assert_confined(&agent, &LASTING, &LASTING, 0);
    assert_degraded(&agent, &["network namespaces"]);
    works(&mut agent, &socket);
    agent.stop().totals();
    leftovers::assert_none();
}

#[test]
fn a_substitute_for_a_missing_capability_stays_and_is_reported() {
    let socket = Socket::new();
    let mut command = run_command(&["--stuck-after", "300ms", "--socket", socket.path()]);
    let granted = &[capability::SYS_ADMIN, capability::SYS_PTRACE, capability::DAC_READ_SEARCH];
    setup::lift_locked_memory(&mut command);
    setup::keep_only(&mut command, granted);
    let mut agent = Agent::spawn(&mut command);
    assert_confined(&agent, granted, granted, 0);
    assert_degraded(&agent, &["capabilities"]);
    works(&mut agent, &socket);
    agent.stop().totals();
}

#[test]
fn where_filters_are_forbidden_the_agent_says_so_and_works() {
    let socket = Socket::new();
    let mut command = run_command(&["--stuck-after", "300ms", "--socket", socket.path()]);
    setup::forbid_filters(&mut command);
    let mut agent = Agent::spawn(&mut command);
    assert_degraded(&agent, &["system call filter"]);
    works(&mut agent, &socket);
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("seccomp(SECCOMP_SET_MODE_FILTER)"), "{}", ended.stderr);
}

/// Returns `closewait run` as the user nobody with these capabilities.
fn of_nobody(binary: &PublicBinary, socket: &Socket, granted: &'static [u32]) -> Command {
    let mut command = Command::new(&binary.path);
    command.args(["run", "--output", "json", "--stuck-after", "300ms", "--socket", socket.path()]);
    setup::become_nobody(&mut command, granted);
    command
}

/// Checks that the agent reports a stuck socket of another user with its owner and activity, answers `list`, and
/// reports the exit.
fn works(agent: &mut Agent, socket: &Socket) {
    let ns = Namespace::new();
    let Stuck { id, mut holder, _client } = Stuck::new(&ns);
    let event = stuck_with_process(agent, &id);
    assert_eq!(event["owners"].as_array().map(Vec::len), Some(1), "{event}");
    assert_eq!(event["owners"][0]["pid"], holder.pid(), "{event}");
    let process = &event["process"];
    assert_eq!((&process["pid"], &process["unseen"]), (&json!(holder.pid()), &json!([])), "{event}");
    assert_eq!(process["activity"], "its only thread waits in clock_nanosleep", "{event}");
    assert!(process["exe"].is_string() && process["fds_limit"].is_u64(), "{event}");

    let finished = finish(&mut closewait(&["list", "--output", "json", "--socket", socket.path()]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let listed = finished.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let listed: Vec<Value> = listed.filter(|object| id.is_in(object)).collect();
    assert_eq!(listed.len(), 1, "{finished:?}");
    schema::check_listed(&listed[0]);
    assert_eq!((&listed[0]["owners"], &listed[0]["exact"]), (&event["owners"], &json!(true)), "the agent has answered");

    holder.end();
    let left = agent.wait_for_socket("leave", &id);
    assert_eq!(left["how"], "closed", "{left}");
}

/// Socket in CLOSE_WAIT whose only owner is a process of another user.
struct Stuck {
    id: Id,
    holder: Running,
    /// Open client, so that the socket exits only by its owner.
    _client: TcpStream,
}

impl Stuck {
    fn new(ns: &Namespace) -> Self {
        let pair = ns.pair(V4);
        let holder = inherit(&pair.server);
        pair.fin();
        Self { id: pair.id, holder, _client: pair.client }
    }
}

fn inherit(socket: &TcpStream) -> Running {
    let raw = socket.as_raw_fd();
    let keep_open = move || {
        // SAFETY: takes numbers only; the descriptor is the child's copy.
        if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    let mut command = Command::new("sleep");
    command.arg("1000").uid(SOMEBODY).gid(SOMEBODY);
    // SAFETY: between fork and exec, it makes only one system call.
    unsafe { command.pre_exec(keep_open) };
    Running::spawn(&mut command)
}

/// Returns the first report of the socket with its owner's activity.
fn stuck_with_process(agent: &mut Agent, id: &Id) -> Value {
    agent.wait_for(&format!("`stuck` of {id} with its process"), |event| {
        event["event"] == "stuck" && id.is_in(event) && !event["process"].is_null()
    })
}

/// Threads that only write to open files, and have no capability at all.
const WRITERS: [&str; 2] = ["closewait-log", "closewait-rec"];

/// Checks the lines of `status` of each thread of the agent.
pub(crate) fn assert_confined(agent: &Agent, kept: &[u32], bounding: &[u32], user: libc::uid_t) {
    let mask = |of: &[u32]| format!("{:016x}", of.iter().fold(0_u64, |all, one| all | 1 << one));
    let user = user.to_string();
    let expected = BTreeMap::from([
        ("CapInh", mask(&[])),
        ("CapPrm", mask(kept)),
        ("CapEff", mask(kept)),
        ("CapBnd", mask(bounding)),
        ("CapAmb", mask(&[])),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
        ("Uid", [user.as_str(); 4].join("\t")),
    ]);
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("the agent's threads");
    let mut count = 0;
    for folder in threads.map(|thread| thread.expect("a thread").path()) {
        // `None` once the thread has ended: some threads of the agent live for a single scan.
        let status = || fs::read_to_string(folder.join("status")).ok();
        let Some(first) = status() else { continue };
        let name = first.lines().find_map(|line| line.strip_prefix("Name:\t")).expect("its name").to_owned();
        let mut expected = expected.clone();
        let is_writer = WRITERS.contains(&name.as_str());
        if is_writer {
            expected.extend([("CapPrm", mask(&[])), ("CapEff", mask(&[]))]);
            // Without CAP_SETPCAP the bounding set stays as it was at the start.
            expected.remove("CapBnd");
        }
        let found = || -> Option<BTreeMap<String, String>> {
            let status = status()?;
            let members = status.lines().filter_map(|line| line.split_once(':'));
            let members = members.filter(|(name, _)| expected.contains_key(name));
            Some(members.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
        };
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        // A writer first drops its capabilities, which may be a moment from now.
        for _try in 0..200 {
            if !is_writer || found().is_none_or(|found| found == expected) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(found) = found() {
            assert_eq!(found, expected, "{name}: {}", folder.display());
        }
        count += 1;
    }
    assert!(count >= 2, "the loop and the writer are threads, {count} were seen");
}

/// Checks the degraded features in `start`, except those that this kernel lacks.
fn assert_degraded(agent: &Agent, expected: &[&str]) {
    let lacking = [(Ability::Openers, "openers"), (Ability::Cookie, "cookies")];
    let lacking: Vec<&str> = lacking.into_iter().filter(|(ability, _)| !can(*ability)).map(|(_, what)| what).collect();
    let degraded = agent.events[0]["degraded"].as_array().expect("a list");
    let what: Vec<_> = degraded.iter().filter_map(|one| one.as_str()?.split_once(": ")).map(|(what, _)| what).collect();
    // Whether a socket of 5.10 points to its cgroup depends on the kernel's configuration, which Debian's of aarch64 lacks.
    let is_old = agent.events[0]["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("5.10."));
    let cgroups: &[&str] = if is_old && what.contains(&"cgroups") { &["cgroups"] } else { &[] };
    assert_eq!(what, [&lacking, cgroups, expected].concat(), "{}", agent.events[0]);
}

/// Path for the agent's socket.
struct Socket(PathBuf);

impl Socket {
    fn new() -> Self {
        Self::in_folder_of(0)
    }

    /// Creates a folder by root for an agent of the user `nobody`, so that root trusts it.
    fn of_nobody() -> Self {
        Self::in_folder_of(65534)
    }

    fn in_folder_of(user: u32) -> Self {
        let folder = Path::new("/run").join(format!("closewait-confinement-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode");
        chown(&folder, Some(user), Some(user)).expect("its owner");
        Self(folder.join("agent.sock"))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If this fails, the folder stays in one that is empty after a reboot.
        let _left = self.0.parent().map(fs::remove_dir_all);
    }
}
