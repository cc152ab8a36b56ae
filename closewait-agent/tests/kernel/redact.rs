//! `--redact` of `report`, `list` and `status`, of an agent and of a scan.

use std::{fs, os::unix::process::CommandExt as _, process};

use serde_json::Value;

use crate::{
    agent::{Agent, Running, closewait, finish},
    clock::{patience, poll_until},
    net::{Namespace, V4},
    unresponsive::hand_over,
};

/// Beginning of the name of the program, which has to be replaced.
const PROGRAM: &str = "acmeshop";

#[test]
fn nothing_original_is_in_a_redacted_answer() {
    let folder = std::env::temp_dir().join(format!("{PROGRAM}-{}", process::id()));
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join(format!("{PROGRAM}-orders"));
    let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| fs::exists(path).is_ok_and(|exists| exists));
    fs::copy(sleep.expect("sleep"), &program).expect("a copy");
    let mut command = process::Command::new(&program);
    // Programs of which `sleep` is only a part choose it by this name.
    command.arg0("sleep").arg("1000");
    let ns = Namespace::new();
    let (owner, handed): (Running, _) = hand_over(command, ns.pair(V4));
    let socket = std::env::temp_dir().join(format!("closewait-redact-{}.sock", process::id())).display().to_string();
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--stacks", "auto", "--socket", &socket]);
    handed.fin();
    agent.wait_for_socket("stuck", &handed.id);
    let port = handed.id.local.port().to_string();
    let shown = |arguments: &[&str]| {
        let finished = finish(&mut closewait(arguments));
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the name of the host");
    for asked in [&["--socket", &socket][..], &["--alone"]] {
        for command in [
            &["report", "--port", &port][..],
            &["report", "--port", &port, "--output", "md"],
            &["report", "--port", &port, "--output", "html"],
            &["report", "--port", &port, "--output", "json"],
            &["list", "--port", &port],
            &["list", "--port", &port, "--wide"],
            &["list", "--port", &port, "--by", "process"],
            &["list", "--port", &port, "--by", "peer"],
            &["list", "--port", &port, "--by", "cgroup", "--wide"],
            &["list", "--port", &port, "--by", "group"],
            &["list", "--port", &port, "--output", "json"],
        ] {
            let command = [command, asked].concat();
            let has_owner = |text: &str| text.contains(PROGRAM) || text.contains("127.0.0.1");
            assert!(poll_until(patience(), || has_owner(&shown(&command))), "{command:?} has nothing to replace");
            let redacted = shown(&[&command[..], &["--redact"]].concat());
            for original in [PROGRAM, "127.0.0.1", folder.to_str().expect("UTF-8"), &socket] {
                assert!(!redacted.contains(original), "{original} in {command:?}:\n{redacted}");
            }
            assert!(host.trim().len() < 4 || !redacted.contains(host.trim()), "{command:?}:\n{redacted}");
            let is_grouped = command.contains(&"peer") || command.contains(&"process") || command.contains(&"cgroup");
            assert!(redacted.contains(&port) || is_grouped, "{command:?} has no port {port}:\n{redacted}");
        }
        let object = [&["status", "--output", "json", "--redact"][..], asked].concat();
        let status: Value = serde_json::from_str(&shown(&object)).expect("JSON");
        let groups = status["groups"].as_array().expect("groups");
        let ours = groups.iter().find(|group| group["owner"]["pid"] == owner.pid()).expect("our group");
        assert!(ours["owner"]["comm"].as_str().is_some_and(|name| name.starts_with("program-")), "{ours}");
        assert!(!status.to_string().contains(PROGRAM) && !status.to_string().contains("127.0.0.1"), "{status}");
    }
    agent.stop().totals();
    drop(owner);
    fs::remove_dir_all(folder).expect("the folder");
}
