//! `closewait status` about a server that is stopped, by a scan of its own and by an agent.

use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{self, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Finished, closewait, finish},
    clock::{patience, poll_until},
    leftovers,
    net::{Namespace, V4},
    schema,
};

/// Script that stops its shell.
const SCRIPT: &str = "kill -STOP $$\n";

/// Stopped shell that owns a socket, and its script.
struct Server {
    child: process::Child,
    script: PathBuf,
}

impl Server {
    /// Starts the shell with `socket` as its standard input.
    fn start(socket: OwnedFd) -> Self {
        let script = std::env::temp_dir().join(format!("orders-{}.sh", process::id()));
        fs::write(&script, SCRIPT).expect("a script");
        let mut command = Command::new("/bin/sh");
        command.arg(&script).arg("s3cret").stdin(socket).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("a shell");
        let stat = format!("/proc/{}/stat", child.id());
        poll_until(patience(), || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
        Self { child, script }
    }

    /// Name of the shell with its pid and the name of its script.
    fn name(&self) -> String {
        format!("sh[{}] orders-{}.sh", self.child.id(), process::id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only for a process that was waited for.
        let _ended = self.child.kill();
        self.child.wait().expect("wait");
        fs::remove_file(&self.script).expect("the script");
    }
}

/// Runs the command on a screen of 80 columns and 24 rows.
fn status(arguments: &[&str]) -> Finished {
    let mut command = closewait(arguments);
    let finished = finish(command.env("COLUMNS", "80").env("LINES", "24").env("NO_COLOR", "1"));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished
}

/// Checks the text of an agent about the server on this port.
fn check_text(server: &Server, port: u16, text: &str) {
    assert!(text.lines().count() < 24, "{text}");
    let port = format!(":{port}");
    // Another program of this host can be more urgent.
    let row = text.lines().find(|line| line.split_whitespace().any(|word| word == port));
    let row = row.unwrap_or_else(|| panic!("no row of {port}:\n{text}"));
    assert!(row.starts_with("HUNG ") && row.contains(&server.name()), "{text}");
    let command = format!("kill -CONT {}", server.child.id());
    assert!(text.lines().any(|line| line.trim_start() == command), "{text}");
    assert!(!text.contains("s3cret") && !text.contains('\x1b'), "{text}");
}

/// Returns the object of the group of the server on this port, and whether an agent watched.
fn group(server: &Server, port: u16, arguments: &[&str]) -> (Value, bool) {
    let json = status(&[arguments, &["--output", "json"]].concat()).stdout;
    assert!(!json.contains("s3cret"), "{json}");
    let object: Value = serde_json::from_str(&json).expect("JSON");
    schema::check_status(&object);
    let groups = object["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["group"]["local_port"] == port).expect("the group");
    assert_eq!((&group["owner"]["pid"], &group["count"]), (&server.child.id().into(), &1.into()), "{group}");
    let script = server.script.file_name().and_then(|name| name.to_str());
    assert_eq!(group["script"].as_str(), script, "{group}");
    (group.clone(), !object["watched_seconds"].is_null())
}

#[test]
fn a_stopped_server_is_named_by_its_script_with_the_command_that_helps() {
    if !can(Ability::Files) {
        return;
    }
    let path = std::env::temp_dir().join(format!("closewait-status-{}.socket", process::id()));
    let path = path.display().to_string();
    let mut agent = Agent::start(&["--stuck-after", "1s", "--socket", &path]);
    let ns = Namespace::new();
    let pair = ns.pair(V4);
    let port = pair.id.local.port();
    let server = Server::start(pair.server.into());
    drop(pair.client);
    let _stuck = agent.wait_for_socket("stuck", &pair.id);
    let asked = ["status", "--socket", &path];
    // A socket that is seconds old can still be on its way to the program.
    poll_until(patience(), || {
        agent.watch(Duration::from_millis(200));
        group(&server, port, &asked).0["verdict"]["class"] == "hung"
    });
    check_text(&server, port, &status(&asked).stdout);
    let (hung, watched) = group(&server, port, &asked);
    let command = format!("kill -CONT {}", server.child.id());
    assert_eq!((&hung["verdict"]["class"], &hung["command"]), (&"hung".into(), &command.into()), "{hung}");
    assert!(watched && hung["severity"] == "error", "{hung}");
    // A scan does not know the growth.
    let (alone, watched) = group(&server, port, &["--alone"]);
    assert!(!watched && alone["slope_per_second"].is_null(), "{alone}");
    drop(server);
    agent.stop().totals();
    leftovers::assert_none();
}
