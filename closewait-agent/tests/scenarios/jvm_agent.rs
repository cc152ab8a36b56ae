//! `closewait run --stacks auto --stacks-jvm`: what a running agent says about Java virtual machines that own stuck sockets.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::{
    agent::{Agent, closewait, finish},
    clock::{patience, poll_until},
    lines::line,
    proc,
    stage::{Stage, pause, ready},
    tomcat,
};

/// Arguments of the agent.
const ARGUMENTS: [&str; 5] = ["--stuck-after", "2s", "--stacks", "auto", "--stacks-jvm"];

/// Time in which the agent inspects the owners of stuck sockets several times.
const INSPECTIONS: Duration = Duration::from_secs(6);

/// Returns the process of the stage's machine.
fn machine(stage: &Stage) -> u32 {
    let is_machine = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "java\n");
    proc::inhabitants(&stage.ns).into_iter().find(is_machine).expect("a JVM")
}

/// Socket at which a machine listens that was asked; it is removed after the test.
struct AttachSocket(PathBuf);

impl AttachSocket {
    fn of(pid: u32) -> Self {
        Self(PathBuf::from(format!("/tmp/.java_pid{pid}")))
    }
}

impl Drop for AttachSocket {
    fn drop(&mut self) {
        let _none = fs::remove_file(&self.0);
    }
}

/// Starts a server three of whose four workers wait for a lock.
fn locked(stage: &mut Stage) -> u32 {
    locked_by(stage, "java", &[], &ready().join("java"))
}

/// Starts that server by a program with these arguments, and its classes in a folder.
fn locked_by(stage: &mut Stage, program: &str, arguments: &[&str], classes: &Path) -> u32 {
    let classes = classes.to_str().expect("UTF-8");
    let options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes, "Blocked"];
    stage.start(program, &[arguments, &options].concat());
    stage.listens(8080);
    drop([(); 3].map(|()| stage.ask(8080, "/lock")));
    stage.has_waiting(3);
    // The agent asks a machine again only after a minute.
    stage.says("waits: 3");
    pause(500);
    machine(stage)
}

/// Returns the groups of a recording, and the same as text.
fn report(file: &str) -> (Vec<Value>, String) {
    let object = finish(&mut closewait(&["report", file, "--output", "json"]));
    let object: Value = serde_json::from_str(&object.stdout).expect("JSON");
    crate::schema::check_reported(&object);
    let text = finish(&mut closewait(&["report", file])).stdout;
    (object["groups"].as_array().expect("groups").clone(), text)
}

fn recording(name: &str) -> PathBuf {
    env::temp_dir().join(format!("closewait-jvm-{name}-{}.recording", std::process::id()))
}

/// Waits until the agent reports a stuck socket of the stage with a text that contains this.
fn stuck(agent: &mut Agent, stage: &Stage, part: &str) -> String {
    let netns = Value::from(stage.ns.inode);
    let text = |event: &Value| event["verdict"]["text"].as_str().unwrap_or_default().to_owned();
    let has = |event: &Value| {
        let is_of_stage = event["event"] == "stuck" && event["socket"]["netns"] == netns;
        is_of_stage && text(event).contains(part)
    };
    text(&agent.wait_for(&format!("a verdict with {part:?}"), has))
}

#[test]
fn the_agent_names_the_line_and_the_owner_of_the_lock() {
    let mut stage = Stage::new("jvm-agent-locked");
    let pid = locked(&mut stage);
    let socket = AttachSocket::of(pid);
    let recording = recording("locked");
    let file = recording.to_str().expect("UTF-8");
    let mut agent = Agent::start(&[&ARGUMENTS[..], &["--record", file]].concat());
    let place = format!("Blocked.book (Blocked.java:{})", 1 + line("Blocked.java", "synchronized (LEDGER) {"));
    let expected = format!("java[{pid}]: 3 threads wait for a lock in {place}");
    let live = stuck(&mut agent, &stage, &expected);
    assert!(socket.0.exists(), "it was asked");
    let ended = agent.stop();
    ended.totals();
    // Other machines of this host can be full.
    assert!(!ended.stderr.contains(&format!("{pid} has not dumped its threads")), "{}", ended.stderr);
    // The free worker.
    drop(stage.answered(8080, "/"));
    let (groups, _) = report(file);
    let has_line = |group: &&Value| group["verdict"]["text"].as_str().is_some_and(|text| text.contains(&expected));
    let group = groups.iter().find(has_line).unwrap_or_else(|| panic!("{live}: {groups:#?}"));
    let stacks = group["stacks"].as_array().expect("stacks");
    let waits = stacks.iter().find(|group| group["waits_for"] == "a lock").expect("the threads");
    assert_eq!((&waits["count"], &waits["language"]), (&3.into(), &"jvm".into()), "{waits:#}");
    assert_eq!(waits["lock_owner"]["name"], "audit");
    let holds = &waits["lock_owner"]["place"];
    let audit = 2 + line("Blocked.java", "AUDITED.countDown();");
    assert_eq!((&holds["function"], &holds["line"]), (&"Blocked.audit".into(), &audit.into()));
    // A replay makes the same events, with the same stacks.
    let replayed = finish(&mut closewait(&["replay", file, "--output", "json"]));
    assert_eq!((replayed.code, replayed.stdout.as_str()), (Some(0), ended.stdout.as_str()));
    fs::remove_file(&recording).expect("the recording");
}

#[test]
fn a_machine_of_another_user_is_asked_as_that_user() {
    let classes = Path::new("/var/tmp").join(format!("closewait-jvm-agent-{}", std::process::id()));
    fs::create_dir_all(&classes).expect("a folder");
    fs::set_permissions(&classes, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::copy(ready().join("java/Blocked.class"), classes.join("Blocked.class")).expect("the program");
    let mut stage = Stage::new("jvm-agent-user");
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "java"];
    let pid = locked_by(&mut stage, "setpriv", &user, &classes);
    fs::remove_dir_all(&classes).expect("it was loaded");
    let _socket = AttachSocket::of(pid);
    let mut agent = Agent::start(&ARGUMENTS);
    stuck(&mut agent, &stage, &format!("java[{pid}]: 3 threads wait for a lock in Blocked.book"));
    agent.stop().totals();
    drop(stage.answered(8080, "/"));
}

#[test]
fn without_free_descriptors_a_machine_is_not_asked() {
    let mut stage = Stage::new("jvm-agent-descriptors");
    let pid = locked(&mut stage);
    let socket = AttachSocket::of(pid);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count() as u64;
    let process = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let limit = Rlimit { current: Some(open + 3), ..getrlimit(Resource::Nofile) };
    prlimit(Some(process), Resource::Nofile, limit).expect("a lower limit");
    let mut agent = Agent::start(&ARGUMENTS);
    stuck(&mut agent, &stage, "");
    agent.watch(INSPECTIONS);
    let ended = agent.stop();
    ended.totals();
    let refused = format!("the Java virtual machine {pid} has not dumped its threads: it has ");
    let why = ended.stderr.lines().find(|line| line.contains(&refused)).unwrap_or_else(|| panic!("{}", ended.stderr));
    assert!(why.contains(&format!(" of {} descriptors open, and needs 4 to answer", open + 3)), "{why}");
    assert!(!socket.0.exists(), "it was made to listen");
}

#[test]
fn without_the_option_a_machine_is_not_asked() {
    let mut stage = Stage::new("jvm-agent-off");
    let socket = AttachSocket::of(locked(&mut stage));
    let mut agent = Agent::start(&ARGUMENTS[..4]);
    stuck(&mut agent, &stage, "");
    agent.watch(INSPECTIONS);
    agent.stop().totals();
    assert!(!socket.0.exists(), "it was made to listen");
}

#[test]
fn all_carriers_of_virtual_threads_are_pinned() {
    let mut stage = Stage::new("jvm-agent-pinned");
    tomcat::pin(&mut stage);
    let pid = machine(&stage);
    let socket = AttachSocket::of(pid);
    let recording = recording("pinned");
    let file = recording.to_str().expect("UTF-8");
    let mut agent = Agent::start(&[&ARGUMENTS[..], &["--record", file]].concat());
    let place = format!("Pinned$Span.record (Pinned.java:{})", line("Pinned.java", "LOCK.lock();"));
    let carriers = format!("all {} carriers of virtual threads are pinned in {place}; ", tomcat::CARRIERS);
    let live = stuck(&mut agent, &stage, &carriers);
    assert!(live.contains(" virtual threads without a carrier cannot run"), "{live}");
    assert!(poll_until(patience(), || socket.0.exists()));
    agent.stop().totals();
    let (_, text) = report(file);
    let whole = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(whole.contains(&carriers), "{text}");
    let left = fs::read_dir("/tmp").expect("/tmp").filter_map(Result::ok);
    assert_eq!(left.filter(|file| file.file_name().to_string_lossy().starts_with(".closewait-")).count(), 0);
    fs::remove_file(&recording).expect("the recording");
}
