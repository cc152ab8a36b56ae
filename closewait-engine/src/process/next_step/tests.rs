//! Tests of the next step for a process.

use super::*;
use crate::{
    process::{Architecture, Syscall, Thread, ThreadState, group},
    testing,
};

fn process(runtime: ProgramRuntime, tools: &[Tool]) -> Process {
    let tools = Some(tools.iter().copied().collect());
    Process { runtime: Some(runtime), tools, ..testing::process("app", 42, Some((10, 1024))) }
}

fn command(process: &Process) -> String {
    process.next_step(None).command.unwrap_or_default()
}

fn node(tools: &[Tool]) -> Process {
    Process { signals_caught: Some(1 << 9), ..process(ProgramRuntime::Node, tools) }
}

fn thread(state: ThreadState, used: u32) -> Thread {
    let comm = testing::process("app", 42, None).comm;
    let (syscall, arg, limit, wchan) = (None, None, None, None);
    let (cpu_permille, wanted_permille) = (Some(used), None);
    Thread { comm, state, syscall, arg, limit, wchan, cpu_permille, wanted_permille, main: true }
}

#[test]
fn without_a_tool_no_step_runs_one() {
    for runtime in ProgramRuntime::ALL {
        for tools in [None, Some(std::collections::BTreeSet::new())] {
            let process = Process { tools, signals_caught: Some(u64::MAX), ..process(runtime, &[]) };
            let first = command(&process).split(' ').next().unwrap_or_default().to_owned();
            assert!(["", "closewait", "kill"].contains(&&*first), "{}: {first}", runtime.name());
        }
    }
}

#[test]
fn a_step_runs_only_tools_that_exist() {
    for runtime in ProgramRuntime::ALL {
        for tool in Tool::ALL {
            let process = process(runtime, &[tool]);
            let first = command(&process).split(' ').next().unwrap_or_default().to_owned();
            let other = Tool::ALL.into_iter().find(|other| *other != tool && other.name() == first);
            assert_eq!(other, None, "{} with {}", runtime.name(), tool.name());
        }
    }
}

#[test]
fn a_jvm_is_asked_for_its_threads_if_it_can_answer() {
    let jvm = |version: Option<&str>, fds| Process {
        runtime_version: version.map(str::to_owned),
        signals_caught: Some(1 << 2),
        fds_open: Some(fds),
        ..process(ProgramRuntime::Jvm, &[Tool::Jcmd])
    };
    assert_eq!(command(&jvm(Some("21.0.4"), 9)), "closewait stacks 42 --jvm --virtual-threads");
    for version in [Some("17.0.13"), Some("1.8.0_392"), Some("x"), None] {
        assert_eq!(command(&jvm(version, 9)), "closewait stacks 42 --jvm", "{version:?}");
    }
    assert_eq!([jdk("1.8.0_392"), jdk("25-ea"), jdk("21")], [Some(8), Some(25), Some(21)]);
    assert_eq!(command(&jvm(Some("17"), 1020)), "closewait stacks 42 --jvm");
    assert_eq!(command(&jvm(Some("17"), 1021)), "kill -QUIT 42");
    for signals_caught in [None, Some(0), Some(!(1 << 2))] {
        let would_end = Process { signals_caught, ..jvm(Some("17"), 9) };
        assert_eq!(command(&would_end), "jcmd 42 Thread.print", "-Xrs: the signal ends it");
        let without_jcmd = Process { tools: None, ..would_end };
        assert_eq!(command(&without_jcmd), "closewait stacks 42");
    }
}

#[test]
fn a_stopped_or_frozen_process_is_made_to_continue() {
    let mut process = process(ProgramRuntime::CPython, &[Tool::Gdb]);
    (process.threads, process.threads_seen) = (Some(1), 1);
    process.groups = group(&[thread(ThreadState::Stopped, 0)]);
    assert_eq!(command(&process), "kill -CONT 42");
    process.frozen = Some(true);
    assert_eq!(process.next_step(None), NextStep::from("thaw the cgroup of app[42]"));
    process.frozen_by = Some("/sys/fs/cgroup/a.slice/cgroup.freeze".to_owned());
    assert_eq!(command(&process), "echo 0 > /sys/fs/cgroup/a.slice/cgroup.freeze");
    process.frozen_by = Some("/sys/fs/cgroup/freezer/a b;c/freezer.state".to_owned());
    assert_eq!(command(&process), "echo THAWED > '/sys/fs/cgroup/freezer/a b;c/freezer.state'");
    for file in [
        "/sys/fs/cgroup/';reboot;'/cgroup.freeze",
        "/sys/fs/cgroup/x\u{15}touch x\r/cgroup.freeze",
        "/sys/fs/cgroup/\u{202e}/cgroup.freeze",
        "/sys/fs/cgroup/../../../etc/cgroup.freeze",
        "/sys/fs/cgroup/a/./cgroup.freeze",
        "/etc/shadow",
        "/sys/fs/cgroup/a/shadow",
    ] {
        process.frozen_by = Some(file.to_owned());
        assert_eq!(process.next_step(None).command, None, "{file:?}");
    }
}

#[test]
fn side_effects_come_before_the_command() {
    for runtime in [ProgramRuntime::CPython, ProgramRuntime::Go, ProgramRuntime::Nginx] {
        let step = process(runtime, &Tool::ALL).next_step(None);
        assert_eq!(step.text, "see where the threads of app[42] are (as root; does not stop it)");
        assert_eq!(step.command.as_deref(), Some("closewait stacks 42"));
    }
    let jvm = Process { signals_caught: Some(1 << 2), ..process(ProgramRuntime::Jvm, &[]) }.next_step(None);
    assert!(jvm.text.ends_with("(as root; the JVM dumps them, and stops them for a moment)"), "{}", jvm.text);
}

#[test]
fn a_tool_of_another_version_is_read_and_never_run() {
    let tools: Vec<Tool> = serde_json::from_str(r#"["Gdb", "Delve"]"#).unwrap();
    assert_eq!(tools, [Tool::Gdb, Tool::Other]);
    assert!(!Tool::ALL.contains(&Tool::Other));
}

#[test]
fn node_is_not_sent_a_signal_that_would_end_it() {
    let node = node(&[Tool::Node]);
    assert!(command(&node).starts_with("kill -USR1 42 && "), "{node:?}");
    for signals_caught in [Some(0), None] {
        assert_eq!(command(&Process { signals_caught, ..node.clone() }), "closewait stacks 42");
    }
}

#[test]
fn the_debugger_of_node_attaches_to_the_process_and_to_no_other() {
    let check = "ss -ltnp 'sport = :9229' | grep pid=42, &&";
    let own = command(&node(&[Tool::Node, Tool::Ss]));
    assert!(own.starts_with(&format!("kill -USR1 42 && sleep 1 && {check} (sleep 2; echo pause;")), "{own}");
    assert!(own.ends_with("echo .exit) | node inspect -p 42"), "{own}");
    let other = command(&Process { other_netns: Some(true), ..node(&[Tool::Node]) });
    assert!(other.contains(&format!("&& nsenter -t 42 -n {check}")), "{other}");
    assert!(other.ends_with("| nsenter -t 42 -n node inspect -p 42"), "{other}");
    let without = |tool: Tool| Process { missing_tools: [tool].into(), other_netns: Some(true), ..node(&[Tool::Node]) };
    for process in [without(Tool::Ss), without(Tool::Nsenter), node(&[])] {
        let step = process.next_step(None);
        assert_eq!(step.command.as_deref(), Some("kill -USR1 42"));
        assert!(step.text.contains("connect a debugger"), "{}", step.text);
    }
}

#[test]
fn a_program_whose_only_worker_blocks_is_not_asked_for_an_answer() {
    // nanosleep
    let blocked =
        group(&[Thread { syscall: Some(Syscall::new(Architecture::X86_64, 35)), ..thread(ThreadState::Sleeping, 0) }]);
    let polls =
        group(&[Thread { syscall: Some(Syscall::new(Architecture::X86_64, 232)), ..thread(ThreadState::Sleeping, 0) }]);
    let redis = process(ProgramRuntime::Redis, &[Tool::RedisCli]);
    for (process, asked) in [(node(&[Tool::Node]), "kill "), (redis, "redis-cli ")] {
        let blocked = Process { groups: blocked.clone(), ..process.clone() };
        assert_eq!(command(&blocked), "closewait stacks 42");
        assert!(command(&Process { groups: polls.clone(), ..process.clone() }).starts_with(asked));
        assert!(command(&process).starts_with(asked), "its threads are unknown");
    }
}

/// `/proc/PID/task/TID/syscall` shows no registers of a thread that runs.
#[test]
fn gdb_reads_the_stacks_of_a_busy_program() {
    let busy = group(&[thread(ThreadState::Running, 990)]);
    for runtime in [Some(ProgramRuntime::Nginx), Some(ProgramRuntime::Php), None] {
        let process = Process { runtime, ..process(ProgramRuntime::Php, &[Tool::Gdb]) };
        assert_eq!(command(&process), "closewait stacks 42", "{runtime:?}");
        let process = Process { groups: busy.clone(), ..process };
        assert_eq!(command(&process), "gdb -p 42 -batch -ex 'thread apply all bt'", "{runtime:?}");
        let without = Process { tools: None, ..process }.next_step(None);
        assert_eq!(without.command.as_deref(), Some("closewait stacks 42"), "{runtime:?}");
        assert!(without.text.ends_with("nothing of a busy thread: gdb does"), "{}", without.text);
    }
}

#[test]
fn databases_are_queried_with_their_own_commands() {
    let postgres = process(ProgramRuntime::Postgres, &[Tool::Psql]);
    let query = postgres.next_step(Some(5433)).command.unwrap();
    assert!(
        query.starts_with("psql -p 5433 -d postgres -c \"SELECT pid, pg_blocking_pids(pid), wait_event_type"),
        "{query}"
    );
    assert!(query.ends_with("FROM pg_stat_activity WHERE pid = 42\""), "{query}");
    assert!(command(&postgres).starts_with("psql -d postgres -c "));
    assert!(process(ProgramRuntime::Postgres, &[]).next_step(None).text.contains("pg_stat_activity WHERE pid = 42"));
    let mysql = process(ProgramRuntime::MySql, &[Tool::MySql]);
    assert_eq!(command(&mysql), "mysql -E -e 'SHOW FULL PROCESSLIST; SHOW ENGINE INNODB STATUS'");
    let mut redis = process(ProgramRuntime::Redis, &[Tool::ValkeyCli]);
    assert_eq!(command(&redis), "valkey-cli CLIENT LIST");
    assert_eq!(redis.next_step(Some(6380)).command.unwrap(), "valkey-cli -p 6380 CLIENT LIST");
    redis.groups = group(&[thread(ThreadState::Running, 990)]);
    let busy = redis.next_step(Some(6380));
    assert!(busy.command.is_none() && busy.text.contains("SCRIPT KILL"), "{busy:?}");
}

/// Another program of the host would answer instead, or none.
#[test]
fn no_client_of_the_host_asks_a_program_in_a_container() {
    let in_container = |process: Process| Process { workload: Some(Box::new(testing::workload())), ..process };
    let postgres = in_container(process(ProgramRuntime::Postgres, &[Tool::Psql])).next_step(Some(5432));
    assert!(postgres.command.is_none() && postgres.text.ends_with("WHERE state <> 'idle'"), "{postgres:?}");
    let mysql = in_container(process(ProgramRuntime::MySql, &[Tool::MySql])).next_step(Some(3306));
    assert!(mysql.command.is_none() && mysql.text.contains("SHOW FULL PROCESSLIST"), "{mysql:?}");
    let dotnet = in_container(process(ProgramRuntime::DotNet, &[Tool::DotnetStack])).next_step(None);
    assert_eq!(dotnet.command.unwrap(), "closewait stacks 42");
    let redis = in_container(process(ProgramRuntime::Redis, &[Tool::RedisCli]));
    assert_eq!(redis.next_step(Some(6379)).command.unwrap(), "nsenter -t 42 -n redis-cli -p 6379 CLIENT LIST");
    let without_nsenter = Process { missing_tools: [Tool::Nsenter].into(), ..redis.clone() };
    assert_eq!(without_nsenter.next_step(Some(6379)).command, None);
    let host_network = Process { other_netns: Some(false), ..redis };
    assert_eq!(host_network.next_step(Some(6379)).command.unwrap(), "redis-cli -p 6379 CLIENT LIST");
}

#[test]
fn the_step_for_inetd_shows_its_children() {
    assert!(command(&process(ProgramRuntime::Inetd, &[Tool::Ps])).starts_with("ps --ppid 42 "));
}
