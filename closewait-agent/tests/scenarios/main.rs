//! Real programs with sockets in CLOSE_WAIT, each scenario in its own network namespace, and the agent's verdicts:
//! owner, cause and certainty.
//!
//! Needs root and the programs that `cargo xtask scenarios` installs, which also makes a table of the lines of
//! [`row`].

use tests_support::{agent, clock, net, schema, socket};

mod cgroup;
mod check;
mod play;
mod proc;
mod recording;
mod row;
mod scenario;
mod stage;

mod backlog;
mod cpu;
mod half_closed;
mod hung;
mod inetd;
mod jvm_agent;
mod jvm_dump;
mod leaking;
mod lines;
mod monitored;
mod passed_on;
mod pools;
mod postgres;
mod proxies;
mod recovering;
mod redis;
mod runtimes;
mod served_and_stuck;
mod tomcat;
mod unix_backends;
mod worker_pools;
mod zombies;
