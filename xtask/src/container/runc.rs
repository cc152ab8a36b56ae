//! Containers of runc. Dropping one ends it.

use std::os::unix::fs::MetadataExt as _;

use rustix::process::Signal;
use serde_json::json;

use crate::prelude::*;

/// Longest time until a container runs.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest time until a container has ended after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Where systemd and container engines mount the hierarchies of cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Running container.
pub(super) struct Container {
    id: String,
    state: PathBuf,
    child: Child,
    /// Its first process, as the host numbers it.
    pub(super) pid: String,
    /// What it prints.
    pub(super) output: PathBuf,
    errors: PathBuf,
}

impl Container {
    /// Starts the container with the configuration in this bundle.
    pub(super) fn start(id: &str, bundle: &Path, config: &Value) -> Result<Self> {
        fs::write(bundle.join("config.json"), config.to_string())?;
        let file = |name: &str| bundle.join(name);
        let (state, pid_file, output, errors) = (file("state"), file("pid"), file("stdout"), file("stderr"));
        if pid_file.exists() {
            fs::remove_file(&pid_file)?;
        }
        let mut command = runc(&state)?;
        command.args(["run", "--bundle"]).arg(bundle).arg("--pid-file").arg(&pid_file).arg(id);
        let (stdout, stderr) = (fs::File::create(&output)?, fs::File::create(&errors)?);
        // An open standard input: a program may hold its sockets as long as it is.
        command.stdin(Stdio::piped()).stdout(stdout.into_parts().0).stderr(stderr.into_parts().0);
        let child = exec::start(&mut command)?;
        let mut container = Self { id: id.to_owned(), state, child, pid: String::new(), output, errors };
        let deadline = exec::now() + START_LIMIT;
        while container.pid.is_empty() {
            container.check()?;
            ensure!(exec::now() < deadline, "{id} does not start: {}", container.log());
            thread::sleep(Duration::from_millis(20));
            container.pid = fs::read_to_string(&pid_file).unwrap_or_default();
        }
        Ok(container)
    }

    /// Fails if the container has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait().context("waiting for runc failed")?;
        ensure!(ended.is_none(), "{} has ended: {}", self.id, self.log());
        Ok(())
    }

    /// What it wrote to standard error.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Runs a program in the container, as `kubectl exec` does, and returns what it prints.
    pub(super) fn exec(&self, program: &[&str]) -> Result<String> {
        exec::quiet(runc(&self.state)?.arg("exec").arg(&self.id).args(program))
    }

    /// Returns the body of an answer over HTTP in the network namespace of the container.
    pub(super) fn get(&self, address: &str, path: &str) -> Result<String> {
        let mut curl = self.inside("curl")?;
        exec::quiet(
            curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"]).arg(format!("http://{address}{path}")),
        )
    }

    /// A program of the host in the network namespace of the container.
    pub(super) fn inside(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(exec::find("nsenter")?);
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).arg("--").arg(exec::find(program)?);
        Ok(command)
    }

    /// Ends the container with SIGTERM, and returns how long that took.
    pub(super) fn end(mut self) -> Result<Duration> {
        let began = exec::now();
        // runc passes the signal on to the first process.
        exec::signal(&self.child, Signal::TERM)?;
        let status =
            exec::wait_at_most(&mut self.child, END_LIMIT)?.with_context(|| format!("{} did not end", self.id))?;
        ensure!(status.success(), "{} failed at its end ({status}): {}", self.id, self.log());
        Ok(began.elapsed())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Ok(mut delete) = runc(&self.state) {
            // It may be gone already.
            let _gone = exec::quiet(delete.args(["delete", "--force"]).arg(&self.id));
        }
        exec::kill(&mut self.child);
    }
}

fn runc(state: &Path) -> Result<Command> {
    let mut command = Command::new(exec::find("runc")?);
    command.arg("--root").arg(state);
    Ok(command)
}

/// A mount of a file or folder of the host.
pub(super) fn bind(source: &Path, target: &str, is_read_only: bool) -> Value {
    // With the mounts below it, as container engines do.
    let access = if is_read_only { "ro" } else { "rw" };
    json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "nosuid", "nodev", access] })
}

/// Removes the empty cgroups that containers leave below this path, in all hierarchies.
pub(super) fn remove_cgroups(path: &str) {
    let mut roots = vec![PathBuf::from(CGROUPS)];
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    roots.extend(entries.map(|entry| entry.path()));
    for root in roots {
        remove_folders(&root.join(path.trim_start_matches('/')));
    }
}

/// Removes a folder and those below it. Files of a cgroup cannot be removed, and go with its folder.
fn remove_folders(folder: &Path) {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return };
    if !metadata.is_dir() || metadata.uid() != 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        remove_folders(&entry.path());
    }
    // A cgroup with processes stays.
    let _in_use = fs::remove_dir(folder);
}
