//! Events in a real journal: systemd-journald in a mount namespace of its own.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;
use tests_support::journal::{JOURNALCTL, JOURNALD, SCRIPT, SOCKET};

use crate::{
    agent::{Agent, Running, binary, finish},
    clock::{patience, poll_until, slowness},
    engine::has_engine,
    net::{Namespace, V4},
};

/// Catalog of the project.
const CATALOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd/closewait.catalog");

#[test]
fn the_journal_has_events_with_fields_owner_and_explanation() {
    let programs = [JOURNALD, JOURNALCTL];
    if !has_engine(JOURNALD, programs.into_iter().all(|program| Path::new(program).exists())) {
        return;
    }
    let mut unshare = Command::new("unshare");
    let journald = Running::spawn(unshare.args(["--mount", "sh", "-c", SCRIPT, "sh", CATALOG, JOURNALD]));
    let inside = |program: &str| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", journald.pid())).arg(program);
        command
    };
    let listens = || inside("test").args(["-S", SOCKET]).status().is_ok_and(|status| status.success());
    assert!(poll_until(patience(), listens), "systemd-journald does not listen");

    let (ns, binary) = (Namespace::new(), binary());
    let mut command = inside(binary.to_str().expect("a path in UTF-8"));
    let stuck_after = format!("{}ms", 300 * slowness());
    command.args(["run", "--journal", "--events", "stuck", "--stuck-after", &stuck_after]);
    let agent = Agent::spawn_unready(command.args(["--socket", "/run/closewait-journal.sock"]));
    let entries = |field: &str| -> Vec<Value> {
        let mut journalctl = inside(JOURNALCTL);
        let found = finish(journalctl.args(["--output", "json", "SYSLOG_IDENTIFIER=closewait", field]));
        found.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert!(poll_until(patience(), || !entries("CLOSEWAIT_EVENT=start").is_empty()), "no start");
    let pair = ns.pair(V4);
    pair.fin();
    let of_namespace = format!("CLOSEWAIT_NETNS={}", pair.id.netns.expect("its namespace"));
    assert!(poll_until(patience(), || !entries(&of_namespace).is_empty()), "the socket is not in the journal");
    let entry = entries(&of_namespace).remove(0);
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    assert_eq!((text("CLOSEWAIT_EVENT"), text("PRIORITY")), ("stuck".to_owned(), "6".to_owned()), "{entry}");
    // The journal itself has looked at the owner.
    let pid = std::process::id().to_string();
    assert_eq!((text("OBJECT_PID"), text("OBJECT_UID")), (pid, "0".to_owned()), "{entry}");
    let mut explained = inside(JOURNALCTL);
    let explained = finish(explained.args(["--catalog", "--no-pager", &of_namespace])).stdout;
    assert!(explained.contains("Subject: A socket has been in CLOSE_WAIT for "), "{explained}");

    // Without a journal nothing blocks the agent, and it says what it could not hand over.
    drop(journald);
    let second = ns.pair(V4);
    second.fin();
    std::thread::sleep(Duration::from_millis(900) * slowness());
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("the journal refused "), "{}", ended.stderr);
}

#[test]
fn a_missing_journal_is_an_error_before_anything_is_loaded() {
    let mut unshare = Command::new("unshare");
    let script = "mount -t tmpfs none /run && exec \"$1\" run --journal";
    let ended = finish(unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(binary()));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("connecting to the journal at /run/systemd/journal/socket failed"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("hint: run without --journal"), "{}", ended.stderr);
}
