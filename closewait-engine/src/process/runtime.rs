//! Runtimes of programs.

use serde::{Deserialize, Serialize};

/// Language runtime of a program, or a well-known server.
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
    /// MySQL or MariaDB.
    MySql,
    /// Redis or Valkey.
    Redis,
    /// memcached.
    Memcached,
    /// Apache HTTP Server.
    Apache,
    /// PgBouncer.
    PgBouncer,
    /// Varnish.
    Varnish,
    /// Squid.
    Squid,
    /// inetd or xinetd, which starts a program for each connection.
    Inetd,
    /// lighttpd.
    Lighttpd,
}

impl ProgramRuntime {
    /// Whether the program forwards what its clients ask for to other programs.
    pub const fn is_proxy(self) -> bool {
        matches!(
            self,
            Self::Nginx | Self::HaProxy | Self::Envoy | Self::PgBouncer | Self::Varnish | Self::Squid | Self::Lighttpd
        )
    }

    /// Whether the program's own functions are not those of the machine code on its stacks.
    pub const fn is_interpreter(self) -> bool {
        matches!(
            self,
            Self::Jvm | Self::Node | Self::CPython | Self::DotNet | Self::Ruby | Self::Php | Self::Beam | Self::Perl
        )
    }

    /// All runtimes.
    pub const ALL: [Self; 22] = [
        Self::Jvm,
        Self::Go,
        Self::Node,
        Self::CPython,
        Self::DotNet,
        Self::Ruby,
        Self::Php,
        Self::Nginx,
        Self::HaProxy,
        Self::Envoy,
        Self::Postgres,
        Self::Beam,
        Self::Perl,
        Self::MySql,
        Self::Redis,
        Self::Memcached,
        Self::Apache,
        Self::PgBouncer,
        Self::Varnish,
        Self::Squid,
        Self::Inetd,
        Self::Lighttpd,
    ];

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
            Self::MySql => "MySQL",
            Self::Redis => "Redis",
            Self::Memcached => "memcached",
            Self::Apache => "Apache",
            Self::PgBouncer => "PgBouncer",
            Self::Varnish => "Varnish",
            Self::Squid => "Squid",
            Self::Inetd => "inetd",
            Self::Lighttpd => "lighttpd",
        }
    }
}
