//! Programs whose threads all wait for a lock, with a socket in CLOSE_WAIT each.

use std::io::{BufRead as _, BufReader};

use crate::prelude::*;

/// Program in a language.
struct Kind {
    name: &'static str,
    source: &'static str,
    file: &'static str,
    /// Program that compiles or runs the source.
    needs: &'static str,
    /// Arguments of the compiler before the program and the source; empty: `needs` runs the source.
    compile: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "C",
        source: include_str!("blocked.c"),
        file: "blocked.c",
        needs: "cc",
        compile: &["-O2", "-pthread", "-o"],
    },
    Kind { name: "CPython", source: include_str!("blocked.py"), file: "blocked.py", needs: "python3", compile: &[] },
    Kind { name: "Go", source: include_str!("blocked.go"), file: "blocked.go", needs: "go", compile: &["build", "-o"] },
];

/// Running programs. Dropping it ends them.
pub(super) struct Blocked {
    processes: Vec<Child>,
    /// Number of processes of each language.
    pub(super) summary: String,
}

impl Blocked {
    /// Starts `processes` programs of the languages that are installed, in turn, with `threads` threads or goroutines each. Waits until
    /// all of them are blocked.
    pub(super) fn start(dir: &Path, processes: u8, threads: u32) -> Result<Self> {
        let installed = KINDS.iter().filter(|kind| exec::which(kind.needs).is_some());
        let commands = installed.map(|kind| Ok((kind, kind.prepare(dir)?))).collect::<Result<Vec<_>>>()?;
        ensure!(!commands.is_empty(), "there is none of cc, python3 and go; install one");
        let mut blocked = Self { processes: Vec::new(), summary: String::new() };
        for (number, (_, program)) in (1..=processes).zip(commands.iter().cycle()) {
            let mut command = Command::new(&program[0]);
            command.args(&program[1..]).args([threads.to_string(), number.to_string()]);
            blocked.processes.push(exec::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?);
        }
        for process in &mut blocked.processes {
            let mut line = String::new();
            let stdout = process.stdout.take().context("a program has no standard output; this is a bug")?;
            BufReader::new(stdout).read_line(&mut line).context("cannot read from a program; this is a bug")?;
            ensure!(line == "ready\n", "a program ended before it was ready; its own messages are above");
        }
        let (count, kinds) = (usize::from(processes), commands.len());
        let of_kind = |(at, (kind, _)): (usize, &(&Kind, _))| {
            format!("{} of {}", count / kinds + usize::from(at < count % kinds), kind.name)
        };
        blocked.summary = commands.iter().enumerate().map(of_kind).collect::<Vec<_>>().join(", ");
        Ok(blocked)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.processes.iter_mut().for_each(exec::kill);
    }
}

impl Kind {
    /// Returns the command line of the program.
    fn prepare(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let source = dir.join(self.file);
        fs::write(&source, self.source)?;
        let needs = exec::find(self.needs)?;
        if self.compile.is_empty() {
            return Ok(vec![needs, source]);
        }
        let program = dir.join(format!("blocked-{}", self.needs));
        let mut compiler = Command::new(needs);
        compiler.args(self.compile).arg(&program).arg(&source).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        exec::quiet(&mut compiler)?;
        Ok(vec![program])
    }
}
