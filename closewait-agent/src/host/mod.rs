//! What this host offers: facts are gathered here, [`plan`] decides from them what to attach.
//!
//! Nothing here knows of the engine, of sinks or of commands.

pub mod btf;
