//! PostgreSQL, with a process for each session. It does not notice that a client has left while a session waits.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::{
    agent::finish,
    play::play,
    scenario::{ANY, CAREFUL, Owner, Part, Scenario, Until},
    stage::{Stage, pause},
};

const PROGRAM: &str = "PostgreSQL";
const PORT: u16 = 5432;

const NEVER_COMMITTED: Scenario = Scenario {
    name: "postgres-lock",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "sessions wait for a row that an open transaction has locked; others are served",
        count: 8..=8,
        // Nothing shows whether the transaction is open or at work.
        expected: &["hung", "unknown"],
        certainties: CAREFUL,
        owner: Owner::One("postgres"),
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn sessions_wait_for_an_open_transaction() {
    play(&NEVER_COMMITTED, |stage| sessions(stage, 140));
}

const COMMITTED: Scenario = Scenario {
    name: "postgres-batch",
    program: PROGRAM,
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "sessions wait for a row that a batch of 20 s has locked; others are served",
        count: 8..=8,
        unread: 0..=1,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn sessions_wait_for_a_batch() {
    play(&COMMITTED, |stage| sessions(stage, 20));
}

/// Folder of a database, removed at the end of the scenario.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        // A folder that stays does no harm.
        let _result = fs::remove_dir_all(&self.0);
    }
}

/// Lets a transaction lock a row for some seconds, and eight sessions wait for it whose clients leave after a second.
fn sessions(stage: &mut Stage, seconds: u32) -> Data {
    let bin = newest();
    let data = Data(env::temp_dir().join(format!("closewait-scenarios-{}-postgres", process::id())));
    let folder = data.0.to_str().expect("a path in UTF-8").to_owned();
    run(Command::new("install").args(["-d", "-o", "postgres", "-g", "postgres", "-m", "700", &folder]));
    let [initdb, postgres, psql] =
        ["initdb", "postgres", "psql"].map(|name| bin.join(name).to_str().expect("a path in UTF-8").to_owned());
    // PostgreSQL refuses to run as root.
    let other_user = ["--reuid=postgres", "--regid=postgres", "--init-groups"];
    let initdb = [&initdb, "-D", &folder, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C"];
    run(Command::new("setpriv").args(other_user).args(initdb).current_dir("/"));
    let server = [&postgres, "-D", &folder, "-k", &folder, "-h", "127.0.0.1", "-c", "fsync=off"];
    stage.start("setpriv", &[&other_user[..], &server].concat());
    stage.listens(PORT);
    stage.says("ready to accept connections");
    let client = "psql=$1; ask() { \"$psql\" -h 127.0.0.1 -U postgres -q -c \"$1\"; };";
    let mut clients = |script: &str| stage.start("sh", &["-c", &format!("{client} {script}"), "sh", &psql]);
    clients(&format!(
        "ask 'create table account (amount int)'; ask 'insert into account values (1)'; \
         ask \"begin; update account set amount = 2; select 'locked'; select pg_sleep({seconds}); commit\" &\
         while sleep 0.5; do ask 'select 1' >/dev/null; done"
    ));
    // The transaction has begun.
    pause(2000);
    let waits = [&psql, "-h", "127.0.0.1", "-U", "postgres", "-c", "update account set amount = 3"];
    for _ in 0..8 {
        stage.start("timeout", &[&["--signal=KILL", "1"], &waits[..]].concat());
        pause(300);
    }
    stage.has_waiting(8);
    data
}

/// Programs of the newest version that is installed.
fn newest() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL").flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(|path| number(path)).expect("a version of PostgreSQL");
    newest.join("bin")
}

fn run(command: &mut Command) {
    let output = finish(command);
    assert_eq!(output.code, Some(0), "{command:?}: {}", output.stderr);
}
