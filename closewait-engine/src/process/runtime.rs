//! Runtimes of programs, and the command for the stacks of their threads.

use serde::{Deserialize, Serialize};

/// Language runtime of a program, or a server that is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramRuntime {
    /// A Java virtual machine.
    Jvm,
    /// Go.
    Go,
    /// Node.js.
    Node,
    /// CPython.
    CPython,
    /// .NET.
    DotNet,
    /// Ruby.
    Ruby,
    /// PHP.
    Php,
    /// nginx.
    Nginx,
    /// HAProxy.
    HaProxy,
    /// Envoy.
    Envoy,
    /// PostgreSQL.
    Postgres,
    /// The virtual machine of Erlang and Elixir.
    Beam,
    /// Perl.
    Perl,
}

impl ProgramRuntime {
    /// Returns the name of the runtime as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jvm => "JVM",
            Self::Go => "Go",
            Self::Node => "Node.js",
            Self::CPython => "CPython",
            Self::DotNet => ".NET",
            Self::Ruby => "Ruby",
            Self::Php => "PHP",
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Postgres => "PostgreSQL",
            Self::Beam => "BEAM",
            Self::Perl => "Perl",
        }
    }

    /// Returns the command that shows the stacks of process `pid`. A warning is in a comment of the shell behind it. No
    /// command ends the process; a command that stops it for a time has a warning.
    pub fn dump_command(self, pid: u32) -> Option<String> {
        Some(match self {
            Self::Jvm => format!(
                "jcmd {pid} Thread.dump_to_file -format=json /tmp/{pid}.json  # as its user; before JDK 21: jcmd {pid} \
                 Thread.print"
            ),
            Self::Go => format!(
                "curl -s 'http://HOST:PORT/debug/pprof/goroutine?debug=2'  # if it serves net/http/pprof; else dlv \
                 attach {pid}, which stops it while attached. SIGQUIT would end it"
            ),
            Self::Node => {
                format!("kill -USR1 {pid} && node inspect -p {pid}  # opens its inspector, on 127.0.0.1:9229")
            }
            Self::CPython => {
                format!("py-spy dump --pid {pid}  # stops it for some milliseconds; --nonblocking does not")
            }
            Self::DotNet => format!("dotnet-stack report -p {pid}  # as its user"),
            Self::Ruby => format!("rbspy snapshot --pid {pid}  # as root; stops it for some milliseconds"),
            Self::HaProxy => "echo 'show sess all' | socat stdio STATS_SOCKET".to_owned(),
            Self::Php | Self::Nginx | Self::Envoy | Self::Postgres | Self::Beam | Self::Perl => {
                format!("cat /proc/{pid}/task/*/stack  # as root")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_process_and_tell_what_stops_it() {
        assert!(ProgramRuntime::Jvm.dump_command(42).unwrap().starts_with("jcmd 42 "));
        for runtime in [ProgramRuntime::Go, ProgramRuntime::CPython, ProgramRuntime::Ruby] {
            assert!(runtime.dump_command(42).unwrap().contains("stops it"), "{}", runtime.name());
        }
        assert_eq!(ProgramRuntime::Beam.dump_command(42).unwrap(), "cat /proc/42/task/*/stack  # as root");
    }
}
