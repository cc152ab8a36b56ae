//! `cargo xtask engines`: a hang, a leak and a healthy pool, live, with two agents that tell Prometheus, Alertmanager, rotel, oteltap,
//! the journal and ClickHouse of it; what each of them answers is compared with what the agent reports.
//!
//! | file | content |
//! |---|---|
//! | `stage` | the programs with sockets in CLOSE_WAIT |
//! | `agents` | the two agents, and the incidents that they report |
//! | `prometheus`, `alertmanager`, `receivers`, `journal`, `database` | each engine: its start, and its answers |
//! | `service` | running programs |
//! | `answers` | questions until the answer is right, and the table |

mod agents;
mod alertmanager;
mod answers;
mod database;
mod journal;
mod prometheus;
mod receivers;
mod service;
mod stage;

use std::{collections::BTreeMap, env, ffi::OsString};

use tests_support::http::free_port;

use crate::prelude::*;
use crate::{build, root, venv::Venv};
use agents::{FirstAgent, Incident, Receivers};
use answers::{Answer, Answers};

/// Maximum time from the start of the programs until every engine knows of the incidents. Alerts fire a minute after these.
const OPEN_LIMIT: Duration = Duration::from_mins(5);
/// Maximum time from the end of the programs until every engine knows that the incidents are over.
const END_LIMIT: Duration = Duration::from_mins(2);
/// Alerts that fire while the programs run.
const ALERTS: [(&str, &str); 2] = [("CloseWaitServiceStuck", stage::HANG), ("CloseWaitLeak", stage::LEAK)];

/// Builds the agent, starts everything, and prints what each engine answers.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>) -> Result<()> {
    let Some(binary) = binary else {
        root::install(workspace, "engines")?;
        root::install(workspace, "fleet")?;
        Venv::Engines.install(workspace)?;
        Venv::Fleet.install(workspace)?;
        let binary = ["--binary".into(), build::debug(workspace)?.into()];
        let args: Vec<OsString> = env::args_os().skip(1).chain(binary).collect();
        return root::become_program(&exec::this()?, &args, "watching sockets, and making network namespaces");
    };
    exec::with_scratch("engines", |dir| play(workspace, binary, dir))
}

fn play(workspace: &Workspace, binary: &Path, dir: &Path) -> Result<()> {
    let [receivers, databases] = [Venv::Engines, Venv::Fleet].map(|venv| venv.programs(workspace));
    let journald = journal::Journald::start(workspace, dir)?;
    let alertmanager = alertmanager::Alertmanager::start(dir)?;
    let (rotel, oteltap) =
        (receivers::Receiver::rotel(&receivers, dir)?, receivers::Receiver::oteltap(&receivers, dir)?);
    let to =
        Receivers { metrics: free_port()?, alertmanager: alertmanager.port, rotel: rotel.port, oteltap: oteltap.port };
    let first = FirstAgent::start(workspace, binary, &to, dir)?;
    let second = agents::second(journald.command(), binary, &to, dir)?.wait_until(|_| journald.has_start())?;
    // After the agent: a scrape that fails is a failure.
    let prometheus = prometheus::Prometheus::start(workspace, to.metrics, to.alertmanager, dir)?;
    let mut answers = Answers::default();

    let stage = stage::Stage::start(workspace, dir)?;
    let end = exec::now() + OPEN_LIMIT;
    answers.ask("closewait", end, || opened(&first.incidents()?));
    answers.ask("Prometheus, metrics", end, || prometheus.metrics(&first.incidents()?));
    answers.ask("promtool", end, || prometheus.promtool());
    answers.ask("rotel", end, || rotel.incidents(&first.incidents()?, "closewait.incident.opened"));
    answers.ask("journald", end, || journald.incidents(&first.incidents()?));
    answers.ask("oteltap", end, || oteltap.incidents(&journald.reported()?, "closewait.incident.opened"));
    answers.ask("chdb", end, || database::incidents(workspace, &databases, dir, &first, &first.incidents()?));
    answers.ask("Prometheus, alerts", end, || prometheus.alerts(&ALERTS));
    answers.ask("Alertmanager", end, || alertmanager.alerts(&first.incidents()?, &ALERTS));

    stage.end()?;
    let end = exec::now() + END_LIMIT;
    answers.ask("closewait, at the end", end, || resolved(&first.incidents()?));
    answers.ask("rotel, at the end", end, || rotel.incidents(&first.incidents()?, "closewait.incident.resolved"));
    answers.ask("journald, at the end", end, || journald.incidents(&first.incidents()?));
    answers.ask("oteltap, at the end", end, || oteltap.incidents(&journald.reported()?, "closewait.incident.resolved"));
    answers.ask("Prometheus, metrics, at the end", end, || prometheus.metrics(&first.incidents()?));
    answers.ask("Prometheus, alerts, at the end", end, || prometheus.alerts(&[]));
    answers.ask("Alertmanager, at the end", end, || alertmanager.alerts(&first.incidents()?, &[]));
    answers
        .ask("chdb, at the end", end, || database::incidents(workspace, &databases, dir, &first, &first.incidents()?));

    drop(prometheus);
    second.end()?;
    first.end()?;
    answers.print()
}

/// Checks that the agent has an incident of the hang and of the leak, and none of the pool.
fn opened(incidents: &BTreeMap<String, Incident>) -> Result<Answer> {
    let found: Vec<_> =
        incidents.iter().map(|(service, incident)| (service.as_str(), incident.class.as_str())).collect();
    // In the order of the names.
    ensure!(found == [(stage::LEAK, "leak"), (stage::HANG, "hung")], "incidents: {found:?}");
    Ok(answer(incidents))
}

/// Checks that all incidents are resolved.
fn resolved(incidents: &BTreeMap<String, Incident>) -> Result<Answer> {
    ensure!(!incidents.values().any(Incident::is_open), "incidents: {incidents:?}");
    Ok(answer(incidents))
}

fn answer(incidents: &BTreeMap<String, Incident>) -> Answer {
    let texts = incidents
        .iter()
        .map(|(service, Incident { id, state, class, .. })| format!("{id} {state}: {class} ({service})"));
    Answer { sent: "a hang, a leak and a healthy pool".to_owned(), got: texts.collect::<Vec<_>>().join(", ") }
}
