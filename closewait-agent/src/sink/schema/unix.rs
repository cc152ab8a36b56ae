//! JSON objects of programs behind UNIX sockets.

use serde::Serialize;

#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::model::UnixBackend;

/// Program behind a UNIX socket that the owners of a group are connected to.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct UnixBackendObject<'a> {
    /// Path of the socket; `@` before an abstract name.
    path: &'a str,
    /// Number of connections of the owners to it.
    connections: u32,
    /// Number of these that the other program has not accepted.
    unaccepted: u32,
    /// Number of connections that are certain to wait for an answer; others may be idle.
    waiting: u32,
    /// Process that listens; of several, one whose threads explain most. `null` if unknown.
    pid: Option<u32>,
    /// Name of that process; `null` if unknown.
    comm: Option<&'a str>,
    /// Number of processes that have a descriptor of the listener; 0 if unknown.
    processes: u32,
    /// Activity of the threads of that process; `null` if unknown.
    activity: Option<&'a str>,
}

impl<'a> From<&'a UnixBackend> for UnixBackendObject<'a> {
    fn from(backend: &'a UnixBackend) -> Self {
        let UnixBackend { path, connections, queued, waiting, program, processes, activity } = backend;
        Self {
            path,
            connections: *connections,
            unaccepted: *queued,
            waiting: *waiting,
            pid: program.as_ref().map(|task| task.pid),
            comm: program.as_ref().map(|task| task.comm.as_str()),
            processes: *processes,
            activity: activity.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use closewait_engine::testing::owner;

    #[test]
    fn an_unknown_program_is_null() {
        let backend = UnixBackend {
            path: "/run/app.sock".to_owned(),
            connections: 27,
            queued: 22,
            waiting: 27,
            program: Some(owner("php-fpm", 7, 3).task),
            processes: 6,
            activity: Some("its only thread waits in flock".to_owned()),
        };
        let mut expected = json!({
            "path": "/run/app.sock", "connections": 27, "unaccepted": 22, "waiting": 27, "pid": 7, "comm": "php-fpm",
            "processes": 6, "activity": "its only thread waits in flock",
        });
        let object = |backend: &UnixBackend| serde_json::to_value(UnixBackendObject::from(backend)).unwrap();
        assert_eq!(object(&backend), expected);
        for name in ["pid", "comm", "activity"] {
            expected[name] = json!(null);
        }
        expected["processes"] = json!(0);
        assert_eq!(object(&UnixBackend { program: None, processes: 0, activity: None, ..backend }), expected);
    }
}
