//! Programs that run during the comparison: engines, agents, and the programs of the stage.

use rustix::process::Signal;

use crate::prelude::*;

/// Maximum time until a program answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Maximum time until a program ends after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Running program, whose output goes to a file. Dropping it kills it.
pub(super) struct Service {
    name: &'static str,
    child: Child,
    /// Everything that it prints, apart from what the command sends elsewhere.
    pub(super) output: PathBuf,
}

impl Service {
    /// Starts a program.
    pub(super) fn start(name: &'static str, command: &mut Command, dir: &Path) -> Result<Self> {
        let (output, to) = create(name, dir)?;
        let stdout = to.try_clone()?;
        Self::run(name, command, output, (stdout, to))
    }

    /// Starts a program whose standard output goes to `events`.
    pub(super) fn with_events(name: &'static str, command: &mut Command, dir: &Path, events: &Path) -> Result<Self> {
        let (output, to) = create(name, dir)?;
        Self::run(name, command, output, (fs::File::create(events)?, to))
    }

    fn run(
        name: &'static str,
        command: &mut Command,
        output: PathBuf,
        (stdout, stderr): (fs::File, fs::File),
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(stdout.into_parts().0).stderr(stderr.into_parts().0);
        Ok(Self { name, child: exec::start(command)?, output })
    }

    /// Process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program is ready.
    pub(super) fn wait_until(mut self, is_ready: impl Fn(&Self) -> bool) -> Result<Self> {
        let end = exec::now() + START_LIMIT;
        while !is_ready(&self) {
            let ended = self.child.try_wait().context("waiting for a program failed")?;
            ensure!(ended.is_none() && exec::now() < end, "{} does not answer: {}", self.name, self.last_lines());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(self)
    }

    /// Ends the program.
    pub(super) fn end(mut self) -> Result<()> {
        exec::signal(&self.child, Signal::TERM)?;
        let status = exec::wait_at_most(&mut self.child, END_LIMIT)?;
        ensure!(status.is_some(), "{} did not end within {END_LIMIT:?}", self.name);
        Ok(())
    }

    /// Returns the end of what it printed.
    pub(super) fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        exec::kill(&mut self.child);
    }
}

/// Creates the file for the output of a program.
fn create(name: &str, dir: &Path) -> Result<(PathBuf, fs::File)> {
    let output = dir.join(format!("{name}.out"));
    let file = fs::File::create(&output)?;
    Ok((output, file))
}
