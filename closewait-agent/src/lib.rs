//! The agent around [`closewait_engine`]: where observations come from, and where findings go.
//!
//! # Code map: start here
//!
//! One way through the code, each arrow one call:
//!
//! ```text
//! kernel program -> source -> engine (decode -> track -> group -> diagnose -> findings) -> sink
//! (closewait-ebpf)  (ring buffer | scan)  (closewait-engine, pure: the time comes in)      (text | json)
//! ```
//!
//! | module | contents | not here |
//! |---|---|---|
//! | [`closewait_engine`] | everything that decides: decoding, tracking, grouping, verdicts, findings | clocks, files, sockets, threads, tokio, aya |
//! | [`source`] | where observations come from: the ring buffer, snapshots; [`source::destroy`], which destroys sockets | what they mean |
//! | [`sink`] | where findings go: text for people, JSON lines; the typed answer of `list`, `report` and `kill`, and what the client prints of it | where they come from |
//! | [`host`] | what this kernel offers: BTF, tracefs, capabilities, namespaces; the plan made of it; what is given up after the start | the engine |
//! | [`runtime`] | the one event loop of `closewait run` | decisions |
//! | [`hooks`] | the programs that a user has run when something is found, and the helper that runs them | what they do |
//! | [`recording`] | [`recording::RecordingEngine`], the one way into the engine; a file of all that goes in, and its replay: the same events | what they mean |
//! | [`control`] | the Unix socket between a running agent and other commands: who may ask, who is believed, limits, the version of the protocol | the questions and answers themselves ([`sink::answer`]) |
//! | [`clock`] | the only reader of clocks | |
//! | [`logging`] | the log on standard error, which nobody waits for | |
//! | [`limits`] | limits of the environment that would end the process | |
//! | [`signals`] | signals that are blocked or ignored when a process starts | |
//! | [`memory`] | gives memory back after a peak | |
//! | [`cmd`], [`cli`] | one file a subcommand; the flags | |
//!
//! `cargo xtask tidy` checks what these modules may use, apart from `runtime` and the commands (`xtask/src/tidy/layers.rs`).

pub mod cli;
pub mod clock;
pub mod cmd;
pub mod control;
pub mod hooks;
pub mod host;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod recording;
pub mod runtime;
pub mod signals;
pub mod sink;
pub mod source;
