//! Real programs with sockets in CLOSE_WAIT, each scenario in a network namespace of its own, and what the agent says
//! of them: who holds them, why, and how sure it is.
//!
//! Needs root and what `cargo xtask scenarios` brings, which also makes a table of the lines that [`row`] writes.

#[path = "../kernel/ability.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod ability;
#[path = "../kernel/agent.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod agent;
#[path = "../kernel/clock.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod clock;
#[path = "../kernel/net.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod net;
#[path = "../kernel/schema.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod schema;
#[path = "../kernel/socket.rs"]
#[expect(dead_code, reason = "the kernel tests need more of it")]
mod socket;

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
