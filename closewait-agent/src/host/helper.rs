//! Helper processes of an agent: this program again, started before the agent is confined, and ended with it.

use std::{
    ffi::CStr,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

use super::service_manager::VARIABLES;

/// Starts a helper with the arguments that `configure` adds, the current privileges of this process, and `stdin` as its connection to the
/// agent. `what` names it in an error.
///
/// # Errors
///
/// If it cannot be started.
pub fn start(what: &str, stdin: impl Into<Stdio>, configure: impl FnOnce(&mut Command)) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("closewait");
    configure(&mut command);
    // Only the agent notifies the service manager, and writes results to standard output.
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.stdin(stdin).stdout(Stdio::null()).spawn().with_context(|| {
        format!(
            "starting {what} failed (execve of /proc/self/exe)\n\
             hint: check that /proc is mounted, and the limit on processes (ulimit -u, TasksMax=)"
        )
    })
}

/// Leaves the agent's terminal, whose signals are for the agent, and takes a recognizable name.
pub fn detach(name: &CStr) {
    // This fails only for a process that leads a group already, which is good enough.
    let _leader = rustix::process::setsid();
    let _never = rustix::thread::set_name(name);
}
