//! Hook programs: their environment, and that no behavior of them harms the agent.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, fs::symlink, process::CommandExt as _},
    },
    path::PathBuf,
    process::{self, Command},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Ended, Running, finish, run_command},
    clock::{patience, poll_until, slowness},
    confinement::{LASTING, assert_confined},
    net::{Namespace, Pair, V4},
    socket::check,
};

/// All classes.
const ANY_CLASS: &str = "hung,leak,pool,never_accepted,half_close,inherited,proxy_wait,transient,unknown";

#[test]
fn a_program_gets_the_facts_and_the_event_once_for_a_group() {
    let ns = Namespace::new();
    let hook = Hook::new("facts", &ns, "env > $dir/env; cat > $dir/json; echo $CLOSEWAIT_REMOTE >> $dir/done");
    let mut agent = hook.agent(&[]);
    let listener = ns.listen(V4);
    let pairs: Vec<Pair> = (0..3).map(|_| ns.pair_at(&listener, listener.local_addr().unwrap())).collect();
    for pair in &pairs {
        pair.fin();
    }
    hook.wait_for("done");
    for pair in &pairs {
        agent.wait_for_socket("stuck", &pair.id);
    }
    // Doublings do not run it again, either.
    agent.watch(Duration::from_secs(1));
    let runs = hook.read("done");
    let pair = pairs.iter().find(|pair| pair.id.remote.to_string() == runs.trim()).expect("one run, for one of them");
    let event = agent.wait_for_socket("stuck", &pair.id);
    let json = hook.read("json");
    assert_eq!((json.lines().count(), json.ends_with('\n')), (1, true), "{json}");
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), event, "the very line of the stream");

    let env = hook.environment();
    let local = pair.id.local;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    for (name, expected) in [
        ("EVENT", "stuck".to_owned()),
        ("TIME", text(&event["time"])),
        ("PID", process::id().to_string()),
        ("FD", event["owners"][0]["fd"].to_string()),
        ("COMM", text(&event["owners"][0]["comm"])),
        ("LOCAL", local.to_string()),
        ("LOCAL_PORT", local.port().to_string()),
        ("REMOTE", pair.id.remote.to_string()),
        ("NETNS", ns.inode.to_string()),
        ("INODE", event["socket"]["inode"].to_string()),
        ("ROLE", "server".to_owned()),
        ("DWELL_SECONDS", event["dwell_seconds"].to_string()),
        ("CLASS", text(&event["verdict"]["class"])),
        ("VERDICT", text(&event["verdict"]["class"])),
        ("RULE", text(&event["verdict"]["rule"])),
        ("CERTAINTY", text(&event["verdict"]["certainty"])),
    ] {
        assert_eq!(env.get(&format!("CLOSEWAIT_{name}")), Some(&expected), "{name}: {env:?}");
    }
    assert!(!env.contains_key("CLOSEWAIT_COUNT"), "what is unknown is not there: {env:?}");
    assert!(!env.contains_key("CLOSEWAIT_CONTAINER"), "nor what somebody else has set: {env:?}");
    assert!(env.contains_key("PATH"), "the rest is the agent's: {env:?}");
    assert_eq!(env["CLOSEWAIT_PAGERDUTY_KEY_FILE"], "/key", "also settings of the program");
    assert_eq!(env["CLOSEWAIT_TIMEOUT_SECONDS"], "30");
    let ended = agent.stop();
    assert!(ended.stderr.contains("has ended after"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hooks not run: "), "what was left out is counted: {}", ended.stderr);
}

#[test]
fn a_hook_runs_only_for_the_wanted_classes_and_certainties() {
    let ns = Namespace::new();
    let hook = Hook::new("filter", &ns, "touch $dir/done");
    let run = |arguments: &[&str]| {
        let program = hook.program();
        let mut command = run_command(&["--stuck-after", "300ms", "--on-stuck", &program]);
        command.args(arguments).arg("--socket").arg(hook.folder.join("agent.sock"));
        let mut agent = Agent::spawn(&mut command);
        let (pair, _fin) = ns.waiting(V4);
        let event = agent.wait_for_socket("stuck", &pair.id);
        let ran = poll_until(Duration::from_secs(1) * slowness(), || hook.folder.join("done").exists());
        agent.stop().totals();
        let _result = fs::remove_file(hook.folder.join("done"));
        (event["verdict"].clone(), ran)
    };
    let (verdict, _ran) = run(&[]);
    let (class, certainty) = (verdict["class"].as_str().expect("text"), verdict["certainty"].as_str().expect("text"));
    let (again, ran) = run(&["--on-stuck-class", class, "--min-certainty", certainty]);
    assert!(ran && (&again["class"], &again["certainty"]) == (&class.into(), &certainty.into()), "{verdict} {again}");
    assert!(!run(&["--on-stuck-class", if class == "pool" { "leak" } else { "pool" }]).1, "another class: {verdict}");
    assert_ne!(certainty, "fact", "{verdict}");
    assert!(!run(&["--on-stuck-class", class, "--min-certainty", "fact"]).1, "not certain enough: {verdict}");
}

#[test]
fn signals_that_the_agent_survives_end_a_hook_as_any_program() {
    let ns = Namespace::new();
    let hook = Hook::new("signals", &ns, "cat /proc/self/status > $dir/status; touch $dir/done");
    let mut command = hook.command();
    // Like `nohup` and others.
    let shield = || {
        for signal in [libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR2, libc::SIGTERM] {
            // SAFETY: takes numbers only.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        // SAFETY: a set of signals is numbers, for all of which zeros are valid.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is valid and only written.
        unsafe { libc::sigfillset(&raw mut set) };
        // SAFETY: the set is initialized, and the old one is not requested.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec, it makes only system calls.
    unsafe { command.pre_exec(shield) };
    let agent = Agent::spawn(&mut command);
    let (_pair, _fin) = ns.waiting(V4);
    hook.wait_for("done");
    let status = hook.read("status");
    for name in ["SigIgn:", "SigBlk:"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim();
        // Signals 32 and 33 belong to the C library, which does not let programs change them.
        assert_eq!(u64::from_str_radix(mask, 16).expect("a mask") & !(3 << 31), 0, "{name} {mask}");
    }
    // A signal that was blocked ends the agent too.
    agent.stop().totals();
}

#[test]
fn one_that_hangs_is_ended_in_time_and_the_agent_continues() {
    let ns = Namespace::new();
    let hook = Hook::new("hangs", &ns, "trap '' TERM; sleep 1000 & echo $$ $! > $dir/pids; wait; sleep 1000");
    let mut agent = hook.agent(&["--hook-timeout", "1s"]);
    let (_first, _fin) = ns.waiting(V4);
    assert_gone(&hook.pids());
    let (second, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &second.id);
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("took longer than 1s: --hook-timeout"), "{}", ended.stderr);
}

#[test]
fn one_that_fails_is_reported_with_what_it_has_written() {
    let ended = log_of("fails", "printf 'no such\\033[31m thing\\n' >&2; touch $dir/done; exit 3");
    assert!(ended.stderr.contains("failed after") && ended.stderr.contains("exit status: 3"), "{}", ended.stderr);
    assert!(ended.stderr.contains("| no such\\u{1b}[31m thing"), "{}", ended.stderr);
}

#[test]
fn what_one_leaves_behind_ends_with_it() {
    let ns = Namespace::new();
    let hook = Hook::new("leaves", &ns, "sleep 1000 & echo $$ $! > $dir/pids");
    let agent = hook.agent(&[]);
    let (_pair, _fin) = ns.waiting(V4);
    assert_gone(&hook.pids());
    assert!(agent.stop().stderr.contains("has ended after"));
}

#[test]
fn one_that_starts_a_daemon_is_not_waited_for() {
    let ns = Namespace::new();
    // It waits for its own file: the test removes `pids`.
    let script = "echo before; setsid sh -c 'echo $$ > '$dir'/pids; : > '$dir/ran.$$'; exec sleep 1000' & \
        while ! [ -e $dir/ran.$$ ]; do :; done";
    let hook = Hook::new("daemon", &ns, script);
    let mut agent = hook.agent(&[]);
    let (_pair, _fin) = ns.waiting(V4);
    let pids = hook.pids();
    // Runs for another group.
    fs::remove_file(hook.folder.join("pids")).unwrap();
    let (_other, _fin) = ns.waiting(V4);
    let others = hook.pids();
    agent.watch(Duration::from_millis(300) * slowness());
    let ended = agent.stop();
    let daemons = [pids, others].concat();
    assert!(daemons.iter().all(|pid| lives(*pid)), "{daemons:?}");
    for pid in daemons {
        // SAFETY: takes numbers only; the number is that of a process of this test that was not waited for: it lives.
        check(unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) }, "kill");
    }
    assert!(ended.stderr.matches("has ended after").count() >= 2, "{}", ended.stderr);
    assert!(!ended.stderr.contains("was ended"), "{}", ended.stderr);
}

#[test]
fn of_one_that_writes_much_the_log_has_the_beginning() {
    let ended = log_of("writes", "head -c 5000000 /dev/zero | tr '\\0' x; touch $dir/done");
    assert!(ended.stderr.contains("bytes more are left out"), "{:.2000}", ended.stderr);
    assert!(ended.stderr.len() < 20_000, "{}", ended.stderr.len());
}

#[test]
fn the_name_of_a_process_does_no_harm() {
    let ns = Namespace::new();
    let hook = Hook::new("names", &ns, "env > $dir/env; sh -c 'echo $CLOSEWAIT_COMM' > $dir/unquoted; touch $dir/done");
    let agent = hook.agent(&[]);
    let name = b"$(id>x)\n\x1b`a`;'\"";
    assert_eq!(name.len(), 15, "as long as a name can be");
    let pair = ns.pair(V4);
    let holder = hook.holder(name, &pair);
    let (client, id) = (pair.client, pair.id);
    drop(pair.server);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    hook.wait_for("done");
    let env = hook.environment();
    assert_eq!(env["CLOSEWAIT_COMM"], "$(id>x)\\u{a}\\u{1b}`a`;'\"", "{env:?}");
    assert_eq!((&env["CLOSEWAIT_PID"], &env["CLOSEWAIT_REMOTE"]), (&holder.pid().to_string(), &id.remote.to_string()));
    assert!(hook.read("unquoted").starts_with("$(id>x)"), "a shell does not run what is in a variable");
    agent.stop().totals();
}

#[test]
fn the_agent_is_confined_and_only_its_helper_has_the_rights_of_the_start() {
    let ns = Namespace::new();
    let hook = Hook::new("rights", &ns, "cat /proc/self/status > $dir/status; touch $dir/done");
    let agent = hook.agent(&[]);
    assert_confined(&agent, &LASTING, &LASTING, 0);
    let (_pair, _fin) = ns.waiting(V4);
    hook.wait_for("done");
    assert_confined(&agent, &LASTING, &LASTING, 0);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let lines = |status: &str| -> Vec<String> {
        let wanted =
            |line: &&str| ["CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"].iter().any(|name| line.starts_with(name));
        status.lines().filter(wanted).map(str::to_owned).collect()
    };
    assert_eq!(lines(&hook.read("status")), lines(&own));
    agent.stop().totals();
}

#[test]
fn with_the_agent_its_helper_and_what_that_runs_end() {
    for signal in [libc::SIGKILL, libc::SIGINT] {
        let ns = Namespace::new();
        let hook = Hook::new("end", &ns, "sleep 1000 & echo $$ $! > $dir/pids; wait");
        let mut agent = hook.agent(&["--hook-timeout", "1h"]);
        let (_first, _fin) = ns.waiting(V4);
        let pids = [hook.pids(), vec![helper_of(agent.pid())]].concat();
        // A hook that hangs delays no other.
        let (second, _fin) = ns.waiting(V4);
        agent.wait_for_socket("stuck", &second.id);
        assert!(pids.iter().all(|pid| lives(*pid)));
        agent.signal(signal);
        let ended = agent.join();
        if signal == libc::SIGINT {
            assert_eq!(pids.iter().filter(|pid| lives(**pid)).count(), 0, "the agent has waited for them");
            ended.totals();
        }
        assert!(ended.stderr.contains("as the agent has ended"), "{}", ended.stderr);
        assert_gone(&pids);
    }
}

#[test]
fn an_agent_whose_helper_is_gone_says_so_and_goes_on() {
    let ns = Namespace::new();
    let hook = Hook::new("gone", &ns, "touch $dir/done");
    let mut agent = hook.agent(&[]);
    let helper = helper_of(agent.pid());
    // SAFETY: takes numbers only; the agent, whose child it is, has not waited for it.
    check(unsafe { libc::kill(helper as libc::pid_t, libc::SIGKILL) }, "kill");
    assert!(poll_until(patience(), || !PathBuf::from(format!("/proc/{helper}")).exists()), "the agent waits for it");
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("no more hooks run"), "{}", ended.stderr);
}

#[test]
fn what_is_no_program_or_others_could_change_is_refused_at_the_start() {
    let ns = Namespace::new();
    let hook = Hook::new("refused", &ns, "");
    let program = hook.program();
    let refused = |program: &str, why: &str| {
        for flag in ["--on-stuck", "--on-pileup"] {
            let ended = finish(&mut run_command(&[flag, program, "--for", "0s"]));
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(78), ""), "{ended:?}");
            assert!(ended.stderr.contains(why), "{ended:?}");
        }
    };
    refused("/no/such/program", "realpath of /no/such/program failed");
    refused(&format!("{program} --now"), "without arguments");
    fs::set_permissions(&program, Permissions::from_mode(0o600)).unwrap();
    refused(&program, "chmod +x");
    fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
    refused(&program, "chmod o-w");
}

/// Folder with a script to run, which writes down its work there. It ignores sockets of other namespaces than one:
/// the agent watches all of the host's.
pub(crate) struct Hook {
    folder: PathBuf,
}

impl Hook {
    pub(crate) fn new(name: &str, ns: &Namespace, script: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-hooks-{}-{name}", process::id()));
        let _earlier = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("chmod of the folder");
        let hook = Self { folder };
        let text = format!(
            "#!/bin/sh\n[ \"$CLOSEWAIT_NETNS\" = {} ] || exit 0\ndir={}\n{script}\n",
            ns.inode,
            hook.folder.display()
        );
        fs::write(hook.program(), text).expect("a script");
        fs::set_permissions(hook.program(), Permissions::from_mode(0o755)).expect("chmod of the script");
        hook
    }

    pub(crate) fn program(&self) -> String {
        self.folder.join("hook").to_str().expect("UTF-8").to_owned()
    }

    /// Starts an agent that runs the script.
    fn agent(&self, arguments: &[&str]) -> Agent {
        Agent::spawn(self.command().args(arguments))
    }

    fn command(&self) -> Command {
        let program = self.program();
        // Sockets of these tests are too young for a verdict that runs a hook by default.
        let mut command =
            run_command(&["--stuck-after", "300ms", "--on-stuck", &program, "--on-stuck-class", ANY_CLASS]);
        command.env("CLOSEWAIT_CONTAINER", "none").env("CLOSEWAIT_PAGERDUTY_KEY_FILE", "/key");
        let socket = self.folder.join("agent.sock");
        command.arg("--socket").arg(socket);
        command
    }

    fn wait_for(&self, file: &str) {
        assert!(poll_until(patience(), || self.folder.join(file).exists()), "the script has not made {file}");
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect("what the script has written")
    }

    /// Returns the numbers that the script has written to `pids`.
    fn pids(&self) -> Vec<u32> {
        let path = self.folder.join("pids");
        let whole = || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'));
        assert!(poll_until(patience(), whole), "the script has not run");
        self.read("pids").split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
    }

    /// Returns the variables that the script has written to `env`.
    fn environment(&self) -> BTreeMap<String, String> {
        let lines = self.read("env");
        lines.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// Starts a process with this name that also owns the server's end.
    fn holder(&self, name: &[u8], pair: &Pair) -> Running {
        let link = self.folder.join(std::ffi::OsStr::from_bytes(name));
        let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| PathBuf::from(path).exists());
        symlink(sleep.expect("sleep"), &link).expect("a link");
        let raw = pair.server.as_raw_fd();
        let keep_open = move || {
            // SAFETY: takes numbers only; the descriptor is the child's copy.
            if unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        let mut command = Command::new(link);
        // Its name is that of the file; its behavior may depend on this one.
        command.arg0("sleep").arg("1000");
        // SAFETY: between fork and exec, it makes only one system call.
        unsafe { command.pre_exec(keep_open) };
        Running::spawn(&mut command)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // If this fails, the files stay in the folder for temporary files, which is harmless.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

/// Returns the agent's log, after its script has written `done` for a socket.
fn log_of(name: &str, script: &str) -> Ended {
    let ns = Namespace::new();
    let hook = Hook::new(name, &ns, script);
    let agent = hook.agent(&[]);
    let (_pair, _fin) = ns.waiting(V4);
    hook.wait_for("done");
    // The rest of the script takes at most this time.
    thread::sleep(Duration::from_millis(500) * slowness());
    let ended = agent.stop();
    ended.totals();
    ended
}

/// Returns the agent's child that runs programs.
fn helper_of(agent: u32) -> u32 {
    let parent = format!("PPid:\t{agent}");
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == parent)
    };
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let mut children = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child);
    let helper = children.next().expect("a helper");
    assert_eq!(children.next(), None, "one helper");
    let named = || fs::read_to_string(format!("/proc/{helper}/comm")).is_ok_and(|comm| comm == "closewait-hooks\n");
    assert!(poll_until(patience(), named), "it has a name of its own");
    helper
}

/// Whether a process still runs; a zombie does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_name, rest)| !rest.starts_with(['Z', 'X']))
}

fn assert_gone(pids: &[u32]) {
    assert!(poll_until(patience(), || pids.iter().all(|pid| !lives(*pid))), "still there: {pids:?}");
}
