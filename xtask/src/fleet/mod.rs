//! `cargo xtask fleet`: a made-up fleet of recorded incidents, in ClickHouse and DuckDB, and the answers to the queries of
//! contrib/fleet.

mod delivery;
pub(crate) mod engines;
mod expected;
mod population;
mod recording;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::prelude::*;
use crate::{build, root, venv::Venv};
use engines::Engine;
use population::FleetHost;
use recording::Replayed;

/// Hosts that a fleet has at least.
const MIN_HOSTS: usize = 200;

#[derive(Args)]
pub(crate) struct Options {
    /// Print the answers, too
    #[arg(long)]
    show: bool,
    /// Keep the files and databases in this folder, which must not exist
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Builds the agent, makes up the fleet, loads it into both engines and compares their answers.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>, options: &Options) -> Result<()> {
    root::install(workspace, "fleet")?;
    let closewait = binary.map_or_else(|| build::debug(workspace), |binary| Ok(binary.to_owned()))?;
    let programs = Venv::Fleet.install(workspace)?;
    let run = |dir: &Path| compare(workspace, &closewait, &programs, dir, options.show);
    if let Some(dir) = &options.keep {
        fs::create_dir(dir)?;
        return run(&std::path::absolute(dir)?);
    }
    exec::with_scratch("fleet", run)
}

fn compare(workspace: &Workspace, closewait: &Path, programs: &Path, dir: &Path, show: bool) -> Result<()> {
    let began = exec::now();
    // Lines that are too old go, so the fleet ends at the present time; whole seconds can be compared as text.
    let since = exec::wall_now().duration_since(SystemTime::UNIX_EPOCH).context("a clock before 1970")?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
    let hosts = population::hosts(now);
    ensure!(hosts.len() >= MIN_HOSTS, "{} hosts", hosts.len());
    let replayed = replay(workspace, closewait, &hosts)?;
    let mut fleet = Vec::new();
    for host in hosts {
        let events = delivery::events(&host, &replayed[host.recording], now)?;
        fleet.push((host, events));
    }
    let delivered = delivery::write(&fleet, dir)?;
    let names_program = |recording: &str| replayed.get(recording).is_some_and(Replayed::has_program);
    let expected = expected::Fleet::new(&fleet, names_program, now)?;
    let (answers, wanted) = (expected.answers(&delivered)?, expected.rows(&delivered));
    print_sizes(&replayed);
    println!(
        "\n{} hosts, {} lines ({:.1} MB), {} delivered, in {:.1} s\n",
        fleet.len(),
        delivered.lines,
        delivered.bytes as f64 / 1e6,
        delivered.delivered,
        began.elapsed().as_secs_f64()
    );
    let mut different = 0;
    for engine in Engine::all(workspace, programs, dir) {
        let began = exec::now();
        engine.load(&delivered.files, &expected::seconds(now))?;
        let loaded = began.elapsed();
        let got = engine.answers()?;
        let answered = began.elapsed();
        let rows = engine.rows()?;
        println!(
            "{}: loaded in {:.1} s, {} queries in {:.1} s; rows {:?}",
            engine.name,
            loaded.as_secs_f64(),
            got.len(),
            (answered - loaded).as_secs_f64(),
            rows
        );
        ensure!(rows == wanted, "{} has {rows:?} rows, and {wanted:?} are expected", engine.name);
        if let Some(bytes) = engine.bytes()? {
            println!("{}: bytes on disk: {bytes}", engine.name);
        }
        different += check(engine.name, &got, &answers, show)?;
    }
    ensure!(different == 0, "{different} answers differ; see above");
    println!("fleet: {} answers of 2 engines are right", answers.len() * 2);
    Ok(())
}

/// Plays each recording that a host has.
fn replay(workspace: &Workspace, closewait: &Path, hosts: &[FleetHost]) -> Result<BTreeMap<&'static str, Replayed>> {
    let names: BTreeSet<_> = hosts.iter().map(|host| host.recording).collect();
    let folder = workspace.root.join("closewait-agent/tests/recordings");
    let play = |name| Ok((name, Replayed::of(closewait, &folder.join(name).with_extension("recording"))?));
    names.into_iter().map(play).collect()
}

/// Compares the answers of an engine, prints each difference, and returns their number.
fn check(
    engine: &str,
    got: &[(String, Vec<Value>)],
    wanted: &BTreeMap<&'static str, Vec<Value>>,
    show: bool,
) -> Result<usize> {
    let names: Vec<_> = got.iter().map(|(name, _rows)| name.as_str()).collect();
    ensure!(
        names.iter().collect::<BTreeSet<_>>().len() == wanted.len()
            && names.iter().all(|name| wanted.contains_key(name)),
        "{engine} has the queries {names:?}, and the expected answers are of {:?}",
        wanted.keys()
    );
    let mut different = 0;
    for (name, rows) in got {
        let [rows, wanted] = [rows, &wanted[name.as_str()]].map(|rows| rows.iter().map(normal).collect::<Vec<_>>());
        ensure!(!wanted.is_empty(), "{name}: nothing happened in the fleet that this query could find");
        if show {
            println!("\n{engine}: {name}");
            rows.iter().for_each(|row| println!("{row}"));
        }
        if rows != wanted {
            different += 1;
            println!("\n{engine}: {name}: not as expected");
            let missing = wanted.iter().filter(|row| !rows.contains(row));
            let more = rows.iter().filter(|row| !wanted.contains(row));
            missing.take(10).for_each(|row| println!("  missing: {row}"));
            more.take(10).for_each(|row| println!("  not expected: {row}"));
            println!("  {} rows, {} expected; if none is named above, their order differs", rows.len(), wanted.len());
        }
    }
    Ok(different)
}

/// Returns a value with its numbers as floats: an engine writes 2 or 2.0.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, member)| (name.clone(), normal(member))).collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

/// Prints the sizes of the lines of all recordings that were played.
fn print_sizes(replayed: &BTreeMap<&'static str, Replayed>) {
    let mut sizes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (event, size) in replayed.values().flat_map(|recording| &recording.sizes) {
        sizes.entry(event).or_default().push(*size);
    }
    let rows = sizes.into_iter().map(|(event, mut sizes)| {
        sizes.sort_unstable();
        let [least, median, most] = [0, sizes.len() / 2, sizes.len() - 1].map(|at| sizes[at]);
        format!("`{event}` | {} | {least} | {median} | {most}", sizes.len())
    });
    print!("{}", markdown::table("event | lines | bytes, least | median | most", rows));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_differs_is_counted() {
        let wanted = BTreeMap::from([("a", vec![json!({ "n": 2 }), json!({ "n": 3 })])]);
        let got = |rows: Vec<Value>| [("a".to_owned(), rows)];
        let count = |rows| check("engine", &got(rows), &wanted, false).unwrap();
        assert_eq!(count(vec![json!({ "n": 2.0 }), json!({ "n": 3 })]), 0);
        assert_eq!(count(vec![json!({ "n": 3 }), json!({ "n": 2 })]), 1, "another order");
        assert_eq!(count(vec![json!({ "n": 2 })]), 1, "a row is missing");
        assert!(check("engine", &[("b".to_owned(), Vec::new())], &wanted, false).is_err(), "another query");
    }

    #[test]
    fn the_fleet_is_the_same_every_time_and_large_enough() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000);
        let names = || population::hosts(now).into_iter().map(|host| (host.name, host.started)).collect::<Vec<_>>();
        let hosts = names();
        assert_eq!(hosts, names());
        assert!(hosts.len() >= MIN_HOSTS && hosts.iter().collect::<BTreeSet<_>>().len() == hosts.len());
    }
}
