//! A whole incident, and what each output says about it once a second: all agree at any one moment.
//!
//! Traffic pauses while the outputs are compared, so that numbers are level. All have to agree at the first or at one of a few
//! repeated attempts. Events come at moments of their own: they are compared with the answers before and after them.

mod claims;
mod server;

use std::{thread, time::Duration};

use serde_json::Value;

use self::{
    claims::{Claim, Place, block_command, of_groups, of_report, of_socket_table, of_sockets, of_table},
    server::{Server, idle_pool},
};
use crate::{
    ability::{Ability, can},
    agent::{Agent, Running, closewait, finish, read_in_background, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    control::Folder,
    hooks::Hook,
    net::Namespace,
    schema,
};

/// Age at which sockets are stuck.
const STUCK_AFTER: &str = "3s";
/// Number of connections of the idle pool.
const POOL: usize = 6;
/// Number of requests between two comparisons.
const REQUESTS: usize = 12;
/// Number of comparisons while the server works, hangs, and has recovered.
const PHASES: [usize; 3] = [3, 20, 9];
/// Maximum number of times that one comparison is made, because the state may change meanwhile.
const MAX_REPEATS: usize = 8;

/// Maximum time between two answers that tell which verdict an event between them can have, seconds. Mostly they are one or two apart.
const MAX_APART: f64 = 4.0;

/// Claims that every answer made at one moment.
#[derive(Debug)]
struct Sample {
    /// Times of the first and of the last answer.
    from: String,
    to: String,
    /// Time of the last answer, seconds since the host started.
    at: f64,
    server: Claim,
}

/// Outputs of a running agent.
struct Outputs {
    socket: String,
    server: Place,
    pool: Place,
}

impl Outputs {
    /// Returns the output of a command on a large screen.
    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = closewait(arguments);
        command.args(["--socket", &self.socket]).env("COLUMNS", "300").env("LINES", "400").env("NO_COLOR", "1");
        let finished = finish(&mut command);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    }

    fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.ask(&[arguments, &["--output", "json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn status(&self) -> Value {
        let object = self.objects(&["status"]).remove(0);
        schema::check_status(&object);
        object
    }

    /// Returns the claims about the server and the pool in `status`.
    fn claims(&self, status: &Value) -> [Claim; 2] {
        let groups = status["groups"].as_array().expect("checked above");
        [self.server, self.pool].map(|place| of_groups(groups, place))
    }

    /// Compares all outputs, when the agent has seen `count` sockets of the server.
    fn compare(&self, count: usize) -> Sample {
        let mut first = Value::Null;
        let seen = poll_until(patience(), || {
            first = self.status();
            self.claims(&first).map(|claim| claim.count) == [Some(count as u64), Some(POOL as u64)]
        });
        assert!(seen, "{count} sockets: {first}");
        let mut why = Vec::new();
        for _ in 0..MAX_REPEATS {
            let claims = self.claims(&first);
            let others = self.others();
            let last = self.status();
            let ends = [("the last answer", self.claims(&last))];
            let compared =
                ends.iter().chain(&others).flat_map(|(output, own)| own.iter().map(move |own| (output, own)));
            // The state can also change twice between two equal answers. A contradiction remains.
            let differs =
                compared.zip(claims.iter().cycle()).find_map(|((output, own), truth)| own.differs(output, truth));
            let Some(differs) = differs else {
                let time = |status: &Value| status["time"].as_str().expect("a time").to_owned();
                let [server, _pool] = claims;
                return Sample { from: time(&first), to: time(&last), at: boot_seconds(), server };
            };
            why.push(differs);
            first = last;
        }
        panic!("the outputs differed in each of {MAX_REPEATS} comparisons: {why:#?}\n{first}");
    }

    /// Returns the claims about the server and the pool in all outputs but `status --output json`.
    fn others(&self) -> Vec<(&'static str, [Claim; 2])> {
        let places = [self.server, self.pool];
        let report = self.objects(&["report"]).remove(0);
        let report = report["groups"].as_array().expect("groups");
        let (groups, rows) = (self.objects(&["list", "--by", "group"]), self.objects(&["list"]));
        let (page, top, table) =
            (self.ask(&["status"]), self.ask(&["top", "--once"]), self.ask(&["list", "--by", "group"]));
        let written = self.ask(&["report"]);
        // The page repeats the option of this command.
        let option = format!(" --socket {}", self.socket);
        let with_command = |page: &str, place: Place| {
            // A group that needs attention has a block; its label is in capitals.
            let command = block_command(page, place).map(|command| command.replace(&option, ""));
            let claim = of_table(page, place);
            let is_problem = claim.label.as_ref().is_some_and(|label| label.starts_with(char::is_uppercase));
            assert_eq!(command.is_some(), is_problem, "{page}");
            Claim { command, ..claim }
        };
        vec![
            ("report --output json", places.map(|place| of_groups(report, place))),
            ("list --by group --output json", places.map(|place| of_groups(&groups, place))),
            ("list --output json", places.map(|place| of_sockets(&rows, place))),
            ("list", places.map(|place| self.socket_table(place))),
            ("status", places.map(|place| with_command(&page, place))),
            ("list --by group", places.map(|place| of_table(&table, place))),
            ("top --once", places.map(|place| of_table(&top, place))),
            ("report", places.map(|place| of_report(&written, place))),
        ]
    }

    fn socket_table(&self, place: Place) -> Claim {
        let port = place.port.to_string();
        of_socket_table(&self.ask(&["list", "--port", &port]))
    }
}

/// Whether a claim of an event at `time` is that of an answer before or after it, with a count between theirs.
fn check_between(samples: &[Sample], time: &str, what: &str, event: &Claim) {
    let before = samples.iter().rfind(|sample| sample.from.as_str() <= time);
    let after = samples.iter().find(|sample| sample.to.as_str() >= time);
    // On a busy machine the verdict can change twice between two answers, but neither the incident nor the direction of the count.
    let are_near = before.zip(after).is_none_or(|(before, after)| after.at - before.at <= MAX_APART);
    let around: Vec<&Claim> = before.into_iter().chain(after).map(|sample| &sample.server).collect();
    let one_of = |what: &str, of: fn(&Claim) -> Option<&String>| {
        let Some(own) = of(event).filter(|_| are_near) else { return };
        let those: Vec<_> = around.iter().map(|claim| of(claim)).collect();
        assert!(those.contains(&Some(own)), "{what} at {time}: {own:?}, but around it {those:?}");
    };
    one_of(&format!("class in {what}"), |claim| claim.class.as_ref());
    one_of(&format!("certainty in {what}"), |claim| claim.certainty.as_ref());
    one_of(&format!("severity in {what}"), |claim| claim.severity.as_ref());
    one_of(&format!("command in {what}"), |claim| claim.command.as_ref());
    one_of(&format!("label in {what}"), |claim| claim.label.as_ref());
    if let Some(Some(id)) = &event.id {
        let ids: Vec<_> = around.iter().filter_map(|claim| claim.id.clone().flatten()).collect();
        assert!(ids.contains(id), "incident in {what} at {time}: {id}, but around it {ids:?}");
    }
    if let Some(count) = event.count {
        let counts = || around.iter().filter_map(|claim| claim.count);
        let range = counts().min().unwrap_or(0)..=counts().max().unwrap_or(0);
        assert!(range.contains(&count), "count in {what} at {time}: {count}, but around it {range:?}");
    }
}

/// Checks the events of the agent and of its hook against the answers around them.
fn check_events(events: &[Value], end: &Value, samples: &[Sample], place: Place, hook: &Hook) {
    let pileups: Vec<&Value> =
        events.iter().filter(|event| event["event"] == "pileup" && place.is(&event["group"])).collect();
    let opened = pileups.first().and_then(|event| event["count"].as_u64()).expect("it opens");
    let most = samples.iter().filter_map(|sample| sample.server.count).max().expect("counts");
    // On a slow machine it opens late, and does not double any more, or only when the server is about to recover.
    assert!(pileups.len() >= 2 || most <= opened * 2, "it doubles: {opened}, {most}: {pileups:?}");
    for event in &pileups {
        check_between(samples, event["time"].as_str().expect("a time"), "`pileup`", &Claim::of_object(event));
        assert_eq!(event["id"], end["id"], "one incident");
    }
    let stuck = events.iter().filter(|event| event["event"] == "stuck" && place.has(&event["socket"]));
    let mut count = 0;
    for event in stuck {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let verdict = &event["verdict"];
        let (class, certainty) = (text(&verdict["class"]), text(&verdict["certainty"]));
        let claim = Claim { class, certainty, id: Some(text(&event["incident"])), ..Claim::default() };
        check_between(samples, event["time"].as_str().expect("a time"), "`stuck`", &claim);
        count += 1;
    }
    assert!(count > REQUESTS, "{count} sockets were stuck");
    assert_eq!((&end["state"], &end["severity"]), (&"resolved".into(), &"info".into()), "{end}");

    let ran = hook.read("events");
    let mut states = Vec::new();
    for line in ran.lines() {
        let (json, variables) = line.split_once('\t').expect("a tab");
        let event: Value = serde_json::from_str(json).expect("JSON");
        assert!(events.contains(&event), "the hook's event is not in the stream: {event}");
        if !place.is(&event["group"]) {
            continue;
        }
        states.push(event["state"].clone());
        let member = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let verdict = |name: &str| event["verdict"].get(name).map(member).unwrap_or_default();
        let expected = [
            verdict("class"),
            verdict("certainty"),
            member(&event["count"]),
            member(&event["id"]),
            member(&event["severity"]),
            member(&event["summary"]),
        ];
        assert_eq!(variables.split('\t').collect::<Vec<_>>(), expected, "{event}");
    }
    let all: Vec<Value> = pileups.iter().map(|event| event["state"].clone()).chain([end["state"].clone()]).collect();
    assert_eq!(states, all, "a hook ran for each event");
}

/// Checks that the text of a recording has the same entries as the events of its agent.
fn check_replayed(text: &str, events: &[Value], end: &Value, place: Place) {
    let mut command = None;
    let mut expected = Vec::new();
    for event in events.iter().filter(|event| event["event"] == "pileup" && place.is(&event["group"])) {
        let of_event = Claim::of_object(event);
        let new =
            (event["state"] == "opened" || command != of_event.command).then(|| of_event.command.clone()).flatten();
        command.clone_from(&of_event.command);
        expected.push((
            millis(event),
            Claim { count: of_event.count, label: of_event.label, command: new, ..Claim::default() },
        ));
    }
    assert_eq!(entries(text, place), expected, "{text}");
    let time = millis(end);
    assert!(text.lines().any(|line| line.starts_with(&time) && line.contains(" ends ")), "{text}");
}

/// Milliseconds of an RFC 3339 time, as lines of text have them.
fn millis(event: &Value) -> String {
    format!("{}Z", event["time"].as_str().and_then(|time| time.get(..23)).expect("a time"))
}

/// Returns the entries of an incident in the text of `run` or `replay`: time, claim, and the command below the line.
fn entries(text: &str, place: Place) -> Vec<(String, Claim)> {
    let mut entries: Vec<(String, Claim)> = Vec::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some((time, rest)) if time.starts_with("20") => {
                let (label, claim) = (rest.split(' ').next().unwrap_or_default(), of_table(rest, place));
                if claim.count != Some(0) && label != "ends" {
                    entries.push((time.to_owned(), claim));
                } else {
                    entries.push((String::new(), Claim::nothing()));
                }
            }
            _ => {
                if let (Some(command), Some((_, claim))) = (line.strip_prefix("    "), entries.last_mut())
                    && !command.starts_with(' ')
                {
                    claim.command = Some(command.to_owned());
                }
            }
        }
    }
    entries.retain(|(time, _)| !time.is_empty());
    entries
}

#[test]
fn every_output_agrees_once_a_second_through_an_incident() {
    if !can(Ability::Files) {
        return;
    }
    let (folder, ns) = (Folder::new("agreement"), Namespace::new());
    let script = "read -r line; printf '%s\\t%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n' \"$line\" \"$CLOSEWAIT_CLASS\" \
                  \"$CLOSEWAIT_CERTAINTY\" \"$CLOSEWAIT_COUNT\" \"$CLOSEWAIT_INCIDENT\" \"$CLOSEWAIT_SEVERITY\" \
                  \"$CLOSEWAIT_SUMMARY\" >> $dir/events";
    let hook = Hook::new("agreement", &ns, script);
    let (socket, recording) = (folder.socket(), folder.socket() + ".recording");
    let program = hook.program();
    let mut agent =
        Agent::spawn(run_command(&["--stuck-after", STUCK_AFTER, "--socket", &socket, "--record", &recording]).args([
            "--on-pileup",
            &program,
            "--hook-every",
            "0s",
        ]));
    let text_socket = folder.socket() + ".text";
    let mut text = Running::spawn(&mut closewait(&["run", "--stuck-after", STUCK_AFTER, "--socket", &text_socket]));
    let text_stdout = read_in_background(text.0.stdout.take().expect("stdout is a pipe"));
    let text_stderr = read_in_background(text.0.stderr.take().expect("stderr is a pipe"));

    let mut server = Server::start(&ns);
    let (pool_address, pool) = idle_pool(&ns, POOL);
    let outputs = Outputs {
        socket: socket.clone(),
        server: Place::server(&ns, server.address.port()),
        pool: Place::client(&ns, pool_address.port()),
    };

    let mut samples = Vec::new();
    let mut stuck = 0;
    let [works, hangs, recovers] = PHASES;
    for (phase, rounds) in [works, hangs, recovers].into_iter().enumerate() {
        match phase {
            1 => server.hang(),
            2 => {
                server.recover(&ns);
                stuck = 0;
            }
            _ => {}
        }
        for _ in 0..rounds {
            let began = boot_seconds();
            let unanswered = server.ask(&ns, REQUESTS, phase == 1);
            assert!(phase == 1 || unanswered == 0, "{unanswered} requests without an answer");
            stuck += unanswered;
            samples.push(outputs.compare(stuck));
            let rest = 1.0 - (boot_seconds() - began);
            thread::sleep(Duration::from_secs_f64(rest.max(0.0)));
        }
    }
    let place = outputs.server;
    let end = agent.wait_for("`pileup_end`", |event| event["event"] == "pileup_end" && place.is(&event["group"]));
    samples.push(outputs.compare(stuck));
    agent.watch(Duration::from_millis(500) * slowness());
    let ended = agent.stop();
    ended.totals();
    drop(pool);
    drop(server);
    check_events(&ended.events, &end, &samples, place, &hook);

    // The text of the very events of this agent, then that of another one.
    let replayed = finish(&mut closewait(&["replay", &recording]));
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    check_replayed(&replayed.stdout, &ended.events, &end, place);
    // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
    crate::socket::check(unsafe { libc::kill(text.pid() as libc::pid_t, libc::SIGINT) }, "kill");
    assert_eq!(text.wait().code(), Some(0), "{}", text_stderr.join().expect("stderr"));
    let text = text_stdout.join().expect("stdout");
    let entries = entries(&text, place);
    assert!(!entries.is_empty(), "{text}");
    for (time, claim) in &entries {
        check_between(&samples, time, "the text of `run`", claim);
    }
    let ends = text.lines().filter(|line| line.contains(" ends ") && line.contains(&format!(":{} ", place.port)));
    assert_eq!(ends.count(), 1, "{text}");
}
