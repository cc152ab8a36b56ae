//! Starting other programs, and the folders that tasks work in.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The folders that every task works in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Folder of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this `cargo xtask` was started in.
    pub(crate) fn find() -> Result<Self> {
        // The variable at run time comes first: clones that share a CARGO_TARGET_DIR share this binary too.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest_dir).parent().context("xtask's folder has no parent")?.to_owned();
        let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        Ok(Self { root, target })
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
        // `cargo run` describes xtask in these variables; the inner cargo builds other packages.
        remove_env(&mut command, |name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        command
    }
}

/// The cargo that runs this task, else the one in PATH.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Removes the inherited variables with these names from a command.
pub(crate) fn remove_env(command: &mut Command, unwanted: impl Fn(&str) -> bool) {
    for (name, _value) in env::vars_os().filter(|(name, _value)| name.to_str().is_some_and(&unwanted)) {
        command.env_remove(name);
    }
}

/// Starts a command.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| cannot_start(command))
}

/// Runs a command to its end; a failure of the command is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// Runs a command and returns its stdout; its stderr goes to the caller's.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| cannot_start(command))?;
    check(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that prints one JSON object.
pub(crate) fn json(command: &mut Command) -> Result<Value> {
    let text = output(command.stdin(Stdio::null()))?;
    serde_json::from_str(&text).with_context(|| format!("{} printed no JSON; this is a bug", shown(command)))
}

/// Runs a command without showing anything and returns its stdout; on failure its output is part of the error.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "{} failed ({}):\n{stdout}{stderr}", shown(command), output.status);
    Ok(stdout)
}

/// The path of this program.
pub(crate) fn this() -> Result<PathBuf> {
    env::current_exe().context("cannot tell the path of this program; is /proc mounted?")
}

/// Returns a command that runs this program again, also if a build has replaced its file meanwhile.
pub(crate) fn again() -> Command {
    Command::new("/proc/self/exe")
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    kill_process(Pid::from_child(child), signal).with_context(|| format!("kill({signal:?}) failed; did sudo start it?"))
}

/// Waits at most `limit` for a child. `None`: it was still running and has been killed.
pub(crate) fn wait_at_most(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = now() + limit;
    while now() < deadline {
        if let Some(status) = child.try_wait().context("waiting for a child process failed")? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    kill(child);
    Ok(None)
}

/// Kills a child and waits for its end.
pub(crate) fn kill(child: &mut Child) {
    // Both calls fail only for a child that has been waited for.
    let _ended = child.kill();
    let _waited = child.wait();
}

/// Returns PATH with a folder in front.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(folder.to_owned()).chain(env::split_paths(&path))).with_context(|| {
        format!("PATH cannot contain {}, which has a colon\nhint: use another target folder", folder.display())
    })
}

/// Full path of a program in PATH or in the administrator's folders.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Tracers are installed in /usr/sbin, which an ordinary user's PATH lacks.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Full path of a program that has to be installed.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    which(program).with_context(|| format!("there is no program `{program}`; install it"))
}

/// Runs `work` with a new empty folder, and removes the folder.
pub(crate) fn with_scratch<T>(name: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = env::temp_dir().join(format!("closewait-{name}-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = work(&dir);
    fs::remove_dir_all(&dir)?;
    result
}

/// Removes a folder with its content, if it exists.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
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

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}; is it installed?", shown(command))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "{} failed ({status}); its own messages are above", shown(command));
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
        let mut child = start(Command::new("sleep").arg("60")).unwrap();
        assert!(wait_at_most(&mut child, Duration::from_millis(20)).unwrap().is_none());
        let mut child = start(&mut Command::new("true")).unwrap();
        assert!(wait_at_most(&mut child, Duration::from_secs(20)).unwrap().is_some_and(|s| s.success()));
    }

    #[test]
    fn finds_a_program_in_path_only_if_it_is_there() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-here"), None);
    }
}
