//! A BPF program that does nothing, at closewait's tracepoint and of the same type: the least that any tracer there costs.

use crate::prelude::*;

/// Attaches the program; C programs include it as `attach.h`.
const HEADER: &str = include_str!("attach.h");
/// A process that attaches the program and waits for SIGINT.
const SOURCE: &str = include_str!("empty.c");

/// Compiles the process. Returns its path in `dir`.
pub(super) fn build(dir: &Path) -> Result<PathBuf> {
    compile(dir, "empty", SOURCE)
}

/// Compiles a C program, which may include `attach.h`, to a static file in `dir`. Returns its path.
pub(super) fn compile(dir: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (file, program) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(dir.join("attach.h"), HEADER)?;
    fs::write(&file, source)?;
    exec::quiet(Command::new("cc").args(["-static", "-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(&file))
        .with_context(|| format!("cannot compile {name}.c\nhint: install gcc and libc6-dev"))?;
    Ok(program)
}
