//! ClickHouse (chdb) with the tables and queries of contrib/fleet.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    agents::{FirstAgent, Incident},
    answers::Answer,
};
use crate::{fleet::engines::Engine, prelude::*};

/// Query of contrib/fleet whose answer is compared.
const QUERY: &str = "open_incidents";

/// Loads the agent's lines into a new database below `dir`, and checks the open incidents.
pub(super) fn incidents(
    workspace: &Workspace,
    programs: &Path,
    dir: &Path,
    agent: &FirstAgent,
    incidents: &BTreeMap<String, Incident>,
) -> Result<Answer> {
    let lines = agent.lines()?;
    let database = dir.join(format!("databases-{lines}"));
    exec::remove_dir(&database)?;
    fs::create_dir(&database)?;
    let [clickhouse, _duckdb] = Engine::all(workspace, programs, &database);
    let now = humantime::format_rfc3339_seconds(exec::wall_now()).to_string();
    clickhouse.load(std::slice::from_ref(&agent.events), now.trim_end_matches('Z').replace('T', " ").as_str())?;
    let answers = clickhouse.answers()?;
    let (_name, rows) = answers.iter().find(|(name, _rows)| name == QUERY).context("no such query")?;
    let ids: BTreeSet<_> = incidents.values().map(|incident| incident.id.as_str()).collect();
    let text = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    // Other programs of this host may have incidents of their own.
    let found: BTreeSet<_> = rows
        .iter()
        .filter(|row| ids.contains(text(row, "id").as_str()))
        .map(|row| (text(row, "service"), text(row, "class"), text(row, "severity"), text(row, "agent")))
        .collect();
    let open = incidents.iter().filter(|(_service, incident)| incident.is_open());
    let expected: BTreeSet<_> = open
        .map(|(service, one)| (service.clone(), one.class.clone(), one.severity.clone(), "running".to_owned()))
        .collect();
    ensure!(found == expected, "`{QUERY}`: {found:?}, expected: {expected:?}");
    let tables = clickhouse.rows()?;
    ensure!(tables.iter().all(|(table, rows)| *table != "rejected" || *rows == 0), "lines were refused: {tables:?}");
    let loaded: u64 = tables.iter().map(|(_table, rows)| rows).sum();
    let texts: Vec<_> =
        found.iter().map(|(service, class, _severity, _agent)| format!("{class} ({service})")).collect();
    let got = if texts.is_empty() { "no row".to_owned() } else { texts.join(", ") };
    Ok(Answer { sent: format!("at least {lines} lines of JSON"), got: format!("{loaded} rows; `{QUERY}`: {got}") })
}
