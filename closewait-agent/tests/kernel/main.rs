//! Tests of the agent on the running kernel: the real binary, real sockets in network namespaces of their own, and
//! the agent's events.
//!
//! Needs root and `ss`. Tests share the process (descriptors, thread names), so they run with `--test-threads=1`.

use tests_support::{ability, agent, clock, engine, first_thread, kmsg, net, schema, sink, socket};

mod abilities;
mod amplifier;
mod churn;
mod footprint;
mod fuse;
mod leftovers;
mod setup;

mod accepting;
mod agreement;
mod architecture;
mod audit;
mod bad_input;
mod bounds;
mod budget;
mod busy;
mod check;
mod classic;
mod confinement;
mod connects;
mod contract;
mod control;
mod deferring;
mod dump;
mod ended;
mod families;
mod few_descriptors;
mod flight;
mod hooks;
mod hostile;
mod journal;
mod jvm_helper;
mod kernel_log;
mod kill;
mod leaving;
mod listing;
mod logging;
mod many;
mod memory;
mod metrics;
mod notify;
mod older;
mod otlp;
mod owners;
mod passes;
mod peek;
mod pileup;
mod pinned;
mod privileges;
mod progress;
mod recording;
mod redact;
mod service;
mod stacks;
mod status;
mod tail;
mod unchanged;
mod unresponsive;
mod untouched;
mod user_paths;
mod waits;
