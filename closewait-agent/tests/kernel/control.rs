//! Control socket: files that `run --socket` may change, permissions and trust, and the cost of clients that do not
//! read.

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use closewait::{
    control::PROTOCOL,
    sink::answer::{AnswerError, AnswerItem, ItemFrame},
};
use closewait_engine::{
    model::{Certainty, Class},
    snapshot::hints::Hint,
    snapshot::query::{Filter, ListContent, Query},
};
use serde_json::Value;

use crate::{
    agent::{Agent, Finished, closewait, finish, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    listing::list_at,
    many::flood,
    net::{Id, Namespace, V4},
    setup::NOBODY,
    socket,
};

/// Folder that is removed after the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-control-test-{}-{name}", process::id()));
        fs::create_dir(&folder).expect("a new folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("its mode");
        Self(folder)
    }

    pub(crate) fn socket(&self) -> String {
        self.0.join("agent.sock").display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).expect("the folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Returns the degraded features of this socket in the event `start` of an agent.
fn degraded(agent: &Agent) -> Vec<String> {
    let said = agent.events[0]["degraded"].as_array().expect("a list");
    let texts = said.iter().map(|one| one.as_str().expect("text").to_owned());
    texts.filter(|text| text.contains("control socket")).collect()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).expect("a file").mode() & 0o7777
}

#[test]
fn socket_and_folder_have_their_modes_whatever_the_umask() {
    for umask in [0o000, 0o022, 0o077, 0o177] {
        let folder = Folder::new("umask");
        let path = folder.0.join("made/agent.sock");
        let mut command = run_command(&["--socket", path.to_str().expect("UTF-8")]);
        let work = move || {
            // SAFETY: takes a number only, and cannot fail.
            unsafe { libc::umask(umask) };
            Ok(())
        };
        // SAFETY: between fork and exec, `work` makes only one system call.
        unsafe { command.pre_exec(work) };
        let agent = Agent::spawn(&mut command);
        assert_eq!((mode(folder.0.join("made")), mode(&path)), (0o755, 0o600), "umask {umask:03o}");
        assert_eq!(degraded(&agent), Vec::<String>::new());
        agent.stop().totals();
        assert!(!path.exists());
    }
}

#[test]
fn what_is_no_socket_of_an_agent_stays_and_the_agent_watches_all_the_same() {
    let folder = Folder::new("occupied");
    let path = folder.socket();
    fs::write(folder.0.join("precious"), "precious").expect("a file");
    type MakeFile = fn(&str);
    let make: [(&str, MakeFile); 4] = [
        ("a regular file", |path| fs::write(path, "precious").expect("a file")),
        ("a symbolic link", |path| std::os::unix::fs::symlink("precious", path).expect("a link")),
        ("a folder", |path| fs::create_dir(path).expect("a folder")),
        ("a socket of user 65534", |path| {
            drop(UnixListener::bind(path).expect("a socket"));
            std::os::unix::fs::chown(path, Some(NOBODY), None).expect("chown");
        }),
    ];
    for (what, make) in make {
        make(&path);
        let before = fs::symlink_metadata(&path).expect("what was made");
        let agent = Agent::start(&["--socket", &path]);
        let said = degraded(&agent);
        assert!(said.len() == 1 && said[0].starts_with("this agent runs without a control socket: "), "{said:?}");
        assert!(said[0].contains(what) && said[0].contains("give a --socket of its own"), "{said:?}");
        let ended = agent.stop();
        ended.totals();
        assert!(ended.stderr.contains("runs without a control socket"), "{}", ended.stderr);
        let after = fs::symlink_metadata(&path).expect("what was made is still there");
        assert_eq!((before.ino(), before.mode(), before.len()), (after.ino(), after.mode(), after.len()), "{what}");
        if before.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.expect("the end of it");
    }
    assert_eq!(fs::read(folder.0.join("precious")).expect("the target of the link"), b"precious");
    assert_eq!(folder.names(), ["precious"]);
}

#[test]
fn a_socket_of_an_agent_that_was_killed_is_replaced() {
    let folder = Folder::new("killed");
    let path = folder.socket();
    let killed = Agent::start(&["--socket", &path]);
    killed.signal(libc::SIGKILL);
    assert_eq!(killed.join().code, None);
    assert_eq!(folder.names(), ["agent.sock"]);
    let agent = Agent::start(&["--socket", &path]);
    assert_eq!(degraded(&agent), Vec::<String>::new());
    list_at(&path);
    // And it does not replace the socket of a running agent.
    let second = Agent::start(&["--socket", &path]);
    assert!(degraded(&second)[0].contains("another agent answers"), "{:?}", degraded(&second));
    second.stop().totals();
    list_at(&path);
    agent.stop().totals();
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn an_agent_leaves_the_socket_of_the_next_one_alone() {
    let folder = Folder::new("next");
    let path = folder.socket();
    let first = Agent::start(&["--socket", &path]);
    fs::remove_file(&path).expect("the first one's socket");
    let second = Agent::start(&["--socket", &path]);
    first.stop().totals();
    assert_eq!(folder.names(), ["agent.sock"]);
    let asked = ask(&["list", "--socket", &path]);
    assert!(asked.code == Some(0) && !asked.stderr.contains("without it"), "{asked:?}");
    second.stop().totals();
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn a_folder_in_which_others_can_replace_the_socket_is_reported() {
    let folder = Folder::new("open");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o777)).expect("its mode");
    std::os::unix::fs::chown(&folder.0, Some(NOBODY), None).expect("chown");
    let agent = Agent::start(&["--socket", &folder.socket()]);
    let said = degraded(&agent);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("belongs to user 65534") && said[1].contains("mode 0777"), "{said:?}");
    list_at(&folder.socket());
    agent.stop().totals();
}

#[test]
fn a_given_path_without_an_agent_is_reported() {
    let folder = Folder::new("absent");
    let path = folder.socket();
    let absent = format!("no agent answers at {path}; this is a one-off scan\n");
    for command in [&["list"][..], &["report"], &["status"], &["status", "--output", "json"], &["kill", "--port", "1"]]
    {
        let asked = ask(&[command, &["--socket", &path]].concat());
        assert!(asked.code == Some(0) && asked.stderr.contains(&absent), "{asked:?}");
    }
    // A socket whose listener has gone.
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(ask(&["list", "--socket", &path]).stderr.contains(&absent));
    assert!(!ask(&["list", "--socket", &path, "--alone"]).stderr.contains("no agent"));
}

#[test]
fn a_path_that_is_too_long_is_reported_and_the_agent_watches() {
    let folder = Folder::new("long");
    let path = folder.0.join("x".repeat(120)).display().to_string();
    let agent = Agent::start(&["--socket", &path]);
    let said = degraded(&agent);
    assert!(said.len() == 1 && said[0].contains("too long") && said[0].contains("107"), "{said:?}");
    agent.stop().totals();
    let asked = ask(&["list", "--socket", &path]);
    assert!(asked.code == Some(0) && asked.stderr.contains("too long"), "{asked:?}");
}

#[test]
fn a_stranger_is_not_believed_by_any_command() {
    let folder = Folder::new("stranger");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o777)).expect("its mode");
    let path = folder.socket();
    let (listener, path) = as_nobody(move || UnixListener::bind(&path).map(|listener| (listener, path)));
    let answering = thread::spawn(move || {
        for stream in listener.incoming().take(3) {
            let mut stream = stream.expect("a client");
            // The client hangs up without a query.
            assert_eq!(stream.read(&mut [0; 8]).expect("the end"), 0, "a stranger is not even asked");
            let _gone = stream.write_all(&answer_of(&[]));
        }
    });
    for command in [&["list"][..], &["report"], &["kill", "--yes", "--port", "1"]] {
        let refused = ask(&[command, &["--socket", &path]].concat());
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
        assert!(refused.stderr.contains("user 65534 answers at"), "{refused:?}");
        assert!(refused.stderr.contains("\nhint: ") && refused.stderr.contains("--alone"), "{refused:?}");
    }
    answering.join().expect("the stranger");
}

#[test]
fn a_stranger_gets_no_answer() {
    let folder = Folder::new("asked");
    let path = folder.socket();
    let agent = Agent::start(&["--socket", &path]);
    let denied = as_nobody(|| Ok(UnixStream::connect(folder.socket()).expect_err("mode 0600").kind()));
    assert_eq!(denied, io::ErrorKind::PermissionDenied);
    // For any mode of the socket.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("its mode");
    let mut told = String::new();
    as_nobody(|| {
        let mut stream = UnixStream::connect(folder.socket())?;
        stream.set_read_timeout(Some(patience()))?;
        // The agent may have refused it, and hung up, before that.
        let _refused = stream.write_all(question().as_bytes());
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|read| read == 1) && byte != *b"\n" {
            told.push(char::from(byte[0]));
        }
        Ok(())
    });
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["refused"], "user 65534 may not ask; only root and user 0 may");
    agent.stop().totals();
}

#[test]
fn an_agent_that_is_stopped_holds_up_no_command() {
    let folder = Folder::new("stopped");
    let path = folder.socket();
    let ns = Namespace::inhabited();
    let (pair, _fin) = ns.waiting(V4);
    let agent = Agent::start(&["--socket", &path]);
    agent.signal(libc::SIGSTOP);
    let began = boot_seconds();
    let port = pair.id.remote.port().to_string();
    let asked = ask(&["list", "--output", "json", "--port", &port, "--socket", &path]);
    let took = boot_seconds() - began;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(asked.stderr.contains("the agent did not answer within 5s"), "{asked:?}");
    let listed: Vec<Value> = asked.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(listed.iter().any(|object| pair.id.is_in(object)), "it looks without the agent: {asked:?}");
    assert!(took >= 5.0 && took < 5.0 + 5.0 * f64::from(slowness()), "{took} s");
    agent.signal(libc::SIGCONT);
    list_at(&path);
    agent.stop().totals();
}

#[test]
fn clients_that_do_not_read_take_little_memory_and_delay_no_other() {
    let folder = Folder::new("silent");
    let path = folder.socket();
    let ns = Namespace::new();
    let _sockets = flood(&ns, 3000);
    let agent = Agent::start(&["--stuck-after", "1h", "--socket", &path]);
    let mut whole = Vec::new();
    assert!(ask_agent(&path, &everything(), |frame| whole.extend_from_slice(frame)));
    let length = whole.len();
    // Size of all answers together, KiB.
    let raw = length as u64 * SILENT as u64 / 1024;
    assert!(raw > 32 << 10, "{raw} KiB: more than the agent keeps for answers");
    // Resets the peak of resident memory (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").expect("clear_refs");
    let before = resident(agent.pid(), "VmRSS:");
    let silent: Vec<UnixStream> = (0..SILENT)
        .map(|_| {
            let mut stream = UnixStream::connect(&path).expect("the agent");
            stream.write_all(question().as_bytes()).expect("a question");
            stream
        })
        .collect();
    // It comes after all others, which takes a while in an unoptimized program.
    let beside = || ask(&["list", "--port", "1", "--socket", &path]);
    assert!(poll_until(patience(), || beside().stderr.is_empty()), "{:?}", beside());
    let most = resident(agent.pid(), "VmHWM:") - before;
    assert!(most < raw / 2, "{most} KiB for {SILENT} answers of {} KiB each", length / 1024);
    // The agent hangs up on each, with the answer cut off.
    for mut stream in silent {
        let mut taken = Vec::new();
        stream.set_read_timeout(Some(patience())).expect("a timeout");
        assert!(poll_until(patience(), || hung_up(&stream)));
        stream.read_to_end(&mut taken).expect("the end");
        assert!(taken.starts_with(b"{\"protocol\":") && taken.len() < length, "{}", taken.len());
    }
    list_at(&path);
    agent.stop().totals();
}

#[test]
fn silent_clients_are_hung_up_on_and_delay_no_other_client() {
    let folder = Folder::new("mute");
    let path = folder.socket();
    let agent = Agent::start(&["--socket", &path]);
    let connect = |said: &str| {
        let mut stream = UnixStream::connect(&path).expect("the agent");
        stream.write_all(said.as_bytes()).expect("a part of a question");
        stream
    };
    let began = boot_seconds();
    let silent = ["", "{\"form\":", "{\"form\":\"json\"}"].map(connect);
    list_at(&path);
    let answered = boot_seconds() - began;
    assert!(silent.iter().all(|stream| !hung_up(stream)) || answered > 4.0, "the agent waits for them meanwhile");
    // Its time limit for a query is five seconds.
    for stream in &silent {
        assert!(poll_until(patience(), || hung_up(stream)));
    }
    let took = boot_seconds() - began;
    assert!(answered < 4.0 * f64::from(slowness()), "another client got its answer after {answered} s");
    assert!((4.9..5.0 + 5.0 * f64::from(slowness())).contains(&took), "the silent ones were hung up on after {took} s");
    for mut stream in silent {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the end");
        assert_eq!(answer, "", "half a question has no answer");
    }
    // As many as the agent serves at once: a command still works, with the agent's answer or without it.
    let silent: Vec<_> = (0..64).map(|_| connect("")).collect();
    let asked = ask(&["list", "--port", "1", "--socket", &path]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(poll_until(patience(), || silent.iter().all(hung_up)));
    list_at(&path);
    agent.stop().totals();
}

#[test]
fn questions_that_wait_do_not_hold_up_the_end_of_an_agent() {
    let folder = Folder::new("questions");
    let path = folder.socket();
    let ns = Namespace::new();
    let _sockets = flood(&ns, 5000);
    let mut agent = Agent::start(&["--stuck-after", "1h", "--socket", &path]);
    let before = boot_seconds();
    list_at(&path);
    let one = boot_seconds() - before;
    let _silent: Vec<UnixStream> = (0..60)
        .map(|_| {
            let mut stream = UnixStream::connect(&path).expect("the agent");
            stream.write_all(question().as_bytes()).expect("a question");
            stream
        })
        .collect();
    // It makes answers when the signal comes.
    agent.watch(Duration::from_millis(300));
    let signalled = boot_seconds();
    agent.stop();
    let took = boot_seconds() - signalled;
    assert!(took < 1.0 + 3.0 * one, "{took} s, and {one} s for one answer");
}

#[test]
fn control_characters_of_an_answer_reach_no_terminal() {
    let folder = Folder::new("escape");
    let said = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31mred\u{1b}[0m\u{202e}\r\nno";
    let shown = "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{1b}[31mred\\u{1b}[0m\\u{202e}\\u{d}\\u{a}no";
    // A note keeps its line breaks.
    let (note, shown_note) = (said.replace('\n', " "), shown.replace("\\u{a}", " "));
    let ns = Namespace::inhabited();
    let mut items = items_of(&ns.waiting(V4).0.id);
    let mut hint = None;
    for item in &mut items {
        match item {
            AnswerItem::Header(header) => header.unseen = Some(note.clone()),
            AnswerItem::Row(row) => {
                (row.verdict.class, row.verdict.certainty) = (Class::Hung, Certainty::High);
                (row.verdict.text, row.verdict.next) = (said.to_owned(), said.into());
                hint = Some(Hint::Cause { owner: None, count: 1, verdict: row.verdict.clone() });
            }
            AnswerItem::Listener(_)
            | AnswerItem::Workload(_)
            | AnswerItem::Process(_)
            | AnswerItem::Report(_)
            | AnswerItem::Group(_)
            | AnswerItem::ListedGroup(_)
            | AnswerItem::Hint(_)
            | AnswerItem::Summary(_) => {}
        }
    }
    items.extend(hint.map(|hint| AnswerItem::Hint(Box::new(hint))));
    for output in ["text", "json"] {
        let answering = answer_once(&folder.socket(), answer_of(&items));
        let asked = ask(&["list", "--output", output, "--socket", &folder.socket()]);
        assert_eq!(asked.code, Some(0), "{asked:?}");
        let printed = if output == "json" { asked.stdout.replace("\\\\", "\\") } else { asked.stdout.clone() };
        assert_eq!(printed.matches(shown).count(), 2, "{asked:?}");
        assert!(!asked.stdout.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{asked:?}");
        let noted = if output == "text" { &asked.stdout } else { &asked.stderr };
        assert!(noted.contains(&shown_note), "{asked:?}");
        answering.join().expect("the answer");
    }
    // Nor do those of a refusal.
    let refusal = format!("{}\n", serde_json::json!({ "protocol": PROTOCOL, "refused": said }));
    let answering = answer_once(&folder.socket(), refusal.into_bytes());
    let asked = ask(&["list", "--socket", &folder.socket()]);
    assert!(asked.code == Some(1) && asked.stderr.contains(shown), "{asked:?}");
    answering.join().expect("the answer");
}

#[test]
fn an_answer_that_is_cut_off_or_of_another_version_is_no_list() {
    let folder = Folder::new("version");
    let ns = Namespace::inhabited();
    let whole = answer_of(&items_of(&ns.waiting(V4).0.id));
    let other = String::from_utf8_lossy(&whole).replace(&format!("\"protocol\":{PROTOCOL}"), "\"protocol\":99");
    for (answer, words) in [
        (whole[..whole.len() - 1].to_vec(), "was cut off"),
        (other.into_bytes(), "speaks version 99 of the control protocol"),
        (b"{\"bytes\":17}\nno socket matches".to_vec(), "speaks version 0 of the control protocol"),
    ] {
        for command in [&["list"][..], &["report"], &["kill", "--yes", "--port", "1"]] {
            let answering = answer_once(&folder.socket(), answer.clone());
            let asked = ask(&[command, &["--socket", &folder.socket()]].concat());
            assert_eq!((asked.code, asked.stdout.as_str()), (Some(1), ""), "{asked:?}");
            assert!(asked.stderr.contains(words) && asked.stderr.contains("\nhint: "), "{asked:?}");
            answering.join().expect("the answer");
        }
    }
}

/// Whether the other end has closed the connection.
fn hung_up(stream: &UnixStream) -> bool {
    let mut poll = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(stream), events: 0, revents: 0 };
    // SAFETY: `poll` is one valid entry, and the call does not wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLHUP != 0
}

/// Receives one query as an agent of this user, and sends this answer.
pub(crate) fn answer_once(path: &str, answer: Vec<u8>) -> JoinHandle<()> {
    let _left = fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _address) = listener.accept().expect("a client");
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).expect("a question");
        }
        // A client that has read enough hangs up.
        let _gone = stream.write_all(&answer);
    })
}

fn ask(arguments: &[&str]) -> Finished {
    finish(&mut closewait(arguments))
}

/// Returns a line of `status`, KiB.
fn resident(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().strip_suffix(" kB").expect("KiB").parse().expect("a number")
}

/// Runs `work` on a new thread as the user without privileges: in the kernel, each thread has its own user.
fn as_nobody<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> T {
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let none = libc::c_long::from(NOBODY);
            // SAFETY: takes numbers only, and changes this thread alone, unlike the function of the C library.
            let failed = unsafe { libc::syscall(libc::SYS_setresuid, none, none, none) };
            socket::check(failed as libc::c_int, "setresuid");
            work().expect("as nobody")
        });
        working.join().expect("the thread")
    })
}

/// Returns a standard output whose reader has gone.
pub(crate) fn gone_reader() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Number of clients that read no answer.
const SILENT: usize = 32;

/// Returns the query in the line of [`question`].
fn everything() -> Query {
    Query::List { filter: Filter::default(), content: ListContent::Sockets }
}

/// Returns the line of a query for all sockets.
pub(crate) fn question() -> String {
    format!("{{\"protocol\":{PROTOCOL},\"query\":{{\"list\":{{}}}}}}\n")
}

/// Queries an agent as the commands do. Returns whether there is one.
fn ask_agent(path: &str, query: &Query, mut take: impl FnMut(&[u8])) -> bool {
    let take = |frame: &[u8]| {
        take(frame);
        Ok(())
    };
    closewait::control::ask(Path::new(path), query, take).expect("an answer")
}

/// Returns the items of an agent's answer about a socket of this process.
pub(crate) fn items_of(id: &Id) -> Vec<AnswerItem<'static>> {
    let folder = Folder::new(&format!("items-{}", id.remote.port()));
    let agent = Agent::start(&["--socket", &folder.socket()]);
    let filter = Filter { pids: vec![process::id()], ports: vec![id.remote.port()], ..Filter::default() };
    let mut items = Vec::new();
    let query = Query::List { filter, content: ListContent::Sockets };
    let asked = ask_agent(&folder.socket(), &query, |frame| {
        let add = |item| {
            items.push(item);
            Ok::<(), AnswerError>(())
        };
        ItemFrame::decode(frame, add).expect("items");
    });
    assert!(asked, "the agent answers");
    agent.stop().totals();
    items.retain(|item| !matches!(item, AnswerItem::Row(row) if row.socket.netns.map(u64::from) != id.netns));
    assert_eq!(items.iter().filter(|item| matches!(item, AnswerItem::Row(_))).count(), 1, "{items:?}");
    items
}

/// Returns the bytes of an answer with these items.
pub(crate) fn answer_of(items: &[AnswerItem<'_>]) -> Vec<u8> {
    let mut frame = ItemFrame::default();
    items.iter().for_each(|item| frame.add(item).expect("an item"));
    let frame = frame.bytes();
    let head = format!("{{\"protocol\":{PROTOCOL},\"agent\":\"0.1.0\"}}\n");
    let length = u32::try_from(frame.len()).expect("a short frame");
    // The end mark: no length, and the number of frames.
    [head.as_bytes(), &length.to_le_bytes(), frame, &[0; 4], &1_u64.to_le_bytes()].concat()
}

/// Time that makes an age clearly nonzero.
pub(crate) const AWHILE: Duration = Duration::from_millis(300);
