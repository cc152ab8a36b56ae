//! `contrib/hooks/pagerduty` run by the agent: a service learns the begin and the end of an incident, in this order.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process, time::Duration};

use crate::{
    agent::{Agent, run_command},
    net::{Namespace, V4},
    pileup::leak,
    sink::{Behavior, Sink, answer},
};

/// Key in the form of one of PagerDuty.
const KEY: &str = "0123456789abcdefGHIJKLMNOPQRSTUV";

#[test]
fn a_service_learns_the_begin_and_then_the_end_of_an_incident_also_if_it_fails_at_first() {
    let folder = std::env::temp_dir().join(format!("closewait-notify-{}", process::id()));
    fs::create_dir(&folder).expect("a folder");
    // The agent runs no program of a user who owns the sources.
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/hooks");
    for (name, mode) in [("pagerduty", 0o755), ("notify.py", 0o644)] {
        fs::copy(sources.join(name), folder.join(name)).expect("a copy");
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let key = folder.join("key");
    fs::write(&key, KEY).expect("a key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    // The program for the begin tries again after 15 s, while the incident ends.
    let later = Behavior::Answer(503, "Retry-After: 15\r\n".to_owned(), String::new());
    let sink = Sink::new(&[later, answer(202, "{}")]);
    let program = folder.join("pagerduty");
    let mut command = run_command(&["--stuck-after", "1s", "--on-pileup", program.to_str().expect("UTF-8")]);
    command.arg("--socket").arg(folder.join("agent.sock"));
    command.env("CLOSEWAIT_PAGERDUTY_URL", sink.url("/v2/enqueue")).env("CLOSEWAIT_PAGERDUTY_KEY_FILE", &key);
    let mut agent = Agent::spawn(&mut command);

    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let address = listener.local_addr().expect("the listener's address");
    let is_ours = |event: &serde_json::Value, kind: &str| {
        event["event"] == kind && event["group"]["remote"]["port"] == address.port()
    };
    let (leaked, opened) = leak(&ns, &listener, &mut agent, |event| is_ours(event, "pileup"));
    drop(leaked);
    agent.wait_for("`pileup_end`", |event| is_ours(event, "pileup_end"));
    let of_incident = || -> Vec<String> {
        let bodies = sink.requests().into_iter().map(|request| request.json());
        let ours = bodies.filter(|body| body["dedup_key"] == opened["id"]);
        ours.map(|body| body["event_action"].as_str().expect("an action").to_owned()).collect()
    };
    let is_resolved = || of_incident().last().is_some_and(|action| action == "resolve");
    // The programs together have at most twice `--hook-timeout`.
    for _ in 0..600 {
        if is_resolved() {
            break;
        }
        agent.watch(Duration::from_millis(100));
    }
    assert_eq!(of_incident(), ["trigger", "trigger", "resolve"]);
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("answered 503") && !ended.stderr.contains(KEY), "{}", ended.stderr);
    fs::remove_dir_all(&folder).expect("the folder");
}
