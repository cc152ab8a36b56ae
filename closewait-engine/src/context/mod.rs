//! Surroundings of sockets: owners, listeners, cgroups, namespaces, the other connections of proxies.

pub(crate) mod host_context;
pub(crate) mod pairing;
