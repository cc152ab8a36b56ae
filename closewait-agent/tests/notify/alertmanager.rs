//! Debian's Alertmanager (`.ci/packages engines`): it takes the alerts, shows them, and ends them.
//!
//! CI sets `CLOSEWAIT_REQUIRE_ENGINES=1`: then a missing Alertmanager is a failure. Without that variable the test says that it did not
//! run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tests_support::{clock::poll_until, engine::has_engine, http};

use super::{
    events::{incident, life, recorded},
    hook::Hook,
};

/// Program of Debian's package.
const PROGRAM: &str = "/usr/bin/prometheus-alertmanager";
/// Maximum time until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Running Alertmanager on loopback, without a cluster.
struct Alertmanager {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Alertmanager {
    /// Starts it; `None` if it is not installed.
    fn start() -> Option<Self> {
        if !has_engine(PROGRAM, Path::new(PROGRAM).exists()) {
            return None;
        }
        let folder = env::temp_dir().join(format!("closewait-alertmanager-{}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        let config = folder.join("config.yml");
        fs::write(&config, "route:\n  receiver: none\nreceivers:\n- name: none\n").expect("a file");
        // Free at this moment: it takes no port 0.
        let port = http::free_port().expect("a port");
        let child = Command::new(PROGRAM)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).expect("a log"))
            .spawn()
            .expect("Alertmanager");
        let server = Self { child, port, folder };
        let is_ready = poll_until(START_PATIENCE, || server.get("/-/ready").is_some());
        let log = || fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        assert!(is_ready, "Alertmanager does not answer: {}", log());
        Some(server)
    }

    /// Returns the body of an answer with status 200.
    fn get(&self, path: &str) -> Option<String> {
        http::get(self.port, path).ok()
    }

    /// Returns the active alerts of an incident.
    fn alerts(&self, incident: &Value) -> Vec<Value> {
        let all: Vec<Value> = serde_json::from_str(&self.get("/api/v2/alerts").expect("an answer")).expect("JSON");
        all.into_iter().filter(|alert| alert["labels"]["incident"] == *incident).collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _unused = self.child.kill();
        let _unused = self.child.wait();
        let _unused = fs::remove_dir_all(&self.folder);
    }
}

/// Compares times up to the millisecond: Alertmanager stores no more.
fn assert_same_time(got: &Value, expected: &Value) {
    let cut = |time: &Value| time.as_str().expect("a time").chars().take(23).collect::<String>();
    assert_eq!(cut(got), cut(expected));
}

#[test]
fn alertmanager_has_one_alert_for_an_incident_until_it_ends() {
    let Some(server) = Alertmanager::start() else { return };
    let hook = Hook::new("alertmanager", &format!("http://127.0.0.1:{}", server.port));
    let send = |event: &Value| {
        let ran = hook.run(event);
        assert_eq!((ran.code, ran.log.as_str()), (Some(0), ""), "{event}");
    };
    let mut incidents: Vec<_> = recorded().iter().map(|(_name, event)| event.clone()).collect();
    incidents.push(incident());
    for opened in &incidents {
        let id = &opened["id"];
        let [opened, updated, exhausted, end] = &life(opened);
        for event in [opened, updated, exhausted] {
            send(event);
            let alerts = server.alerts(id);
            assert_eq!(alerts.len(), 1, "the alert with the earlier severity has ended: {alerts:?}");
            let (alert, labels) = (&alerts[0], &alerts[0]["labels"]);
            assert_eq!((&labels["severity"], &labels["class"]), (&event["severity"], &event["verdict"]["class"]));
            assert_eq!(
                (labels.get("host"), &labels["service"]),
                (event.get("host").filter(|host| !host.is_null()), &event["service"])
            );
            assert_eq!((&alert["status"]["state"], &alert["generatorURL"]), (&json!("active"), &event["runbook"]));
            assert_same_time(&alert["startsAt"], &event["onset"]["first_stuck"]);
            for (annotation, expected) in [("summary", &event["summary"]), ("runbook_url", &event["runbook"])] {
                assert_eq!(&alert["annotations"][annotation], expected);
            }
            assert!(alert["annotations"]["description"].as_str().is_some_and(|text| !text.is_empty()), "{alert}");
        }
        send(end);
        assert_eq!(server.alerts(id).len(), 0, "resolved");
        // A second end finds nothing to end.
        send(end);
        // It opens again.
        send(opened);
        assert_eq!(server.alerts(id).len(), 1);
        send(end);
        assert_eq!(server.alerts(id).len(), 0);
    }
    let mut hostile = incident();
    hostile["service"] = json!("a\"b\n\\{}=~`<!channel>".repeat(5000));
    send(&hostile);
    assert_eq!(server.alerts(&hostile["id"]).len(), 1, "a hostile name is a value");
    assert!(
        server.alerts(&hostile["id"])[0]["labels"]["service"]
            .as_str()
            .is_some_and(|text| text.starts_with("a\"b\\u{a}"))
    );
}
