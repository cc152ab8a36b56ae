//! Facts about the host: owners, listeners, cgroups, namespaces, the other connections of proxies.

mod connect_log;
mod connections;
pub(crate) mod host_context;
pub(crate) mod pairing;
mod peer_ends;
mod run_counts;
mod stack_samples;
mod unix_log;
mod unread_log;
