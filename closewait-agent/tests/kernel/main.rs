//! The agent on the running kernel: the real binary, real sockets in network namespaces of their own, and the events
//! it prints.
//!
//! Needs root and `ss`. Tests share the process (descriptors, thread names), so they run with `--test-threads=1`.

mod abilities;
mod ability;
mod agent;
mod amplifier;
mod churn;
mod clock;
mod fuse;
mod kmsg;
mod leftovers;
mod net;
mod schema;
mod setup;
mod socket;

mod accepting;
mod audit;
mod bad_input;
mod bounds;
mod budget;
mod busy;
mod classic;
mod confinement;
mod contract;
mod control;
mod dump;
mod ended;
mod families;
mod few_descriptors;
mod hooks;
mod hostile;
mod kernel_log;
mod kill;
mod leaving;
mod listing;
mod logging;
mod many;
mod memory;
mod older;
mod owners;
mod pileup;
mod pinned;
mod privileges;
mod recording;
mod unresponsive;
mod user_paths;
