//! Names of programs, maps and globals in the object, used by the agent to find them.

/// Program on `tp_btf/inet_sock_set_state`.
pub const PROGRAM_BTF: &str = "closewait_btf";
/// Program on the classic tracepoint `sock/inet_sock_set_state`.
pub const PROGRAM_CLASSIC: &str = "closewait_trace";
/// Iterator over every open file of every process.
pub const ITER_FILES: &str = "closewait_files";
/// Iterator over the open files of one process: its other connections.
pub const ITER_PROXY_PEERS: &str = "closewait_legs";
/// Program that the agent runs to refresh one socket.
pub const REFRESH: &str = "closewait_look";

/// Ring buffer of [`crate::Record`]s.
pub const RING: &str = "CLOSEWAIT_RING";
/// Hash from socket to the time it entered CLOSE_WAIT. All of its memory is taken at the start.
pub const SINCE: &str = "CLOSEWAIT_SINCE";
/// Counters and dwell histogram of each CPU.
pub const STATS: &str = "CLOSEWAIT_STATS";
/// One [`crate::kept::Kept`], for the agent that adopts pinned maps.
pub const KEPT: &str = "CLOSEWAIT_KEPT";
/// Who connected each socket.
pub const OPENERS: &str = "CLOSEWAIT_OPENERS";

/// Inodes of the network namespaces of whose sockets the agent knows everything but the descriptors.
pub const KNOWN: &str = "CLOSEWAIT_KNOWN";
/// How many [`KNOWN`] has room for; of others the walk over open files tells all.
pub const KNOWN_NAMESPACES: u32 = 1024;

/// Global of type [`crate::config::Layout`].
pub const LAYOUT: &str = "LAYOUT";
/// Global of type [`crate::config::TraceLayout`].
pub const TRACE_LAYOUT: &str = "TRACE_LAYOUT";
/// Global of type [`crate::config::Abilities`].
pub const ABILITIES: &str = "ABILITIES";

/// The tracepoint, as BTF and tracefs name it.
pub const TRACEPOINT: &str = "inet_sock_set_state";
/// Its group in tracefs.
pub const TRACEPOINT_GROUP: &str = "sock";

/// Ring buffer of the kernel program's debug messages, as aya-log names it.
pub const LOG_RING: &str = "AYA_LOGS";
