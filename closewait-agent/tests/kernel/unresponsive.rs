//! A host on which something does not answer: a file system, a process that begins, a hierarchy of many cgroups.

use std::{
    fs::{self, File},
    io,
    net::TcpStream,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use closewait::host::{
    cgroups::{Cgroups, Lookup},
    deadline::Patience,
};
use serde_json::Value;

use crate::{
    ability,
    agent::{Agent, Running, closewait, finish},
    clock::{boot_seconds, slowness},
    fuse::{FileSystem, Mode},
    net::{Namespace, Pair, V4},
    setup,
};

/// How late an event may be here, in seconds: an agent that waits for what hangs tells nothing at all, and a machine that is
/// busy with other tests delays inspections.
fn late() -> f64 {
    10.0 * f64::from(slowness())
}

#[test]
fn a_program_on_a_file_system_that_hangs_holds_up_nobody() {
    for mode in [Mode::Stopped, Mode::Hangs] {
        let Some(hung) = FileSystem::mount("hung") else { return };
        let ns = Namespace::new();
        let (first, second) = (ns.pair(V4), ns.pair(V4));
        let mut agent = Agent::start(&["--stuck-after", "300ms"]);
        let mut command = Command::new(hung.program());
        command.arg("1000");
        let (mut owner, first) = hand_over(command, first);
        hung.set(mode);
        second.fin();
        first.fin();
        let began = boot_seconds();
        let event = agent.wait_for_socket("stuck", &second.id);
        assert!(boot_seconds() - began < late(), "{mode:?}: late: {event}");
        let event = agent.wait_for("the socket of the process concerned", |event| {
            event["event"] == "stuck" && first.id.is_in(event) && unseen(event, owner.pid()).is_some()
        });
        assert!(boot_seconds() - began < 2.0 * late(), "{mode:?}: late: {event}");
        let why = unseen(&event, owner.pid()).expect("just seen");
        assert!(why.contains("may not answer (fuse)"), "{mode:?}: {why}");
        let process = process(&event, owner.pid()).expect("just seen");
        assert!(process["fds_open"].is_u64() && process["threads"] == 1, "{process}");
        ends(agent);
        hung.set(Mode::Answers);
        owner.end();
    }
}

#[test]
fn a_process_whose_start_hangs_is_read_as_far_as_it_answers_and_again_when_it_does() {
    let Some(hung) = FileSystem::mount("begins") else { return };
    let ns = Namespace::new();
    let (first, second) = (ns.pair(V4), ns.pair(V4));
    let mut agent = Agent::start(&["--stuck-after", "300ms"]);
    let (command, file) = hangs_as_it_begins(&hung);
    let (mut owner, first) = hand_over(command, first);
    second.fin();
    first.fin();
    let began = boot_seconds();
    agent.wait_for_socket("stuck", &second.id);
    assert!(boot_seconds() - began < late());
    let of_first = |event: &Value| event["event"] == "stuck" && first.id.is_in(event);
    let event = agent.wait_for("what did not answer", |event| of_first(event) && unseen(event, owner.pid()).is_some());
    let why = unseen(&event, owner.pid()).expect("just seen");
    assert!(
        why.contains("did not answer within 250 ms") || why.contains("an earlier read has not been answered"),
        "{why}"
    );
    let read = process(&event, owner.pid()).expect("just seen");
    assert!(read["fds_limit"].is_u64() && read["threads"] == 1, "{read}");
    hung.set(Mode::Answers);
    drop(file);
    agent.wait_for("the same process, read as a whole", |event| {
        of_first(event) && process(event, owner.pid()).is_some() && unseen(event, owner.pid()).is_none()
    });
    ends(agent);
    owner.end();
}

#[test]
fn an_agent_ends_while_a_read_of_it_waits() {
    let Some(hung) = FileSystem::mount("ends") else { return };
    let ns = Namespace::new();
    let pair = ns.pair(V4);
    let mut agent = Agent::start(&["--stuck-after", "300ms"]);
    let (command, file) = hangs_as_it_begins(&hung);
    let (mut owner, pair) = hand_over(command, pair);
    pair.fin();
    agent.wait_for("what did not answer", |event| {
        event["event"] == "stuck" && pair.id.is_in(event) && unseen(event, owner.pid()).is_some()
    });
    ends(agent);
    hung.set(Mode::Answers);
    drop(file);
    owner.end();
}

#[test]
fn a_namespace_bound_behind_a_file_system_that_hangs_does_not_hold_up_list() {
    for mode in [Mode::Stopped, Mode::Hangs] {
        let Some(hung) = FileSystem::mount("bound") else { return };
        let ns = Namespace::inhabited();
        let (pair, _fin) = ns.waiting(V4);
        let bound = Namespace::deserted();
        bound.run(|| bind(Path::new("/proc/thread-self/ns/net"), &hung.program()));
        hung.set(mode);
        let began = boot_seconds();
        let finished = finish(&mut closewait(&["list", "--output", "json", "--alone"]));
        assert!(boot_seconds() - began < 2.0 * late(), "{mode:?}: {:?}", boot_seconds() - began);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let listed = finished.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        assert!(listed.into_iter().any(|object| pair.id.is_in(&object)), "{}", finished.stdout);
        hung.set(Mode::Answers);
        setup::unmount(&hung.program());
    }
}

/// Cgroups below one of the test's own, removed with it.
struct Folders(PathBuf, usize);

impl Folders {
    fn new(mount: &Path, count: usize) -> Self {
        let folders = Self(mount.join(format!("closewait-test-{}", std::process::id())), count);
        fs::create_dir(&folders.0).expect("a cgroup");
        (0..count).for_each(|number| fs::create_dir(folders.one(number)).expect("a cgroup"));
        folders
    }

    fn one(&self, number: usize) -> PathBuf {
        self.0.join(number.to_string())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        (0..self.1).for_each(|number| drop(fs::remove_dir(self.one(number))));
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn a_cgroup_is_found_at_once_however_many_there_are() {
    let Ok(mut cgroups) = Cgroups::find() else { return };
    let mount = cgroups.mount().to_owned();
    let folders = Folders::new(&mount, 2000);
    let id = |path: &Path| fs::metadata(path).expect("a cgroup").ino();
    let ids: Vec<u64> = (0..100).map(|number| id(&folders.one(number * 20))).collect();
    let began = boot_seconds();
    let mut found = Vec::new();
    cgroups.look_up(&ids, &mut Patience::default(), |id, lookup| found.push((id, lookup)));
    let took = boot_seconds() - began;
    let name = folders.0.file_name().and_then(|name| name.to_str()).expect("a name");
    for (number, id) in ids.iter().enumerate() {
        let path = format!("/{name}/{}", number * 20);
        assert!(found.contains(&(*id, Lookup::Path(path.clone().into_bytes()))), "{path}: {found:?}");
    }
    ability::tell("time to find 100 of 2000 cgroups", &format!("{:.1} ms", took * 1000.0));
    assert!(took < 0.1 * f64::from(slowness()), "{took} s");
    // One that is gone is known from before, and one that nobody asked for is not found.
    let (known, unknown) = (ids[0], id(&folders.one(1)));
    fs::remove_dir(folders.one(0)).expect("a cgroup");
    fs::remove_dir(folders.one(1)).expect("a cgroup");
    let mut found = Vec::new();
    cgroups.look_up(&[known, unknown], &mut Patience::default(), |id, lookup| found.push((id, lookup)));
    assert!(matches!(&found[..], [(_, Lookup::Path(_)), (_, Lookup::Gone)]), "{found:?}");
}

#[test]
fn cgroups_are_found_with_the_capabilities_that_an_agent_keeps() {
    let Ok(cgroups) = Cgroups::find() else { return };
    let folders = Folders::new(cgroups.mount(), 1);
    let ns = Namespace::new();
    let socket = std::env::temp_dir().join(format!("closewait-cgroup-{}.sock", std::process::id()));
    let socket = socket.to_str().expect("UTF-8");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--socket", socket]);
    let mut inhabitant = File::options().write(true).open(folders.one(0).join("cgroup.procs")).expect("cgroup.procs");
    // Its sockets are those of the cgroup that it is in when it makes them.
    let pair = in_cgroup(&mut inhabitant, cgroups.mount(), || ns.pair(V4));
    pair.fin();
    agent.wait_for_socket("stuck", &pair.id);
    let name = folders.0.file_name().and_then(|name| name.to_str()).expect("a name");
    let wanted = format!("/{name}/0");
    let mut listed = String::new();
    let found = crate::clock::poll_until(Duration::from_secs(3) * slowness(), || {
        let finished = finish(&mut closewait(&["list", "--socket", socket, "--by", "cgroup", "--output", "json"]));
        listed = finished.stdout;
        listed.contains(&wanted)
    });
    assert!(found, "{listed}");
    ends(agent);
}

/// Does something while this process is in a cgroup.
fn in_cgroup<T>(procs: &mut File, root: &Path, work: impl FnOnce() -> T) -> T {
    use std::io::Write as _;
    let own = fs::read_to_string("/proc/self/cgroup").expect("the own cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).expect("the unified hierarchy").to_owned();
    procs.write_all(b"0").expect("entering a cgroup");
    let result = work();
    let back = root.join(own.trim_start_matches('/')).join("cgroup.procs");
    fs::write(back, "0").expect("leaving a cgroup");
    result
}

/// The agent ends when it is asked to, whatever waits.
fn ends(agent: Agent) {
    let began = boot_seconds();
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let took = boot_seconds() - began;
    assert!(took < 5.0 * f64::from(slowness()), "it took {took} s to end");
}

/// A connection whose server's socket only another process has.
struct Handed {
    client: TcpStream,
    id: crate::net::Id,
    /// For the state of the socket: it is the other's.
    server: OwnedFd,
}

impl Handed {
    /// Lets the socket enter CLOSE_WAIT.
    fn fin(&self) {
        crate::socket::fin(&self.server, || self.client.shutdown(std::net::Shutdown::Write).expect("shutdown"));
    }
}

/// Runs a command that has the server's end of a connection.
fn hand_over(mut command: Command, pair: Pair) -> (Running, Handed) {
    let raw = pair.server.as_raw_fd();
    // SAFETY: between fork and exec, it makes one system call only.
    unsafe { command.pre_exec(move || keep_open(raw)) };
    let owner = Running::spawn(&mut command);
    // SAFETY: takes numbers only; the descriptor is open.
    let copy = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 0) };
    assert!(copy >= 0, "dup: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    let server = unsafe { OwnedFd::from_raw_fd(copy) };
    (owner, Handed { client: pair.client, id: pair.id, server })
}

/// The descriptor stays open when the process becomes another program.
fn keep_open(raw: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A program that becomes another, which closes a file that the first has, and the kernel waits for that with a lock that
/// others need who want to know what its threads do. The file is open here as long as what comes with it.
fn hangs_as_it_begins(hung: &FileSystem) -> (Command, OwnedFd) {
    /// Beyond all that a new process needs before it is another program: those are closed first.
    const HIGH: libc::c_int = 900;
    let file = File::open(hung.program()).expect("the program");
    // SAFETY: takes numbers only; the descriptor is open.
    let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) };
    assert!(copy >= HIGH, "dup: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    let high = unsafe { OwnedFd::from_raw_fd(copy) };
    drop(file);
    hung.set(Mode::NeverFlushes);
    let mut command = Command::new("sleep");
    command.arg("1000");
    (command, high)
}

/// Mounts a file over another.
fn bind(from: &Path, to: &Path) {
    let text = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    let (from, to) = (text(from), text(to));
    // SAFETY: texts that end in a zero and outlive the call.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), c"none".as_ptr(), libc::MS_BIND, std::ptr::null()) };
    crate::socket::check(result, "mount --bind");
}

/// What an event says of a process.
fn process(event: &Value, pid: u32) -> Option<&Value> {
    Some(&event["process"]).filter(|process| process["pid"] == pid)
}

/// What could not be seen of a process; `None` if all was, or nothing is known of it yet.
fn unseen(event: &Value, pid: u32) -> Option<String> {
    let unseen = process(event, pid)?["unseen"].as_array()?;
    (!unseen.is_empty()).then(|| Value::from(unseen.clone()).to_string())
}
