//! The programs that scenarios need: Debian's packages, Python's in an environment of their own, and what is compiled.

use crate::prelude::*;
use crate::root;

use super::tomcat;

/// Programs, and the packages of Debian that have them.
const PACKAGES: [(&str, &str); 7] = [
    ("go", "golang-go"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("nc.openbsd", "netcat-openbsd"),
    ("node", "nodejs"),
    ("javac", "default-jdk-headless"),
    ("python3", "python3"),
];
/// Python's module for environments has no program of its own.
const VENV: (&str, &str) = ("import ensurepip, venv", "python3-venv");
/// Packages from the index that pip is configured for.
const PYTHON: [&str; 3] = ["gunicorn", "requests", "urllib3"];
/// Programs in Go, and their sources.
const GO: [(&str, &str); 3] =
    [("go-server", "server.go"), ("go-client", "client.go"), ("go-tls-server", "tls_server.go")];
/// The program in Java.
const JAVA: &str = "Blocked";

/// Brings what is missing. The tests look for it in the same places.
pub(super) fn bring(workspace: &Workspace) -> Result<()> {
    let dir = workspace.target.join("scenarios");
    let sources = workspace.root.join("closewait-agent/tests/scenarios/programs");
    fs::create_dir_all(&dir)?;
    let (import, venv_package) = VENV;
    let has_venv = exec::quiet(Command::new("python3").args(["-c", import])).is_ok();
    root::install(&PACKAGES, (!has_venv).then_some(venv_package), "installing the scenarios' programs")?;
    venv(&dir.join("venv"))?;
    for (program, source) in GO {
        go(&dir, program, &sources.join(source))?;
    }
    java(&dir.join("java"), &sources)?;
    tomcat::bring(&dir.join("venv/bin/python3"), &dir, &sources)
}

fn venv(dir: &Path) -> Result<()> {
    let python = dir.join("bin/python3");
    let import = format!("import {}", PYTHON.join(", "));
    if python.is_file() && exec::quiet(Command::new(&python).args(["-c", &import])).is_ok() {
        return Ok(());
    }
    exec::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    exec::quiet(Command::new(&python).args(install).args(PYTHON))?;
    Ok(())
}

fn go(dir: &Path, program: &str, source: &Path) -> Result<()> {
    let mut command = Command::new("go");
    command.env("GOCACHE", dir.join("go-cache")).env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
    command.args(["build", "-o"]).arg(dir.join("bin").join(program)).arg(source);
    exec::quiet(&mut command).map(drop)
}

fn java(dir: &Path, sources: &Path) -> Result<()> {
    let source = sources.join(JAVA).with_extension("java");
    let changed = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = changed(dir.join(JAVA).with_extension("class"));
    if built.is_some() && built > changed(source.clone()) {
        return Ok(());
    }
    exec::quiet(Command::new("javac").arg("-d").arg(dir).arg(source)).map(drop)
}
