//! Real programs with sockets in CLOSE_WAIT, each scenario in a network namespace of its own, and what the agent says
//! of them: who holds them, why, and how sure it is.
//!
//! Needs root and what `cargo xtask scenarios` brings, which also makes a table of the lines that [`row`] writes.

use tests_support::{agent, clock, net, schema, socket};

mod check;
mod play;
mod proc;
mod recording;
mod row;
mod scenario;
mod stage;

mod backlog;
mod half_closed;
mod hung;
mod leaking;
mod passed_on;
mod pools;
mod proxies;
mod recovering;
mod zombies;
