//! Agent around [`closewait_engine`]: sources of observations, and outputs of findings.
//!
//! # Code map: start here
//!
//! One path through the code, each arrow one call:
//!
//! ```text
//! kernel program -> source -> engine (decode -> track -> group -> diagnose -> findings) -> sink
//! (closewait-ebpf)  (ring buffer | scan)  (closewait-engine, pure: the time comes in)      (text | json)
//! ```
//!
//! | module | contents | not here |
//! |---|---|---|
//! | [`closewait_engine`] | everything that decides: decoding, tracking, grouping, verdicts, findings | clocks, files, sockets, threads, tokio, aya |
//! | [`source`] | sources of observations: the ring buffer, snapshots; [`source::destroy`], which destroys sockets | interpretation |
//! | [`sink`] | outputs of findings: text, JSON lines; the typed answer of `list`, `report` and `kill`, and its rendering by the client | origin of findings |
//! | [`host`] | facilities of this kernel: BTF, tracefs, capabilities, namespaces; the plan made of them; the privileges dropped after the start | the engine |
//! | [`runtime`] | the event loop of `closewait run` | decisions |
//! | [`hooks`] | the programs of a user that run on findings, and the helper that runs them | their contents |
//! | [`recording`] | [`recording::RecordingEngine`], the only way into the engine; a file of all its input, and the replay: the same events | interpretation |
//! | [`control`] | the Unix socket between a running agent and other commands: permissions, trust, limits, the version of the protocol | the queries and answers themselves ([`sink::answer`]) |
//! | [`otlp`] | export of metrics and events to a collector, over OTLP/HTTP | the collector |
//! | [`metrics`] | the table of metrics, their values, and the HTTP server of `--listen` | the numbers ([`closewait_engine::snapshot::metrics`]) |
//! | [`clock`] | the only reader of clocks | |
//! | [`logging`] | the log on standard error, without waiting for its reader | |
//! | [`limits`] | limits of the environment that would end the process | |
//! | [`signals`] | signals that are blocked or ignored when a process starts | |
//! | [`memory`] | release of memory after a peak | |
//! | [`tui`] | the full-screen view of `closewait top`: state, screen and terminal | agents, scans and recordings |
//! | [`config`] | settings from files and the environment, found in clap's definition of a command | the options themselves ([`cli`]) |
//! | `beside` | two threads for one job: one reads, the other stores or prints | |
//! | [`cmd`], [`cli`] | subcommands, one file each; the options | |
//!
//! `cargo xtask tidy` checks the dependencies of these modules, except `runtime` and the commands
//! (`xtask/src/tidy/layers.rs`).

mod beside;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod control;
pub mod hooks;
pub mod host;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod otlp;
pub mod recording;
pub mod runtime;
pub mod signals;
pub mod sink;
pub mod source;
pub mod tui;
