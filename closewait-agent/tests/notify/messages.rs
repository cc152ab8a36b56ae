//! Requests of the hooks for recorded incidents, and for hostile names.

use serde_json::{Value, json};

use tests_support::sink::{Request, Sink, answer};

use super::{
    events::{incident, life, recorded},
    hook::{Hook, KEY, SLACK_PATH},
};

/// Runs a hook for the events, and returns the requests.
fn sent(name: &'static str, events: &[Value]) -> Vec<Request> {
    // Alertmanager has no alerts yet; the others do not read the answer.
    let sink = Sink::new(&[answer(200, "[]")]);
    let hook = Hook::new(name, &sink.url(""));
    for event in events {
        let ran = hook.run(event);
        assert_eq!((ran.code, ran.log.as_str()), (Some(0), ""), "{event}");
    }
    sink.requests()
}

#[test]
fn pagerduty_gets_one_key_for_the_life_of_each_recorded_incident() {
    for (name, opened) in recorded() {
        let events = life(opened);
        let requests = sent("pagerduty", &events);
        assert_eq!(requests.len(), 4, "{name}");
        for (request, event) in requests.iter().zip(&events) {
            assert_eq!(request.line, "POST /v2/enqueue");
            assert!(request.headers.iter().any(|line| line == "Content-Type: application/json"), "{request:?}");
            let body = request.json();
            assert_eq!((&body["dedup_key"], &body["routing_key"]), (&opened["id"], &json!(KEY)), "{name}");
            if event["state"] == "resolved" {
                assert_eq!(body["event_action"], "resolve");
                continue;
            }
            let payload = &body["payload"];
            assert_eq!(body["event_action"], "trigger");
            for (field, expected) in
                [("severity", &event["severity"]), ("summary", &event["summary"]), ("timestamp", &event["time"])]
            {
                assert_eq!(&payload[field], expected, "{name} {field}");
            }
            assert_eq!(payload["class"], event["verdict"]["class"]);
            assert_eq!(payload["custom_details"]["count"], event["count"]);
            assert!(payload["custom_details"]["why"].is_string() && payload["source"].is_string(), "{body}");
            assert_eq!(body["links"][0]["href"], event["runbook"]);
        }
    }
}

#[test]
fn alertmanager_gets_an_alert_for_each_recorded_incident() {
    for (name, opened) in recorded() {
        let requests = sent("alertmanager", &life(opened)[..1]);
        let lines: Vec<_> = requests.iter().map(|request| request.line.split('?').next().expect("a path")).collect();
        assert_eq!(lines, ["GET /api/v2/alerts", "POST /api/v2/alerts"], "{name}");
        let alerts = requests[1].json();
        let (alert, labels) = (&alerts[0], &alerts[0]["labels"]);
        assert_eq!(alerts.as_array().map(Vec::len), Some(1));
        assert_eq!((&labels["alertname"], &labels["incident"]), (&json!("CloseWaitIncident"), &opened["id"]));
        assert_eq!((&labels["severity"], &labels["class"]), (&opened["severity"], &opened["verdict"]["class"]));
        let host = opened.get("host").filter(|host| !host.is_null());
        assert_eq!((&labels["service"], labels.get("host")), (&opened["service"], host), "unknown ones are not there");
        assert_eq!(alert["startsAt"], opened["onset"]["first_stuck"]);
        assert_eq!(alert["generatorURL"], opened["runbook"]);
        assert_eq!(alert["annotations"]["summary"], opened["summary"]);
        assert_eq!(alert["annotations"].get("command"), Some(&opened["command"]).filter(|command| !command.is_null()));
    }
}

#[test]
fn slack_gets_a_message_unless_the_count_has_only_doubled() {
    for (name, opened) in recorded() {
        let mut doubled = opened.clone();
        doubled["state"] = json!("updated");
        let [opened, near, full, end] = life(opened);
        let requests = sent("slack-webhook", &[opened.clone(), doubled, near, full, end]);
        let texts: Vec<_> =
            requests.iter().map(|request| request.json()["text"].as_str().expect("text").to_owned()).collect();
        let first: Vec<_> = texts.iter().map(|text| text.split(" on ").next().expect("a sign").to_owned()).collect();
        let severity = opened["severity"].as_str().expect("text");
        let expected = [severity, "limit near", "limit reached", "resolved"].map(|title| format!(" *{title}*"));
        if severity == "critical" {
            assert_eq!(first.len(), 5, "a doubling near a limit: {name} {first:?}");
        } else {
            assert_eq!(first.len(), 4, "{name} {first:?}");
            assert!(first.iter().zip(&expected).all(|(got, wanted)| got.ends_with(wanted)), "{first:?}");
        }
        assert!(texts.iter().all(|text| text.len() < 1500 && text.lines().count() <= 4), "{texts:?}");
        assert!(requests.iter().all(|request| request.line == format!("POST {SLACK_PATH}")));
    }
}

#[test]
fn hostile_names_stay_data_and_have_a_limit() {
    let breaks = "`*bold*` <!channel> <@U123> @here :rocket: \"};\n'&amp;<http://127.0.0.1|x>\\ \u{202e}evil\u{0}";
    let long = breaks.repeat(100_000 / breaks.len());
    for name in ["", breaks, long.as_str()] {
        let mut event = incident();
        for field in ["service", "summary", "host", "command"] {
            event[field] = json!(name);
        }
        event["verdict"]["text"] = json!(name);
        event["verdict"]["next"] = json!(name);
        event["owners"] = json!([{"pid": 1, "comm": name, "count": 3}]);
        event["runbook"] = json!(format!("javascript:{name}"));
        for program in ["alertmanager", "pagerduty", "slack-webhook"] {
            let requests = sent(program, &[event.clone()]);
            let request = requests.last().expect("a request");
            assert!(request.body.len() < 40_000, "{program}: {} bytes", request.body.len());
            assert!(!String::from_utf8_lossy(&request.body).contains("javascript"), "{program}");
            if program != "slack-webhook" {
                continue;
            }
            let text = request.json()["text"].as_str().expect("text").to_owned();
            assert!(!text.contains("<!") && !text.contains("<@") && !text.contains("<http:"), "{text}");
            // Spans have an even number of backticks a line, and every name is in one.
            for line in text.lines() {
                assert_eq!(line.matches('`').count() % 2, 0, "{line}");
                let outside: String = line.split('`').step_by(2).collect();
                assert!(
                    !outside.contains("channel") && !outside.contains("here") && !outside.contains("rocket"),
                    "{line}"
                );
            }
            assert!(text.lines().count() <= 4 && !text.contains('\u{202e}'), "{text}");
        }
    }
}

#[test]
fn standard_input_without_an_incident_is_refused() {
    let sink = Sink::new(&[answer(200, "[]")]);
    let mut stuck = incident();
    stuck["event"] = json!("stuck");
    let mut foreign = incident();
    foreign["id"] = json!("x\",severity=\"none");
    let deep = "[".repeat(200_000);
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(5 << 20));
    for program in ["alertmanager", "pagerduty", "slack-webhook"] {
        let hook = Hook::new(program, &sink.url(""));
        let inputs = [b"".as_slice(), b"{}", b"null", b"\xff\xfe", deep.as_bytes(), large.as_bytes()];
        let runs = inputs.into_iter().map(|input| hook.run_with(input));
        for ran in runs.chain([hook.run(&stuck), hook.run(&foreign)]) {
            assert_eq!(ran.code, Some(64), "{ran:?}");
            assert!(ran.log.contains("hint: run this program with --on-pileup"), "{ran:?}");
        }
    }
    assert_eq!(sink.requests().len(), 0);
}
