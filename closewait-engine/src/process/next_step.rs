//! Next step for a process: a command that shows where its threads are, exists on the host, and works for the runtime in its
//! version and state; a description if there is no such command.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Process, ProgramRuntime};
use crate::text::{harmless_field, is_harmful};

/// Number of descriptors that a JVM needs to answer jcmd: one to listen, and one to answer.
const FDS_OF_ATTACH: u64 = 2;
/// First version of the JDK with `Thread.dump_to_file`, which shows virtual threads (JEP 444).
const JDK_WITH_DUMP_TO_FILE: u32 = 21;
/// `SIGQUIT` and `SIGUSR1` of x86_64 and aarch64 (include/uapi/asm-generic/signal.h at v5.10).
const SIGQUIT: u32 = 3;
const SIGUSR1: u32 = 10;

/// A program that a next step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tool {
    /// `jcmd` of a JDK.
    Jcmd,
    /// `py-spy`.
    PySpy,
    /// `rbspy`.
    Rbspy,
    /// `gdb`.
    Gdb,
    /// `dotnet-stack`.
    DotnetStack,
    /// `dlv`.
    Delve,
    /// `node`.
    Node,
    /// `psql`.
    Psql,
    /// `mariadb`, the client.
    MariaDb,
    /// `mysql`, the client.
    MySql,
    /// `redis-cli`.
    RedisCli,
    /// `valkey-cli`.
    ValkeyCli,
    /// `ps`.
    Ps,
}

impl Tool {
    /// All tools.
    pub const ALL: [Self; 13] = [
        Self::Jcmd,
        Self::PySpy,
        Self::Rbspy,
        Self::Gdb,
        Self::DotnetStack,
        Self::Delve,
        Self::Node,
        Self::Psql,
        Self::MariaDb,
        Self::MySql,
        Self::RedisCli,
        Self::ValkeyCli,
        Self::Ps,
    ];

    /// Returns the file name of the tool.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jcmd => "jcmd",
            Self::PySpy => "py-spy",
            Self::Rbspy => "rbspy",
            Self::Gdb => "gdb",
            Self::DotnetStack => "dotnet-stack",
            Self::Delve => "dlv",
            Self::Node => "node",
            Self::Psql => "psql",
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
            Self::RedisCli => "redis-cli",
            Self::ValkeyCli => "valkey-cli",
            Self::Ps => "ps",
        }
    }
}

/// Recommended next step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// Description of the step, with its side effects and the privileges that it needs.
    #[serde(deserialize_with = "harmless_field")]
    pub text: String,
    /// Command that exists on the host and can be pasted into a shell; `None` if there is none.
    #[serde(deserialize_with = "harmless_field")]
    pub command: Option<String>,
}

impl NextStep {
    /// Returns the step for a process with an unknown runtime: a command that prints the kernel function in which each thread
    /// waits, and 0 for a thread that runs.
    pub fn of_unknown(who: &str, pid: u32) -> Self {
        Self::command(see_threads(who), format!("grep . /proc/{pid}/task/*/wchan"))
    }

    /// Returns a step with a command.
    pub fn command(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { text: text.into(), command: Some(command.into()) }
    }

    /// Returns the description with the command, for readers that show one text only.
    pub fn sentence(&self) -> Cow<'_, str> {
        match &self.command {
            Some(command) => Cow::Owned(format!("{}. Run `{command}`", self.text)),
            None => Cow::Borrowed(&self.text),
        }
    }

    /// Appends a clause to the description.
    #[must_use]
    pub fn and(mut self, clause: &str) -> Self {
        self.text.push_str("; ");
        self.text.push_str(clause);
        self
    }
}

/// A step without a command.
impl<T: Into<String>> From<T> for NextStep {
    fn from(text: T) -> Self {
        Self { text: text.into(), command: None }
    }
}

impl Process {
    /// Returns the step that shows where the threads of the process are, or that continues a stopped process.
    pub fn next_step(&self) -> NextStep {
        let who = &format!("{}[{}]", self.comm, self.pid);
        let pid = self.pid;
        if self.frozen == Some(true) {
            return self.thaw(who);
        }
        if self.is_stopped() {
            let text = format!("continue {who}, unless a debugger has stopped it");
            return NextStep::command(text, format!("kill -CONT {pid}"));
        }
        let Some(runtime) = self.runtime else { return NextStep::of_unknown(who, pid) };
        match runtime {
            ProgramRuntime::Jvm => self.of_jvm(who),
            ProgramRuntime::CPython => self.of_python(who),
            ProgramRuntime::Go => self.of_go(who),
            ProgramRuntime::Node => self.of_node(who),
            ProgramRuntime::DotNet if self.has(Tool::DotnetStack) => {
                NextStep::command(note(who, "as its user"), format!("dotnet-stack report -p {pid}"))
            }
            ProgramRuntime::Ruby if self.has(Tool::Rbspy) => NextStep::command(
                note(who, "as root; stops it for a few milliseconds"),
                format!("rbspy snapshot --pid {pid}"),
            ),
            ProgramRuntime::HaProxy => {
                NextStep::from(format!("see which sessions {who} has: send `show sess all` to its stats socket"))
            }
            ProgramRuntime::Postgres => self.of_postgres(who),
            ProgramRuntime::PgBouncer => NextStep::from(format!(
                "see what {who} waits for: `SHOW CLIENTS` and `SHOW SERVERS` in its admin console"
            )),
            ProgramRuntime::MySql => self.of_mysql(who),
            ProgramRuntime::Redis => self.of_redis(who),
            ProgramRuntime::Inetd => self.of_inetd(who),
            ProgramRuntime::DotNet
            | ProgramRuntime::Ruby
            | ProgramRuntime::Php
            | ProgramRuntime::Nginx
            | ProgramRuntime::Envoy
            | ProgramRuntime::Beam
            | ProgramRuntime::Perl
            | ProgramRuntime::Memcached
            | ProgramRuntime::Apache
            | ProgramRuntime::Varnish
            | ProgramRuntime::Squid
            | ProgramRuntime::Lighttpd => self.kernel_stacks(who),
        }
    }

    fn thaw(&self, who: &str) -> NextStep {
        let text = format!("thaw the cgroup of {who}");
        let Some(file) = self.frozen_by.as_deref().filter(|file| is_freezer(file)) else {
            return NextStep::from(text);
        };
        let state = if file.ends_with("freezer.state") { "THAWED" } else { "0" };
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:".contains(c);
        let file = if file.chars().all(plain) { file.to_owned() } else { format!("'{file}'") };
        NextStep::command(format!("{text} (as root)"), format!("echo {state} > {file}"))
    }

    fn of_jvm(&self, who: &str) -> NextStep {
        let pid = self.pid;
        let no_fds = self.descriptors().is_some_and(|(open, limit)| open + FDS_OF_ATTACH >= limit);
        if self.has(Tool::Jcmd) && !no_fds {
            let version = self.runtime_version.as_deref().and_then(jdk);
            return match version {
                Some(version) if version >= JDK_WITH_DUMP_TO_FILE => NextStep::command(
                    note(who, "as its user"),
                    format!("jcmd {pid} Thread.dump_to_file -format=json /tmp/{pid}.json"),
                ),
                Some(_) => NextStep::command(note(who, "as its user"), format!("jcmd {pid} Thread.print")),
                None => NextStep::command(
                    note(who, "as its user; without virtual threads, which JDK 21 introduced"),
                    format!("jcmd {pid} Thread.print"),
                ),
            };
        }
        // A JVM that was started with -Xrs does not catch SIGQUIT, which would end it.
        if self.catches(SIGQUIT) == Some(true) {
            let text = format!("make {who} print its threads to its standard output; it keeps running");
            let text = if no_fds { format!("{text} (jcmd fails: all descriptors are in use)") } else { text };
            return NextStep::command(text, format!("kill -QUIT {pid}"));
        }
        self.kernel_stacks(who)
    }

    fn of_python(&self, who: &str) -> NextStep {
        let pid = self.pid;
        if self.has(Tool::PySpy) {
            return NextStep::command(
                note(who, "stops it for a few milliseconds; --nonblocking does not"),
                format!("py-spy dump --pid {pid}"),
            );
        }
        if self.has(Tool::Gdb) {
            return NextStep::command(
                note(who, "stops it while gdb reads"),
                format!("gdb -p {pid} -batch -ex 'thread apply all bt'"),
            );
        }
        self.kernel_stacks(who)
    }

    fn of_go(&self, who: &str) -> NextStep {
        let (pid, debugger) = (self.pid, self.has(Tool::Delve));
        let debugger = if debugger { "; otherwise attach dlv, which stops it while attached" } else { "" };
        NextStep::from(format!(
            "see where the goroutines of {who} are: /debug/pprof/goroutine?debug=2, if it serves net/http/pprof{debugger}. \
             Do not send SIGQUIT to {pid}: it would end the process"
        ))
    }

    fn of_node(&self, who: &str) -> NextStep {
        let pid = self.pid;
        if self.catches(SIGUSR1) == Some(false) {
            return self.kernel_stacks(who);
        }
        let text = note(who, "opens its inspector, on 127.0.0.1:9229");
        if self.has(Tool::Node) {
            NextStep::command(text, format!("kill -USR1 {pid} && node inspect -p {pid}"))
        } else {
            NextStep::command(text, format!("kill -USR1 {pid}"))
        }
    }

    fn of_postgres(&self, who: &str) -> NextStep {
        // In a container, the process has another pid.
        let in_container = self.workload.as_deref().is_some_and(|workload| workload.container.is_some());
        let of = if in_container { "state <> 'idle'".to_owned() } else { format!("pid = {}", self.pid) };
        let columns = "pid, pg_blocking_pids(pid), wait_event_type, wait_event, state, query";
        let query = format!("SELECT {columns} FROM pg_stat_activity WHERE {of}");
        let text = format!("see what {who} waits for, and for which process");
        if self.has(Tool::Psql) {
            NextStep::command(format!("{text} (as a database superuser)"), format!("psql -c \"{query}\""))
        } else {
            NextStep::from(format!("{text}, in the database: {query}"))
        }
    }

    fn of_mysql(&self, who: &str) -> NextStep {
        let text = format!("see which queries and locks {who} waits for");
        let queries = "SHOW FULL PROCESSLIST; SHOW ENGINE INNODB STATUS";
        match [Tool::MariaDb, Tool::MySql].into_iter().find(|tool| self.has(*tool)) {
            Some(tool) => NextStep::command(
                format!("{text} (as a database administrator)"),
                format!("{} -E -e '{queries}'", tool.name()),
            ),
            None => NextStep::from(format!("{text}, in the database: {queries}")),
        }
    }

    fn of_redis(&self, who: &str) -> NextStep {
        // While a script runs too long, Redis answers every other command with an error (`-BUSY`).
        if self.busy_thread().is_some() {
            return NextStep::from(format!(
                "see what keeps {who} busy: it runs one command at a time. CLIENT LIST and SLOWLOG GET show which; SCRIPT KILL \
                 ends a script"
            ));
        }
        match [Tool::RedisCli, Tool::ValkeyCli].into_iter().find(|tool| self.has(*tool)) {
            Some(tool) => NextStep::command(
                format!("see what the clients of {who} do (-p for another port than 6379)"),
                format!("{} CLIENT LIST", tool.name()),
            ),
            None => NextStep::from(format!("see what the clients of {who} do: CLIENT LIST and SLOWLOG GET")),
        }
    }

    fn of_inetd(&self, who: &str) -> NextStep {
        let text = format!("see what the children of {who} do: it starts one for each connection, which does the work");
        if self.has(Tool::Ps) {
            NextStep::command(text, format!("ps --ppid {} -o pid,stat,etime,wchan:32,args", self.pid))
        } else {
            NextStep::from(text)
        }
    }

    fn kernel_stacks(&self, who: &str) -> NextStep {
        NextStep::command(note(who, "as root"), format!("grep . /proc/{}/task/*/stack", self.pid))
    }

    /// Whether a tool is known to exist on the host.
    fn has(&self, tool: Tool) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.contains(&tool))
    }

    /// Whether the process catches a signal; `None` if unknown.
    fn catches(&self, signal: u32) -> Option<bool> {
        Some(self.signals_caught? >> (signal - 1) & 1 == 1)
    }
}

/// Whether a path is that of a freezer, and a shell takes it as it is between quotes: users choose the names of cgroups, and a
/// recording can have any path.
fn is_freezer(file: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    let below = file.strip_prefix("/sys/fs/cgroup/").filter(|below| below.split('/').all(is_plain));
    below.is_some_and(|below| below.ends_with("/cgroup.freeze") || below.ends_with("/freezer.state"))
        && !file.chars().any(|character| is_harmful(character) || "'\\".contains(character))
}

fn see_threads(who: &str) -> String {
    format!("see where the threads of {who} are")
}

fn note(who: &str, note: &str) -> String {
    format!("{} ({note})", see_threads(who))
}

/// Returns the feature version of a JDK: 8 for `1.8.0_392`, 21 for `21.0.4`.
fn jdk(version: &str) -> Option<u32> {
    let mut numbers = version.split(['.', '-', '+', '_']);
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        version => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        process::{Thread, ThreadState, group},
        testing,
    };

    fn process(runtime: ProgramRuntime, tools: &[Tool]) -> Process {
        let tools = Some(tools.iter().copied().collect());
        Process { runtime: Some(runtime), tools, ..testing::process("app", 42, Some((10, 1024))) }
    }

    fn command(process: &Process) -> String {
        process.next_step().command.unwrap_or_default()
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
                assert!(["", "grep", "kill"].contains(&&*first), "{}: {first}", runtime.name());
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
    fn jcmd_fits_the_version_and_the_descriptors_of_the_jvm() {
        let jvm = |version: Option<&str>, fds| Process {
            runtime_version: version.map(str::to_owned),
            signals_caught: Some(1 << 2),
            fds_open: Some(fds),
            ..process(ProgramRuntime::Jvm, &[Tool::Jcmd])
        };
        assert_eq!(command(&jvm(Some("21.0.4"), 9)), "jcmd 42 Thread.dump_to_file -format=json /tmp/42.json");
        for version in [Some("17.0.13"), Some("1.8.0_392"), Some("x"), None] {
            assert_eq!(command(&jvm(version, 9)), "jcmd 42 Thread.print", "{version:?}");
        }
        assert_eq!([jdk("1.8.0_392"), jdk("25-ea"), jdk("21")], [Some(8), Some(25), Some(21)]);
        assert_eq!(command(&jvm(Some("21.0.4"), 1021)), "jcmd 42 Thread.dump_to_file -format=json /tmp/42.json");
        assert_eq!(command(&jvm(Some("21.0.4"), 1022)), "kill -QUIT 42");
        let without_jcmd = Process { tools: None, ..jvm(Some("21.0.4"), 9) };
        assert_eq!(command(&without_jcmd), "kill -QUIT 42");
        for signals_caught in [None, Some(0), Some(!(1 << 2))] {
            let would_end = Process { signals_caught, ..without_jcmd.clone() };
            assert_eq!(command(&would_end), "grep . /proc/42/task/*/stack", "-Xrs: the signal ends it");
        }
    }

    #[test]
    fn a_stopped_or_frozen_process_is_made_to_continue() {
        let mut process = process(ProgramRuntime::CPython, &[Tool::PySpy]);
        (process.threads, process.threads_seen) = (Some(1), 1);
        process.groups = group(&[thread(ThreadState::Stopped, 0)]);
        assert_eq!(command(&process), "kill -CONT 42");
        process.frozen = Some(true);
        assert_eq!(process.next_step(), NextStep::from("thaw the cgroup of app[42]"));
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
            assert_eq!(process.next_step().command, None, "{file:?}");
        }
    }

    #[test]
    fn side_effects_come_before_the_command() {
        let python = process(ProgramRuntime::CPython, &[Tool::PySpy]);
        assert_eq!(
            python.next_step().text,
            "see where the threads of app[42] are (stops it for a few milliseconds; --nonblocking does not)"
        );
        assert_eq!(
            command(&process(ProgramRuntime::CPython, &[Tool::Gdb])),
            "gdb -p 42 -batch -ex 'thread apply all bt'"
        );
        let go = process(ProgramRuntime::Go, &[Tool::Delve]).next_step();
        assert!(go.command.is_none() && go.text.contains("dlv") && go.text.contains("Do not send SIGQUIT"));
    }

    #[test]
    fn node_is_not_sent_a_signal_that_would_end_it() {
        let node = process(ProgramRuntime::Node, &[Tool::Node]);
        assert_eq!(command(&node), "kill -USR1 42 && node inspect -p 42");
        let caught = Process { signals_caught: Some(1 << 9), tools: None, ..node.clone() };
        assert_eq!(command(&caught), "kill -USR1 42");
        assert_eq!(command(&Process { signals_caught: Some(0), ..node }), "grep . /proc/42/task/*/stack");
    }

    #[test]
    fn databases_are_queried_with_their_own_commands() {
        let postgres = process(ProgramRuntime::Postgres, &[Tool::Psql]);
        let query = command(&postgres);
        assert!(query.starts_with("psql -c \"SELECT pid, pg_blocking_pids(pid), wait_event_type"), "{query}");
        assert!(query.ends_with("FROM pg_stat_activity WHERE pid = 42\""), "{query}");
        let workload = Some(Box::new(testing::workload()));
        assert!(command(&Process { workload, ..postgres }).ends_with("WHERE state <> 'idle'\""));
        assert!(process(ProgramRuntime::Postgres, &[]).next_step().text.contains("pg_stat_activity WHERE pid = 42"));
        let mysql = command(&process(ProgramRuntime::MySql, &[Tool::MySql]));
        assert_eq!(mysql, "mysql -E -e 'SHOW FULL PROCESSLIST; SHOW ENGINE INNODB STATUS'");
        let mut redis = process(ProgramRuntime::Redis, &[Tool::ValkeyCli]);
        assert_eq!(command(&redis), "valkey-cli CLIENT LIST");
        redis.groups = group(&[thread(ThreadState::Running, 990)]);
        let busy = redis.next_step();
        assert!(busy.command.is_none() && busy.text.contains("SCRIPT KILL"), "{busy:?}");
    }

    #[test]
    fn the_step_for_inetd_shows_its_children() {
        assert!(command(&process(ProgramRuntime::Inetd, &[Tool::Ps])).starts_with("ps --ppid 42 "));
    }
}
