//! Next step for a process: a command that shows where its threads are, exists on the host, and works for the runtime in its
//! version and state; a description if there is no such command.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Process, ProgramRuntime, ThreadState};
use crate::text::{harmless_field, is_harmful};

/// Number of free descriptors without which `closewait stacks --jvm` does not ask a JVM.
const FDS_OF_ATTACH: u64 = 4;
/// First version of the JDK whose dumps can have virtual threads (`Thread.dump_to_file`, JEP 444).
const JDK_WITH_VIRTUAL_THREADS: u32 = 21;
/// `SIGQUIT` and `SIGUSR1` of x86_64 and aarch64 (include/uapi/asm-generic/signal.h at v5.10).
const SIGQUIT: u32 = 3;
const SIGUSR1: u32 = 10;

/// A program that a next step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tool {
    /// `jcmd` of a JDK.
    Jcmd,
    /// `rbspy`.
    Rbspy,
    /// `gdb`.
    Gdb,
    /// `dotnet-stack`.
    DotnetStack,
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
    /// `ss`.
    Ss,
    /// `nsenter`.
    Nsenter,
    /// Tool of a recording by another version, which this one does not run.
    #[serde(other)]
    Other,
}

impl Tool {
    /// All tools that a step can run.
    pub const ALL: [Self; 13] = [
        Self::Jcmd,
        Self::Rbspy,
        Self::Gdb,
        Self::DotnetStack,
        Self::Node,
        Self::Psql,
        Self::MariaDb,
        Self::MySql,
        Self::RedisCli,
        Self::ValkeyCli,
        Self::Ps,
        Self::Ss,
        Self::Nsenter,
    ];

    /// Returns the file name of the tool.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jcmd => "jcmd",
            Self::Rbspy => "rbspy",
            Self::Gdb => "gdb",
            Self::DotnetStack => "dotnet-stack",
            Self::Node => "node",
            Self::Psql => "psql",
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
            Self::RedisCli => "redis-cli",
            Self::ValkeyCli => "valkey-cli",
            Self::Ps => "ps",
            Self::Ss => "ss",
            Self::Nsenter => "nsenter",
            Self::Other => "another tool",
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
    /// Returns the step that prints the stacks of all threads of a process, whatever its runtime.
    pub fn stacks(who: &str, pid: u32) -> Self {
        Self::command(note(who, "as root; does not stop it"), format!("closewait stacks {pid}"))
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
    /// Returns the step that shows where the threads of the process are, or that continues a stopped process. `port` is the local
    /// port of the service, if the process serves one.
    pub fn next_step(&self, port: Option<u16>) -> NextStep {
        let who = &format!("{}[{}]", self.comm, self.pid);
        let pid = self.pid;
        if self.frozen == Some(true) {
            return self.thaw(who);
        }
        if self.is_stopped() {
            let text = format!("continue {who}, unless a debugger has stopped it");
            return NextStep::command(text, format!("kill -CONT {pid}"));
        }
        let Some(runtime) = self.runtime else { return self.stacks(who) };
        match runtime {
            ProgramRuntime::Jvm => self.of_jvm(who),
            // Its frames are in memory, also those of a thread that runs.
            ProgramRuntime::CPython => NextStep::stacks(who, pid),
            ProgramRuntime::Node => self.of_node(who),
            // In a container, the socket to which dotnet-stack connects is in another /tmp.
            ProgramRuntime::DotNet if self.has(Tool::DotnetStack) && !self.is_in_container() => {
                NextStep::command(note(who, "as its user"), format!("dotnet-stack report -p {pid}"))
            }
            ProgramRuntime::Ruby if self.has(Tool::Rbspy) => NextStep::command(
                note(who, "as root; stops it for a few milliseconds"),
                format!("rbspy snapshot --pid {pid}"),
            ),
            ProgramRuntime::HaProxy => {
                NextStep::from(format!("see which sessions {who} has: send `show sess all` to its stats socket"))
            }
            ProgramRuntime::Postgres => self.of_postgres(who, port),
            ProgramRuntime::PgBouncer => NextStep::from(format!(
                "see what {who} waits for: `SHOW CLIENTS` and `SHOW SERVERS` in its admin console"
            )),
            ProgramRuntime::MySql => self.of_mysql(who),
            ProgramRuntime::Redis => self.of_redis(who, port),
            ProgramRuntime::Inetd => self.of_inetd(who),
            ProgramRuntime::DotNet
            | ProgramRuntime::Go
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
            | ProgramRuntime::Lighttpd => self.stacks(who),
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
        let no_fds = self.descriptors().is_some_and(|(open, limit)| open + FDS_OF_ATTACH > limit);
        // A JVM that was started with -Xrs does not catch SIGQUIT, which would end it.
        if self.catches(SIGQUIT) == Some(true) {
            if no_fds {
                let text = format!(
                    "make {who} print its threads to its standard output, /proc/{pid}/fd/1; it keeps running (other ways fail: all \
                     descriptors are in use)"
                );
                return NextStep::command(text, format!("kill -QUIT {pid}"));
            }
            let virtual_threads = match self.runtime_version.as_deref().and_then(jdk) {
                Some(version) if version >= JDK_WITH_VIRTUAL_THREADS => " --virtual-threads",
                Some(_) | None => "",
            };
            return NextStep::command(
                note(who, "as root; the JVM dumps them, and stops them for a moment"),
                format!("closewait stacks {pid} --jvm{virtual_threads}"),
            );
        }
        if self.has(Tool::Jcmd) && !no_fds {
            return NextStep::command(note(who, "as its user"), format!("jcmd {pid} Thread.print"));
        }
        self.stacks(who)
    }

    fn of_node(&self, who: &str) -> NextStep {
        let pid = self.pid;
        // Without the handler of Node.js the signal would end the process. The handler needs the main thread.
        if self.catches(SIGUSR1) != Some(true) || self.is_blocked() {
            return self.stacks(who);
        }
        let Some(inside) = self.in_netns().filter(|_| self.has(Tool::Node) && !self.lacks(Tool::Ss)) else {
            let text =
                format!("open the inspector of {who}, on its 127.0.0.1:9229, and connect a debugger; it stays open");
            return NextStep::command(text, format!("kill -USR1 {pid}"));
        };
        let text = note(
            who,
            "as root; pauses it for 3s; its inspector stays open on 127.0.0.1:9229; prints no stack if it blocks outside of \
             JavaScript, or if another program has that port",
        );
        // Without the check, the debugger would show another program that has the port.
        let check = format!("{inside}ss -ltnp 'sport = :9229' | grep pid={pid},");
        let input = "sleep 2; echo pause; sleep 2; echo bt; sleep 1; echo .exit";
        NextStep::command(
            text,
            format!("kill -USR1 {pid} && sleep 1 && {check} && ({input}) | {inside}node inspect -p {pid}"),
        )
    }

    fn of_postgres(&self, who: &str, port: Option<u16>) -> NextStep {
        // In a container, the process has another pid, and the sockets of the database are in other folders.
        let in_container = self.is_in_container();
        let of = if in_container { "state <> 'idle'".to_owned() } else { format!("pid = {}", self.pid) };
        let columns = "pid, pg_blocking_pids(pid), wait_event_type, wait_event, state, query";
        let query = format!("SELECT {columns} FROM pg_stat_activity WHERE {of}");
        let text = format!("see what {who} waits for, and for which process");
        if self.has(Tool::Psql) && !in_container {
            let port = port.map_or_else(String::new, |port| format!(" -p {port}"));
            NextStep::command(
                format!(
                    "{text} (as a database superuser, such as the user postgres; -h for another folder of its socket)"
                ),
                format!("psql{port} -d postgres -c \"{query}\""),
            )
        } else {
            NextStep::from(format!("{text}, in the database: {query}"))
        }
    }

    fn of_mysql(&self, who: &str) -> NextStep {
        let text = format!("see which queries and locks {who} waits for");
        let queries = "SHOW FULL PROCESSLIST; SHOW ENGINE INNODB STATUS";
        let tool = [Tool::MariaDb, Tool::MySql].into_iter().find(|tool| self.has(*tool));
        // In a container, the socket of the database is in another folder.
        match tool.filter(|_| !self.is_in_container()) {
            Some(tool) => NextStep::command(
                format!("{text} (as a database administrator; -S for another path of its socket)"),
                format!("{} -E -e '{queries}'", tool.name()),
            ),
            None => NextStep::from(format!("{text}, in the database: {queries}")),
        }
    }

    fn of_redis(&self, who: &str, port: Option<u16>) -> NextStep {
        // A busy Redis answers no command, or every other command with `-BUSY`.
        if self.busy_thread().is_some() {
            return NextStep::from(format!(
                "see what keeps {who} busy: it runs one command at a time. SCRIPT KILL ends a script; SLOWLOG GET shows the \
                 command when it has ended"
            ));
        }
        if self.is_blocked() {
            return self.stacks(who);
        }
        let tool = [Tool::RedisCli, Tool::ValkeyCli].into_iter().find(|tool| self.has(*tool));
        match tool.zip(self.in_netns()) {
            Some((tool, inside)) => {
                let (port, note) = match port {
                    Some(port) => (format!(" -p {port}"), ""),
                    None => (String::new(), " (-p for another port than 6379)"),
                };
                let command = format!("{inside}{}{port} CLIENT LIST", tool.name());
                NextStep::command(format!("see what the clients of {who} do{note}"), command)
            }
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

    /// Returns the step for a process without a better one: its stacks, of machine code or goroutines, which show nothing of a busy
    /// thread.
    fn stacks(&self, who: &str) -> NextStep {
        self.busy_stacks(who).unwrap_or_else(|| self.without_busy(NextStep::stacks(who, self.pid)))
    }

    fn without_busy(&self, step: NextStep) -> NextStep {
        if self.busy_thread().is_some() { step.and("it shows nothing of a busy thread: gdb does") } else { step }
    }

    /// Returns the step for a process with a busy thread, whose registers only a debugger reads; `None` for another one, or without gdb.
    fn busy_stacks(&self, who: &str) -> Option<NextStep> {
        (self.busy_thread().is_some() && self.has(Tool::Gdb)).then(|| self.gdb_stacks(who))
    }

    fn gdb_stacks(&self, who: &str) -> NextStep {
        NextStep::command(
            note(who, "as root; stops it while gdb reads"),
            format!("gdb -p {} -batch -ex 'thread apply all bt'", self.pid),
        )
    }

    /// Whether a tool is known to exist on the host.
    fn has(&self, tool: Tool) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.contains(&tool))
    }

    /// Whether a tool is known not to exist on the host.
    pub fn lacks(&self, tool: Tool) -> bool {
        self.missing_tools.contains(&tool)
    }

    /// Returns the beginning of a command that runs in the network namespace of the process: empty in the agent's; `None` if that
    /// takes a tool that does not exist on the host.
    pub fn in_netns(&self) -> Option<String> {
        if !self.other_netns.unwrap_or_else(|| self.is_in_container()) {
            return Some(String::new());
        }
        (!self.lacks(Tool::Nsenter)).then(|| format!("nsenter -t {} -n ", self.pid))
    }

    fn is_in_container(&self) -> bool {
        self.workload.as_deref().is_some_and(|workload| workload.container.is_some())
    }

    /// Whether the first thread is known to wait for something other than events.
    fn is_blocked(&self) -> bool {
        let main = self.groups.iter().find(|group| group.has_main);
        main.is_some_and(|main| match main.state {
            ThreadState::DiskSleep => true,
            ThreadState::Sleeping => main.syscall.is_some_and(|call| !call.waits_for_many()),
            ThreadState::Running | ThreadState::Stopped | ThreadState::Zombie | ThreadState::Other => false,
        })
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
mod tests;
