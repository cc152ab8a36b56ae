//! What runs a process: by the name of its program, by what the Go linker wrote into it, by a library that it has.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{ProcessRead, process_read::seen};
use crate::host::{
    deadline::ItemJob,
    proc::{self, Linker},
};
use closewait_engine::process::ProgramRuntime;

/// Libraries that tell a runtime.
const LIBRARIES: [(&str, ProgramRuntime); 4] = [
    ("libjvm.so", ProgramRuntime::Jvm),
    ("libcoreclr.so", ProgramRuntime::DotNet),
    ("libpython", ProgramRuntime::CPython),
    ("libruby", ProgramRuntime::Ruby),
];
/// Programs of which it is remembered who linked them.
const MAX_LINKED: usize = 1024;

/// Linker of the program of each inspected process: its file is read once. Keyed by PID, start and path, as a process
/// can execute another program.
static LINKED: Mutex<BTreeMap<(u32, u64, String), Linker>> = Mutex::new(BTreeMap::new());

/// What the name of the program tells.
pub(super) fn by_path(exe: &str) -> Option<ProgramRuntime> {
    by_name(exe.strip_suffix(" (deleted)").unwrap_or(exe).rsplit('/').next()?)
}

/// What the program's file and its libraries tell: reading both can wait for ever.
pub(super) fn by_files(
    folder: &Path,
    (pid, started_ns): (u32, u64),
    exe: &str,
    stuck: bool,
    job: &ItemJob<Option<ProcessRead>>,
    unseen: &mut Vec<String>,
) -> Option<ProgramRuntime> {
    job.step("its program");
    match linker(folder, (pid, started_ns, exe.to_owned()), unseen) {
        Some(Linker::Go) => return Some(ProgramRuntime::Go),
        Some(Linker::NotOpened(kind)) => unseen.push(format!(
            "its program was not opened, to see whether it is Go's: it lies on a file system that may not answer ({kind})"
        )),
        Some(Linker::Other) | None => {}
    }
    if stuck {
        unseen.push("its libraries were not inspected: a thread waits uninterruptibly".to_owned());
        return None;
    }
    job.step("the list of its libraries");
    let names = LIBRARIES.map(|(name, _)| name);
    let library = seen("its libraries", proc::mapped(folder, &names), unseen).flatten()?;
    LIBRARIES.iter().find(|(name, _)| *name == library).map(|(_, runtime)| *runtime)
}

fn linker(folder: &Path, key: (u32, u64, String), unseen: &mut Vec<String>) -> Option<Linker> {
    // Not kept while the file is read: a thread that is left behind there keeps nobody waiting. Whoever has panicked with
    // the lock has left a whole map behind.
    let linked = || LINKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(linker) = linked().get(&key) {
        return Some(linker.clone());
    }
    let linker = seen("its program", proc::linker(folder), unseen)?;
    let mut linked = linked();
    if linked.len() >= MAX_LINKED {
        linked.clear();
    }
    linked.insert(key, linker.clone());
    Some(linker)
}

/// By the name of the program, a version behind it or not: `python3.12`, `php-fpm8.2`.
fn by_name(name: &str) -> Option<ProgramRuntime> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-".contains(c));
    Some(match stem {
        "java" => ProgramRuntime::Jvm,
        "node" | "nodejs" => ProgramRuntime::Node,
        "python" => ProgramRuntime::CPython,
        "dotnet" => ProgramRuntime::DotNet,
        "ruby" => ProgramRuntime::Ruby,
        "php" | "php-fpm" | "php-cgi" => ProgramRuntime::Php,
        "nginx" => ProgramRuntime::Nginx,
        "haproxy" => ProgramRuntime::HaProxy,
        "envoy" => ProgramRuntime::Envoy,
        "postgres" => ProgramRuntime::Postgres,
        "beam.smp" | "beam" => ProgramRuntime::Beam,
        "perl" => ProgramRuntime::Perl,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_with_and_without_a_version() {
        for (name, runtime) in [
            ("python3.12", ProgramRuntime::CPython),
            ("php-fpm8.2", ProgramRuntime::Php),
            ("beam.smp", ProgramRuntime::Beam),
        ] {
            assert_eq!(by_name(name), Some(runtime));
        }
        assert_eq!(by_name("nodemon"), None);
        assert_eq!(by_path("/usr/bin/python3 (deleted)"), Some(ProgramRuntime::CPython));
    }
}
