//! Recordings for the tests of alerts (`tests/monitoring/`): two minutes and a half of several hosts with one program each.

use std::{env, fs, path::Path, time::Duration};

use crate::{
    agent::Agent,
    recording,
    stage::{Clients, Stage},
};

/// Time that the agents watch, seconds: less than the time limit of the programs.
const SECONDS: u64 = 140;
/// Value of `--stuck-after`.
const STUCK_AFTER: &str = "10s";
/// Value of `--max-tracked` of the agent that drops: less than the number of sockets of the programs together.
const FEW: &str = "30";

/// Clients of a server, one after the other until the end.
const CLIENTS: Clients = Clients { port: 8080, path: "/", count: 70, every: 2.0, patience: 1.0 };

/// Records the programs at the same time, each in its own namespace, by two agents: one with the usual limits, and one that
/// drops sockets.
#[test]
#[ignore = "long"]
fn minutes_for_the_tests_of_alerts_are_recorded() {
    // There is nothing to check, only to record.
    let Some(folder) = env::var_os("CLOSEWAIT_RECORD") else { return };
    let folder = Path::new(&folder).join("monitoring");
    fs::create_dir_all(&folder).expect("a folder for recordings");
    let start = |name: &str, more: &[&str]| {
        let file = folder.join(format!("{name}.recording"));
        let socket = env::temp_dir().join(format!("closewait-monitored-{}-{name}.sock", std::process::id()));
        let [file_argument, socket] = [&file, &socket].map(|path| path.to_str().expect("a path in UTF-8"));
        let fixed =
            ["--stuck-after", STUCK_AFTER, "--events", "incidents", "--socket", socket, "--record", file_argument];
        (Agent::start(&[&fixed, more].concat()), file)
    };
    let (mut all, everything) = start("all", &[]);
    let (drops, dropping) = start("drops", &["--max-tracked", FEW]);
    let stages = [
        ("hang", hang as fn(&mut Stage)),
        ("leak", leak as fn(&mut Stage)),
        ("healthy-pool", pool as fn(&mut Stage)),
        ("healthy-uploads", uploads as fn(&mut Stage)),
    ];
    let stages = stages.map(|(name, begin)| {
        let mut stage = Stage::new(name);
        begin(&mut stage);
        (name, stage)
    });
    all.watch(Duration::from_secs(SECONDS));
    let _ended = [drops.stop(), all.stop()];
    for (name, stage) in &stages {
        let file = folder.join(format!("{name}.recording"));
        fs::copy(&everything, &file).expect("a copy of the recording");
        recording::keep_only(&file, stage.ns.inode);
    }
    fs::remove_file(everything).expect("the recording of all");
    let (_, stage) = &stages[1];
    recording::keep_only(&dropping, stage.ns.inode);
}

/// A server whose threads wait for a lock that is never released, and which accepts until it has no descriptor left.
fn hang(stage: &mut Stage) {
    stage.python_with("worker_pool.py", &["stuck", "50"]);
    stage.listens(8080);
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    stage.clients(&Clients { path: "/order", ..CLIENTS });
}

/// A server that answers all requests, and does not close the connections of one path.
fn leak(stage: &mut Stage) {
    stage.python_with("forgets.py", &["350"]);
    stage.listens(8080);
    stage.clients(&Clients { path: "/forget", ..CLIENTS });
    stage.clients(&CLIENTS);
}

/// A client whose idle connections the server has closed.
fn pool(stage: &mut Stage) {
    stage.python("idle_server.py");
    stage.listens(8080);
    stage.venv("python3", &["keepalive_pool.py"]);
}

/// A server that works on each upload for 40 seconds before it answers, while its clients have closed their sending sides.
fn uploads(stage: &mut Stage) {
    stage.python_with("uploads.py", &["40"]);
    stage.listens(8080);
    stage.start("sh", &["-c", "for each in 1 2 3; do python3 uploader.py 8 120 & sleep 45; done; wait"]);
}
