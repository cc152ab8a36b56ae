//! Runtime of a process, from the name of its program, the Go linker's data in it, and its libraries.

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
use closewait_engine::{process::ProgramRuntime, text::harmless};

/// Libraries that identify a runtime.
const LIBRARIES: [(&str, ProgramRuntime); 4] = [
    ("libjvm.so", ProgramRuntime::Jvm),
    ("libcoreclr.so", ProgramRuntime::DotNet),
    ("libpython", ProgramRuntime::CPython),
    ("libruby", ProgramRuntime::Ruby),
];
/// Maximum length of the version of a JDK, bytes.
const MAX_VERSION: usize = 64;
/// Maximum number of programs in the cache of linkers.
const MAX_LINKED: usize = 1024;

/// Linker of the program of each inspected process, so that its file is read once. By pid, start and path, since a
/// process can execute another program.
static LINKED: Mutex<BTreeMap<Program, Linker>> = Mutex::new(BTreeMap::new());

/// JDK version beside the program of each JVM, so that its file is read once.
static JDKS: Mutex<BTreeMap<Program, Option<String>>> = Mutex::new(BTreeMap::new());

/// Program of a process: pid, start and path.
pub(super) type Program = (u32, u64, String);

/// Returns the runtime by the name of the program.
pub(super) fn by_path(exe: &str) -> Option<ProgramRuntime> {
    by_name(exe.strip_suffix(" (deleted)").unwrap_or(exe).rsplit('/').next()?)
}

/// Returns the runtime by the program's file and its libraries. Reading both can block forever.
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
    // The lock is free while the file is read: a thread that is left behind there blocks no other. The map is
    // complete even after a panic with the lock held.
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

/// Returns the version of the JDK in the path of its program: `/usr/lib/jvm/java-17-openjdk-amd64/bin/java`,
/// `/opt/jdk1.8.0_392/bin/java`, `/opt/zulu21.36.17/bin/java`.
pub(super) fn jdk_of_path(exe: &str) -> Option<String> {
    const NAMES: [&str; 6] = ["java-", "jdk-", "jdk", "zulu", "temurin-", "corretto-"];
    let version_behind = |component: &str, name: &str| {
        let rest = component.get(component.find(name)? + name.len()..)?;
        let end = rest.find(|c: char| !(c.is_ascii_digit() || "._".contains(c))).unwrap_or(rest.len());
        let version = rest.get(..end)?.trim_end_matches(['.', '_']);
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
    };
    let version = |component: &str| NAMES.iter().find_map(|name| version_behind(component, name));
    exe.rsplit('/').skip(1).find_map(version)
}

/// Returns the version in the file `release` beside a JVM. A JDK of version 8 has its JVM in a folder `jre`. Can
/// block on the file system of the process's root.
pub(super) fn jdk_of_files(folder: &Path, program: Program) -> Option<String> {
    let known = || JDKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = known().get(&program) {
        return version.clone();
    }
    let version = jdk_beside(folder, &program.2);
    let mut known = known();
    if known.len() >= MAX_LINKED {
        known.clear();
    }
    known.insert(program, version.clone());
    version
}

fn jdk_beside(process: &Path, exe: &str) -> Option<String> {
    let homes = Path::new(exe).ancestors().skip(2).take(2);
    let text = homes.into_iter().find_map(|home| proc::read_in_root(process, &home.join("release")).ok().flatten())?;
    let text = String::from_utf8(text).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?.trim().trim_matches('"');
    (!version.is_empty() && version.len() <= MAX_VERSION).then(|| harmless(version.as_bytes()))
}

/// Returns the runtime by a program's name, with or without a version behind it: `python3.12`, `php-fpm8.2`.
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
        "mysqld" | "mariadbd" => ProgramRuntime::MySql,
        // Debian's redis-server is a link to a program that checks files: one program does both, by the name that started it.
        "redis-server" | "redis-check-rdb" | "redis-check-aof" | "valkey-server" | "valkey-check-rdb"
        | "valkey-check-aof" => ProgramRuntime::Redis,
        "memcached" => ProgramRuntime::Memcached,
        "apache" | "httpd" => ProgramRuntime::Apache,
        "pgbouncer" => ProgramRuntime::PgBouncer,
        "varnishd" => ProgramRuntime::Varnish,
        "squid" => ProgramRuntime::Squid,
        "lighttpd" => ProgramRuntime::Lighttpd,
        "inetd" | "xinetd" => ProgramRuntime::Inetd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Fixture;

    #[test]
    fn the_path_of_a_jvm_has_its_version() {
        for (exe, version) in [
            ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", Some("17")),
            ("/usr/lib/jvm/java-1.8.0-openjdk-1.8.0.392/jre/bin/java", Some("1.8.0")),
            ("/opt/jdk1.8.0_392/bin/java", Some("1.8.0_392")),
            ("/opt/jdk-21.0.4+7/bin/java", Some("21.0.4")),
            ("/usr/lib/jvm/temurin-21-jdk-amd64/bin/java", Some("21")),
            ("/opt/java/openjdk/bin/java", None),
            ("java", None),
        ] {
            assert_eq!(jdk_of_path(exe).as_deref(), version, "{exe}");
        }
    }

    #[test]
    fn the_release_file_beside_a_jvm_has_its_version() {
        let fixture = Fixture::new("jdk");
        fixture.file("root/jdk/release", b"IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"21.0.4\"\n");
        fixture.file("root/old/release", b"JAVA_VERSION=\"1.8.0_392\"\n");
        fixture.file("outside/release", b"JAVA_VERSION=\"99\"\n");
        let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, fixture.path().join(at)).unwrap();
        link(Path::new("jdk"), "root/linked");
        fixture.file("process/x", b"");
        link(&fixture.path().join("root"), "process/root");
        link(Path::new("/proc/self/mountinfo"), "process/mountinfo");
        let version = |java: &str| jdk_beside(&fixture.path().join("process"), java);
        assert_eq!(version("/jdk/bin/java").as_deref(), Some("21.0.4"));
        assert_eq!(version("/old/jre/bin/java").as_deref(), Some("1.8.0_392"));
        assert_eq!(version("/linked/bin/java"), None, "the path of a program has no links");
        assert_eq!(version("/../outside/bin/java"), None, "nothing outside of the root is read");
        assert_eq!(version("/none/bin/java"), None);
    }

    #[test]
    fn programs_are_known_with_and_without_a_version() {
        for (name, runtime) in [
            ("python3.12", ProgramRuntime::CPython),
            ("php-fpm8.2", ProgramRuntime::Php),
            ("beam.smp", ProgramRuntime::Beam),
        ] {
            assert_eq!(by_name(name), Some(runtime));
        }
        for (name, runtime) in [
            ("mariadbd", ProgramRuntime::MySql),
            ("valkey-server", ProgramRuntime::Redis),
            ("redis-check-rdb", ProgramRuntime::Redis),
            ("apache2", ProgramRuntime::Apache),
            ("xinetd", ProgramRuntime::Inetd),
        ] {
            assert_eq!(by_name(name), Some(runtime));
        }
        assert_eq!(by_name("nodemon"), None);
        assert_eq!(by_path("/usr/bin/python3 (deleted)"), Some(ProgramRuntime::CPython));
    }
}
