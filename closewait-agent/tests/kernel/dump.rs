//! `contrib/hooks/dump`, run alone: where it gets the stacks from, and limits of their size for any output of the owner.

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use serde_json::Value;

use crate::{
    agent::{Finished, Running, binary, finish},
    clock::{boot_seconds, patience, poll_until},
    setup::{mount_tmpfs, unmount},
};

/// Maximum size of one dump, bytes.
const MAX_DUMP: u64 = 16 << 20;

/// Size of the file system that a test has, bytes: enough for a whole dump, and little memory if it is filled.
const FILE_SYSTEM: u64 = 128 << 20;

/// Name of a closewait that no folder of PATH has.
const NONE: &str = "closewait-that-is-not-installed";
/// Name of the fake closewait of a test.
const FAKE: &str = "closewait-that-is-fake";

/// Folder with fake tools of the runtimes, and one for dumps. It is a file system of its own: that of the host may be nearly
/// full, and then nothing would be kept.
struct Dump(PathBuf);

impl Dump {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-dump-{}-{name}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        mount_tmpfs(&folder, FILE_SYSTEM);
        let dump = Self(folder);
        fs::create_dir(dump.0.join("kept")).expect("a folder");
        dump
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("chmod");
    }

    /// Runs the script for a process of this runtime, without closewait. Returns its output.
    fn run(&self, runtime: &str, pid: u32) -> Finished {
        self.run_with(NONE, runtime, pid)
    }

    /// Runs the script with this closewait.
    fn run_with(&self, closewait: &str, runtime: &str, pid: u32) -> Finished {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/hooks/dump");
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").expect("PATH"));
        let mut command = Command::new("sh");
        command.arg(script).env("PATH", path).env("STATE_DIRECTORY", self.0.join("kept"));
        command.env("CLOSEWAIT_EVENT", "stuck").env("CLOSEWAIT_RUNTIME", runtime);
        command.env("CLOSEWAIT_PROGRAM", closewait);
        command.env("CLOSEWAIT_PID", pid.to_string());
        finish(&mut command)
    }

    /// Returns the stored files, with their sizes.
    fn kept(&self) -> Vec<(String, u64)> {
        let files = fs::read_dir(self.0.join("kept")).expect("the folder").map(|file| file.expect("a file"));
        let mut files: Vec<_> = files
            .map(|file| (file.file_name().into_string().expect("UTF-8"), file.metadata().expect("its size").len()))
            .collect();
        files.sort();
        files
    }

    /// Returns the text of the file whose name has this ending.
    fn text(&self, end: &str) -> Option<String> {
        let (name, _size) = self.kept().into_iter().find(|(name, _)| name.ends_with(end))?;
        Some(fs::read_to_string(self.0.join("kept").join(name)).expect("a text"))
    }

    /// Returns the size of the file whose name has this ending.
    fn size(&self, end: &str) -> Option<u64> {
        self.kept().into_iter().find_map(|(name, size)| name.ends_with(end).then_some(size))
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        unmount(&self.0);
        // If this fails, an empty folder stays among the temporary files, which is harmless.
        let _left = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_program_that_answers_without_end_fills_nothing() {
    let dump = Dump::new("endless");
    dump.program("py-spy", "exec cat /dev/zero");
    let ended = dump.run("CPython", process::id());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("is cut after"), "{ended:?}");
    let size = dump.size(".threads.txt").expect("a dump");
    assert!((1 << 20..MAX_DUMP).contains(&size), "{size}");
}

#[test]
fn an_empty_dump_is_reported() {
    let dump = Dump::new("empty");
    dump.program("py-spy", "exit 1");
    let ended = dump.run("CPython", process::id());
    assert!(ended.stdout.contains("would be empty") && ended.code == Some(1), "{ended:?}");
}

#[test]
fn go_is_asked_for_no_more_than_a_dump() {
    let dump = Dump::new("go");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let _length = client.read(&mut request).expect("a request");
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("an answer");
        io::copy(&mut io::repeat(b'x'), &mut client).expect_err("it is not read to its end");
    });
    // SAFETY: no other thread of the tests reads the environment now: they run one after the other.
    unsafe { std::env::set_var("PPROF_PORT", port.to_string()) };
    let ended = dump.run("Go", process::id());
    assert!(ended.stdout.contains("is cut after"), "{ended:?}");
    server.join().expect("the server");
    let size = dump.size(".threads.txt").expect("a dump");
    assert!((1 << 20..MAX_DUMP).contains(&size), "{size}");
}

#[test]
fn closewait_reads_the_stacks_before_any_tool_of_the_runtime() {
    let dump = Dump::new("reads");
    dump.program("py-spy", "echo it was run");
    dump.program("jcmd", "echo it was run");
    let program = dump.0.join("orders.py");
    fs::write(&program, "import time\nprint(1, flush=True)\ntime.sleep(1000)\n").expect("a program");
    let mut python = Running::spawn(Command::new("python3").arg(program));
    let mut ready = [0; 2];
    python.0.stdout.as_mut().expect("stdout is a pipe").read_exact(&mut ready).expect("it runs");
    let closewait = binary();
    let ended = dump.run_with(closewait.to_str().expect("UTF-8"), "CPython", python.pid());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(dump.size(".threads.txt"), None, "py-spy was not needed");
    assert!(dump.text(".stacks.txt").expect("the stacks").contains("> <module> (orders.py:3)"), "{:?}", dump.kept());
    let all: Value = serde_json::from_str(&dump.text(".stacks.json").expect("the stacks")).expect("JSON");
    assert_eq!((&all["pid"], &all["groups"][0]["language"]), (&python.pid().into(), &"python".into()), "{all}");
    // Machine code, and what the kernel does for it.
    let sleeper = Running::spawn(Command::new("sleep").arg("1000"));
    sleeper.wait_for_sleep();
    fs::remove_dir_all(dump.0.join("kept")).expect("its files");
    assert_eq!(dump.run_with(closewait.to_str().expect("UTF-8"), "", sleeper.pid()).code, Some(0));
    assert!(dump.text(".stacks.txt").expect("the stacks").contains("waits for a period of time"), "{:?}", dump.kept());
    assert!(dump.text(".kernel-stacks.txt").expect("its stack").contains("nanosleep"), "{:?}", dump.kept());
}

#[test]
fn a_tool_of_the_runtime_follows_if_closewait_does_not_know_the_version() {
    let dump = Dump::new("unknown");
    dump.program(FAKE, r#"case $* in *json) echo '{"groups":[{"language":"native"}]}' ;; *) echo native ;; esac"#);
    dump.program("py-spy", "echo threads");
    let ended = dump.run_with(FAKE, "CPython", process::id());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(dump.text(".stacks.txt").as_deref(), Some("native\n"));
    assert_eq!(dump.text(".threads.txt").as_deref(), Some("threads\n"));
}

#[test]
fn a_jvm_that_closewait_refuses_is_not_signaled_by_jcmd() {
    let dump = Dump::new("refused");
    dump.program(
        FAKE,
        "echo \"$*\" >> $STATE_DIRECTORY/../asked; case $* in *--jvm*) exit 1 ;; esac; echo machine code",
    );
    dump.program("jcmd", "echo it was run; exec touch $STATE_DIRECTORY/../signaled");
    let ended = dump.run_with(FAKE, "JVM", process::id());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let asked = fs::read_to_string(dump.0.join("asked")).expect("its arguments");
    let first = format!("stacks {} --jvm --virtual-threads", process::id());
    assert_eq!(asked.lines().next(), Some(&first[..]), "{asked}");
    assert_eq!(dump.text(".stacks.txt").as_deref(), Some("machine code\n"), "{ended:?}");
    assert!(!dump.0.join("signaled").exists(), "{ended:?}");
}

#[test]
fn stacks_without_end_leave_room_for_other_files() {
    let dump = Dump::new("both");
    dump.program(FAKE, "exec cat /dev/zero");
    dump.program("py-spy", "exec cat /dev/zero");
    let ended = dump.run_with(FAKE, "CPython", process::id());
    assert_eq!(ended.stdout.matches("is cut after").count(), 3, "{ended:?}");
    let all: u64 = dump.kept().iter().map(|(_name, size)| size).sum();
    assert!(all < MAX_DUMP && dump.size(".threads.txt") >= Some(1 << 20), "{:?}", dump.kept());
}

/// Starts a process with its own root, in which the script creates `/tmp`. It ends when this is dropped.
fn in_root(root: &Path, make_tmp: &str) -> Running {
    let script = format!(
        "cd {} && for part in bin lib lib64 usr; do
            mkdir $part && mount --bind /$part $part || exit
        done
        {make_tmp} && touch ready && exec chroot . sleep 1000",
        root.display()
    );
    let process = Running::spawn(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    let entered = || fs::read_link(format!("/proc/{}/root", process.pid())).is_ok_and(|link| link == root);
    assert!(poll_until(patience(), entered), "the process has not entered its root");
    process
}

#[test]
fn a_file_of_a_jvm_is_copied_from_its_own_root_and_no_link_is_followed() {
    // The fake jcmd gets the path as the JVM sees it.
    let last = "for file; do :; done";
    for (make_tmp, command, size) in [
        ("mkdir tmp", "echo threads > $root$file", Some(8)),
        ("mkdir tmp", "ln -s /dev/zero $root$file", None),
        ("mkdir tmp", "ln -s $root/precious $root$file", None),
        ("mkdir tmp", "mkfifo $root$file", None),
        ("mkdir tmp", "mkdir $root$file", None),
        ("mkdir tmp", ":", None),
        // A folder that only the host has.
        ("ln -s $PWD/../outside tmp", "echo precious > $root/../outside/${file##*/}", None),
    ] {
        let dump = Dump::new("jvm");
        let root = dump.0.join("root");
        for folder in [&root, &dump.0.join("outside")] {
            fs::create_dir(folder).expect("a folder");
        }
        let jvm = in_root(&root, make_tmp);
        dump.program("jcmd", &format!("{last}; root={}; {command}", root.display()));
        let ended = dump.run("JVM", jvm.pid());
        assert_eq!(dump.size(".threads.json"), size, "{command}: {ended:?}");
        assert_eq!(ended.stdout.contains("has written no file"), size.is_none(), "{command}: {ended:?}");
        assert_eq!(ended.code, Some(i32::from(size.is_none())), "{command}: {ended:?}");
        if size.is_some() {
            assert_eq!(fs::read_dir(root.join("tmp")).expect("its folder").count(), 0, "what was copied is removed");
        }
        let outside = fs::read_dir(dump.0.join("outside")).expect("the folder").count();
        assert_eq!(outside, usize::from(command.contains("outside")), "nothing outside is removed");
    }
}

#[test]
fn a_program_that_does_not_answer_is_left_in_time() {
    let dump = Dump::new("hangs");
    // A shorter time limit of the script's commands.
    dump.program("timeout", "shift 4; exec /usr/bin/timeout --foreground -k 1 1 \"$@\"");
    let hangs = "trap '' TERM; echo first; while :; do sleep 1; done";
    dump.program("py-spy", hangs);
    dump.program(FAKE, hangs);
    let began = boot_seconds();
    let ended = dump.run_with(FAKE, "CPython", process::id());
    assert!(boot_seconds() - began < 15.0, "{ended:?}");
    for end in [".stacks.txt", ".stacks.json", ".threads.txt"] {
        assert_eq!(dump.size(end), Some(6), "{ended:?}");
    }
}

#[test]
fn all_that_is_kept_has_a_bound_and_the_oldest_goes_first() {
    let dump = Dump::new("all");
    dump.program("py-spy", "echo threads");
    for number in 0..300 {
        let name = format!("20250101T000{number:03}-stuck-1-1.threads.txt");
        // Sparse: 4 MiB each that use no disk space.
        fs::File::create(dump.0.join("kept").join(name)).expect("a file").set_len(4 << 20).expect("its size");
    }
    fs::write(dump.0.join("kept/other"), "of somebody else").expect("a file");
    assert_eq!(dump.run("CPython", process::id()).code, Some(0));
    let kept = dump.kept();
    let all: u64 = kept.iter().map(|(_, size)| size).sum();
    assert!(all <= 256 << 20, "{all}");
    assert_eq!(kept.iter().filter(|(name, _)| name.starts_with("20250101")).count(), 60, "{kept:?}");
    assert!(kept[0].0.starts_with("20250101T000240"), "{kept:?}");
    assert!(kept.iter().any(|(name, _)| name == "other"), "{kept:?}");
}

#[test]
fn a_file_system_that_is_nearly_full_is_left_alone() {
    let dump = Dump::new("full");
    dump.program("py-spy", "echo threads");
    let filler = vec![1; 1 << 20];
    let mut file = fs::File::create(dump.0.join("filler")).expect("a file");
    for _ in 0..(FILE_SYSTEM >> 20) * 19 / 20 {
        file.write_all(&filler).expect("room for it");
    }
    let ended = dump.run("CPython", process::id());
    assert!(ended.code == Some(1) && ended.stdout.contains("less than a tenth"), "{ended:?}");
    assert_eq!(dump.kept(), []);
}
