//! A host with something that does not answer: a file system, a starting process, a hierarchy of many cgroups.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
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
    clock::{boot_seconds, patience, poll_until, slowness},
    fuse::{FileSystem, Mode},
    listing::{list, of_namespace},
    net::{Id, Namespace, Pair, V4},
    setup,
};

/// Returns the maximum time of `list` here, seconds: half the time of the hang, because a machine that is busy with
/// other tests is slow.
fn late() -> f64 {
    30.0 * f64::from(slowness())
}

#[test]
fn a_program_on_a_file_system_that_hangs_delays_nothing() {
    for mode in [Mode::Stopped, Mode::Hangs] {
        let Some(hung) = FileSystem::mount("hung") else { return };
        let ns = Namespace::new();
        let (mut owner, first) = hand_over(hung.command(), ns.pair(V4));
        let mut agent = Agent::start(&["--stuck-after", "300ms"]);
        hung.set(mode);
        first.fin();
        let (second, _fin) = ns.waiting(V4);
        let listed = list_with_process(&ns, &first.id);
        assert!(listed.contains_key(&second.id), "{mode:?}: {listed:?}");
        let process = &listed[&first.id]["process"];
        assert!(unseen(process).contains("may not answer (fuse)"), "{mode:?}: {process}");
        assert!(process["fds_open"].is_u64() && process["threads"] == 1, "{mode:?}: {process}");
        agent.wait_for_socket("stuck", &second.id);
        agent.wait_for_socket("stuck", &first.id);
        ends(agent);
        hung.set(Mode::Answers);
        owner.end();
    }
}

#[test]
fn a_process_whose_start_hangs_is_read_as_far_as_it_answers_and_again_when_it_does() {
    let Some(hung) = FileSystem::mount("begins") else { return };
    let ns = Namespace::new();
    let (second, _fin) = ns.waiting(V4);
    let Pair { client, server, id } = ns.pair(V4);
    let owner = Forked::hangs_as_it_begins(&hung, server.as_raw_fd());
    drop(server);
    client.shutdown(Shutdown::Write).expect("shutdown");
    let listed = list_with_process(&ns, &id);
    assert!(listed.contains_key(&second.id), "{listed:?}");
    let process = &listed[&id]["process"];
    let why = unseen(process);
    let waits = why.contains("did not answer within 250ms") || why.contains("has not been answered");
    // Kernels differ in whether execve(2) holds the lock while it closes files (6.18.44) or takes it later (6.12.118, 7.3.4).
    assert!(if owner.answers() { why == "[]" } else { waits }, "{process}");
    assert!(process["fds_limit"].is_u64() && process["threads"] == 1, "{process}");
    // An agent that finds it at its start ends, too.
    ends(Agent::start(&["--stuck-after", "300ms"]));
    hung.set(Mode::Answers);
    let seen = poll_until(patience(), || {
        let process = &list_in_time(&ns)[&id]["process"];
        process["comm"] == "sleep" && process["unseen"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(seen, "{:?}", list_in_time(&ns));
    drop(owner);
}

#[test]
fn an_agent_ends_while_a_read_of_it_waits() {
    let Some(hung) = FileSystem::mount("ends") else { return };
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "300ms"]);
    let Pair { client, server, id } = ns.pair(V4);
    let owner = Forked::hangs_as_it_begins(&hung, server.as_raw_fd());
    drop(server);
    client.shutdown(Shutdown::Write).expect("shutdown");
    agent.wait_for_socket("stuck", &id);
    // Its first inspection, if it has had none.
    agent.watch(Duration::from_secs(1));
    ends(agent);
    hung.set(Mode::Answers);
    drop(owner);
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
        let listed = list_in_time(&ns);
        assert!(listed.contains_key(&pair.id), "{mode:?}: {listed:?}");
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
    // A removed cgroup is known from before, and one that was never looked up is not found.
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
    // A socket belongs to the cgroup of its process at its creation.
    let pair = in_cgroup(&mut inhabitant, cgroups.mount(), || ns.pair(V4));
    pair.fin();
    agent.wait_for_socket("stuck", &pair.id);
    let name = folders.0.file_name().and_then(|name| name.to_str()).expect("a name");
    let wanted = format!("/{name}/0");
    let mut listed = String::new();
    let found = poll_until(Duration::from_secs(3) * slowness(), || {
        let finished = finish(&mut closewait(&["list", "--socket", socket, "--by", "cgroup", "--wide"]));
        listed = finished.stdout;
        listed.contains(&wanted)
    });
    assert!(found, "{listed}");
    ends(agent);
}

/// Runs `work` while this process is in a cgroup.
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

/// Ends the agent, which has to end during any wait.
fn ends(agent: Agent) {
    let began = boot_seconds();
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let took = boot_seconds() - began;
    assert!(took < 5.0 * f64::from(slowness()), "it took {took} s to end");
}

/// Connection whose server's socket only another process owns.
pub(crate) struct Handed {
    client: TcpStream,
    pub(crate) id: Id,
}

impl Handed {
    /// Makes the socket enter CLOSE_WAIT.
    pub(crate) fn fin(&self) {
        self.client.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// Returns the client's end.
    pub(crate) fn into_client(self) -> TcpStream {
        self.client
    }
}

/// Runs a command that owns the server's end of a connection.
pub(crate) fn hand_over(mut command: Command, pair: Pair) -> (Running, Handed) {
    let raw = pair.server.as_raw_fd();
    // SAFETY: between fork and exec, it makes only one system call.
    unsafe { command.pre_exec(move || keep_open(raw)) };
    let owner = Running::spawn(&mut command);
    (owner, Handed { client: pair.client, id: pair.id })
}

/// Keeps the descriptor open across exec.
fn keep_open(raw: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Process of which its creator knows only the pid.
struct Forked<'a> {
    pid: libc::pid_t,
    hung: &'a FileSystem,
}

impl<'a> Forked<'a> {
    /// Starts a process that executes a program and thereby closes a file. The kernel waits for that close with a
    /// lock that readers of its threads need. No other process has the file: it would wait, too.
    fn hangs_as_it_begins(hung: &'a FileSystem, socket: RawFd) -> Self {
        hung.set(Mode::NeverFlushes);
        let path = CString::new(hung.program().as_os_str().as_bytes()).expect("no zero in a path");
        let arguments = [c"sleep".as_ptr(), c"1000".as_ptr(), std::ptr::null()];
        // `Command` would wait until the program runs.
        // SAFETY: the child makes only system calls, of which the last does not return.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: a text that ends in a zero and outlives the call.
            unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
            // SAFETY: takes numbers only.
            unsafe { libc::fcntl(socket, libc::F_SETFD, 0) };
            // SAFETY: texts that end in a zero, and a list of such that ends in a null.
            unsafe { libc::execvp(arguments[0], arguments.as_ptr()) };
            // SAFETY: takes a number only.
            unsafe { libc::_exit(1) };
        }
        assert!(pid > 0, "fork: {}", io::Error::last_os_error());
        let owner = Self { pid, hung };
        assert!(poll_until(patience(), || hung.unanswered() > 0), "it does not hang");
        owner
    }

    /// Whether the kernel tells the system call that it hangs in, which readers of its threads need the lock for
    /// (`proc_pid_syscall` in fs/proc/base.c).
    fn answers(&self) -> bool {
        let path = format!("/proc/{}/syscall", self.pid);
        let (answer, answers) = mpsc::channel();
        // It ends with the hang, at the latest.
        thread::spawn(move || answer.send(fs::read(path)));
        answers.recv_timeout(Duration::from_secs(1) * slowness()).is_ok_and(|read| read.is_ok())
    }
}

impl Drop for Forked<'_> {
    fn drop(&mut self) {
        // Nothing else ends the wait of the child, even after a failed assertion.
        self.hung.set(Mode::Answers);
        // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // SAFETY: takes numbers, and no place for a status.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// Mounts a file over another.
fn bind(from: &Path, to: &Path) {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    let (from, to) = (text(from), text(to));
    // SAFETY: texts that end in a zero and outlive the call.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), c"none".as_ptr(), libc::MS_BIND, std::ptr::null()) };
    crate::socket::check(result, "mount --bind");
}

/// Returns the sockets of a namespace from `list --alone`, which has to be fast enough.
fn list_in_time(ns: &Namespace) -> BTreeMap<Id, Value> {
    let began = boot_seconds();
    let listed = of_namespace(&list(), ns);
    let took = boot_seconds() - began;
    assert!(took < late(), "it took {took} s");
    listed
}

/// Returns the same as soon as it has the owner of this socket, which it lacks for young ones.
fn list_with_process(ns: &Namespace, id: &Id) -> BTreeMap<Id, Value> {
    let mut listed = BTreeMap::new();
    let seen = poll_until(patience(), || {
        listed = list_in_time(ns);
        listed.get(id).is_some_and(|row| row["process"].is_object())
    });
    assert!(seen, "{listed:?}");
    listed
}

/// Returns the gaps of a process.
fn unseen(process: &Value) -> String {
    process["unseen"].to_string()
}
