//! A systemd in a container of systemd-nspawn, which shows whether closewait's unit works.

use crate::prelude::*;

/// Longest time to wait for a state.
const LIMIT: Duration = Duration::from_secs(30);

/// A booted container. Dropping it ends it.
pub(crate) struct Container {
    child: Child,
    /// Process 1 of the container, as the host numbers it.
    init: String,
}

impl Container {
    /// Boots the systemd of a root folder, with these options of systemd-nspawn, and returns as soon as process 1 runs. The console's
    /// output goes to `log`.
    pub(crate) fn boot(dir: &Path, log: &Path, options: &[&str]) -> Result<Self> {
        let path = log;
        let log = fs::File::create(path)?;
        let mut command = Command::new(exec::find("systemd-nspawn")?);
        command.arg("--quiet").arg("--directory").arg(dir).args([
            "--boot",
            // Works without a systemd on the host.
            "--register=no",
            "--keep-unit",
            "--capability=all",
            "--system-call-filter=bpf perf_event_open",
            "--link-journal=no",
            "--console=pipe",
        ]);
        command.args(options);
        command.stdin(Stdio::null()).stdout(log.try_clone()?.into_parts().0).stderr(log.into_parts().0);
        let mut container = Self { child: exec::start(&mut command)?, init: String::new() };
        let nspawn = container.child.id();
        let children = format!("/proc/{nspawn}/task/{nspawn}/children");
        let deadline = exec::now() + LIMIT;
        while container.init.is_empty() {
            ensure!(exec::now() < deadline, "the container has not started; read {}", path.display());
            thread::sleep(Duration::from_millis(50));
            let found = fs::read_to_string(&children).unwrap_or_default();
            let pid = found.split_whitespace().next().unwrap_or_default();
            // Its own helper has the host's namespaces until it becomes process 1.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inside =
                status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(|ids| ids.trim().ends_with("\t1"));
            if inside == Some(true)
                && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n")
            {
                container.init = pid.to_owned();
            }
        }
        Ok(container)
    }

    /// Waits until the start of the system is complete. It may have failed in part: not all of it works in a container.
    pub(crate) fn wait_until_booted(&self) -> Result<()> {
        let deadline = exec::now() + LIMIT;
        loop {
            // Its exit code is 0 for "running" only.
            let state = self.run(&["sh", "-c", "systemctl is-system-running || :"]).unwrap_or_default();
            if ["running", "degraded"].contains(&state.trim()) {
                return Ok(());
            }
            ensure!(exec::now() < deadline, "the system in the container is still {:?}", state.trim());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command in the container, and returns its output.
    pub(crate) fn run(&self, command: &[&str]) -> Result<String> {
        let mut inside = Command::new(exec::find("nsenter")?);
        inside.args(["--target", &self.init, "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--"]);
        exec::quiet(inside.args(command))
    }

    /// Returns a property of closewait's service.
    pub(crate) fn property(&self, name: &str) -> Result<String> {
        let show = self.run(&["systemctl", "show", "--value", "--property", name, "closewait"])?;
        Ok(show.trim().to_owned())
    }

    /// Returns what the service has logged.
    pub(crate) fn journal(&self) -> Result<String> {
        self.run(&["journalctl", "--no-pager", "--unit", "closewait"])
    }

    /// Waits for a property of the service.
    pub(crate) fn wait_for(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = exec::now() + LIMIT;
        loop {
            // The manager may not answer yet.
            let value = self.property(name).unwrap_or_default();
            if wanted(&value) {
                return Ok(value);
            }
            ensure!(exec::now() < deadline, "{name} of the service stays {value:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for a text in what the service has logged.
    pub(crate) fn wait_in_journal(&self, text: &str) -> Result<()> {
        let deadline = exec::now() + LIMIT;
        while !self.journal()?.contains(text) {
            ensure!(exec::now() < deadline, "the journal of the service has no {text:?}");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // systemd takes it as a request to power off (systemd(1)); what does not end is killed with its namespace.
        let _asked = exec::signal(&self.child, rustix::process::Signal::TERM);
        if !matches!(exec::wait_at_most(&mut self.child, LIMIT), Ok(Some(_))) {
            eprintln!("the container did not end by itself");
        }
    }
}
