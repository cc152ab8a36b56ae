//! Running other programs, and where things are.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};

/// The folders that every task works in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Where the workspace's Cargo.toml is.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this `cargo xtask` was started in.
    pub(crate) fn find() -> Result<Self> {
        // At run time first: clones that share a CARGO_TARGET_DIR share this binary too.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest_dir).parent().context("xtask's folder has no parent")?.to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// What `cargo xtask setup` brings.
    pub(crate) fn setup_dir(&self) -> PathBuf {
        self.target.join("setup")
    }

    /// The release build of the agent.
    pub(crate) fn closewait(&self) -> PathBuf {
        self.target.join("release").join("closewait")
    }

    /// `cargo SUBCOMMAND --locked` in the workspace.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo_program());
        command.arg(subcommand).arg("--locked").current_dir(&self.root);
        // Nothing that a task builds may lack its kernel program; see closewait-agent/build/main.rs.
        command.env("CLOSEWAIT_REQUIRE_EBPF", "1");
        // `cargo run` describes xtask in these; the inner cargo is about other packages.
        for (name, _value) in env::vars_os() {
            let described =
                name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
            if described {
                command.env_remove(&name);
            }
        }
        command
    }
}

/// The cargo that runs this task, else the one in PATH.
pub(crate) fn cargo_program() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs a command to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}; is it installed?", shown(command)))?;
    check(command, status)
}

/// Runs a command and returns what it wrote to stdout; its stderr goes to ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}; is it installed?", shown(command)))?;
    check(command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("the output of {} is not UTF-8", shown(command)))
}

/// Runs a command without showing anything; what it wrote becomes part of the error.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}; is it installed?", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        bail!("{} failed ({}):\n{}{}", shown(command), output.status, stdout, stderr);
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {} is not UTF-8", shown(command)))
}

/// The path of this program, to start it again for a task of its own.
pub(crate) fn this() -> Result<PathBuf> {
    env::current_exe().context("cannot tell the path of this program; is /proc mounted?")
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(child: &Child, signal: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(child.id()).context("a process id is out of range")?;
    // SAFETY: kill takes numbers; the process is our child and not waited for yet, so the id is still its own.
    let result = unsafe { libc::kill(pid, signal) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("kill({signal}) failed; did sudo start it?"));
    }
    Ok(())
}

/// Waits at most `limit` for a child. `None`: it was still running and has been killed.
pub(crate) fn wait_at_most(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child process failed")? {
            return Ok(Some(status));
        }
        if now() >= deadline {
            child.kill().context("killing a child process that overran its time failed")?;
            child.wait().context("waiting for a killed child process failed")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A program's full path, where PATH or the administrator's folders have it.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Tracers are installed in /usr/sbin, which an ordinary user's PATH lacks.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A command line as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// The time, for tasks that measure or wait.
#[expect(clippy::disallowed_methods, reason = "xtask measures how long real programs take")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock's time, to compare with the times in a program's output.
#[expect(clippy::disallowed_methods, reason = "xtask measures how long real programs take")]
pub(crate) fn wall_now() -> SystemTime {
    SystemTime::now()
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed ({status}); its own messages are above", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_command_that_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/usr/bin/env");
        command.args(["A=b", "two words", "it's", ""]);
        assert_eq!(shown(&command), r"/usr/bin/env A=b 'two words' 'it'\''s' ''");
    }

    #[test]
    fn a_child_that_overruns_is_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait_at_most(&mut child, Duration::from_millis(20)).unwrap().is_none());
        let mut child = Command::new("true").spawn().unwrap();
        assert!(wait_at_most(&mut child, Duration::from_secs(20)).unwrap().is_some_and(|s| s.success()));
    }

    #[test]
    fn finds_a_program_in_path_only_if_it_is_there() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-here"), None);
    }
}
