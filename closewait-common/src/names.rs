//! Names of programs, maps and globals in the object, by which the agent finds them. Names of programs and maps have
//! at most 15 characters: the kernel stores no more (`BPF_OBJ_NAME_LEN`, include/uapi/linux/bpf.h at v5.10).

/// Program on `tp_btf/inet_sock_set_state`.
pub const PROGRAM_BTF: &str = "cw_state_btf";
/// Program on the classic tracepoint `sock/inet_sock_set_state`.
pub const PROGRAM_CLASSIC: &str = "cw_state_tp";
/// Iterator over every open file of every process.
pub const ITER_FILES: &str = "cw_files";
/// Iterator over the open files of one process: its other connections.
pub const ITER_PROXY_PEERS: &str = "cw_peers";
/// Program that the agent runs to refresh one socket.
pub const REFRESH: &str = "cw_refresh";
/// Program that the agent runs to copy the facts of many sockets.
pub const COPY: &str = "cw_copy";

/// Ring buffer of [`crate::Record`]s.
pub const RING: &str = "cw_ring";
/// Array of [`crate::slots::Slot`]s: times of entry into CLOSE_WAIT, at places that the addresses of sockets tell.
pub const SLOTS: &str = "cw_slots";
/// Hash from a socket to its time of entry, for sockets whose slot is taken. All of its memory is allocated at the start.
pub const SINCE: &str = "cw_since";
/// Array of [`crate::passes::Part`]s: counts of sockets without records, which the agent maps into its memory.
pub const PASSES: &str = "cw_passes";
/// Array of one [`crate::batch::CopyBatch`], which the agent maps into its memory.
pub const BATCH: &str = "cw_batch";
/// Counters and dwell histogram of each CPU.
pub const STATS: &str = "cw_stats";
/// One [`crate::kept::Kept`], for the agent that adopts pinned maps.
pub const KEPT: &str = "cw_kept";
/// Opener of each socket.
pub const OPENERS: &str = "cw_openers";

/// Inodes of the network namespaces whose sockets are known to the agent, except their descriptors.
pub const KNOWN: &str = "cw_known";
/// Maximum number of namespaces in [`KNOWN`]; in others, the iterator over open files describes all sockets.
pub const KNOWN_NAMESPACES: u32 = 1024;

/// Hash from port to [`crate::watched::Watched`]; the agent fills it.
pub const WATCHED: &str = "cw_watched";
/// Number of ports in [`WATCHED`].
pub const WATCHING: &str = "cw_watching";

/// Ring buffer of [`crate::connect::ConnectRecord`]s.
pub const CONNECTS: &str = "cw_connects";
/// Hash from process and remote port to [`crate::connect::ConnectWatch`]; the agent fills it.
pub const CONNECT_WATCHES: &str = "cw_connect_of";

/// Global of type [`crate::config::Layout`].
pub const LAYOUT: &str = "LAYOUT";
/// Global of type [`crate::config::TraceLayout`].
pub const TRACE_LAYOUT: &str = "TRACE_LAYOUT";
/// Global of type [`crate::batch::CopyWindows`].
pub const WINDOWS: &str = "WINDOWS";
/// Global of type [`crate::config::Abilities`].
pub const ABILITIES: &str = "ABILITIES";

/// The tracepoint, as BTF and tracefs name it.
pub const TRACEPOINT: &str = "inet_sock_set_state";
/// Group of the tracepoint in tracefs.
pub const TRACEPOINT_GROUP: &str = "sock";

/// Ring buffer of the kernel program's debug messages, as aya-log names it.
pub const LOG_RING: &str = "AYA_LOGS";
