//! Packages of Debian that a task needs on the machine itself.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{exec, root};

/// Installs them as root; `why` is what for.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let Some(env) = exec::which("env").filter(|_env| exec::which("apt-get").is_some()) else {
        bail!("apt-get is not installed; install what has these packages of Debian: {}", packages.join(" "));
    };
    let apt = |args: &[&str]| {
        let args = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes"].iter().chain(args);
        let args: Vec<OsString> = args.map(OsString::from).collect();
        exec::run(&mut root::command(&env, &args, why)?)
    };
    let install = [&["install", "--no-install-recommends"], packages].concat();
    eprintln!("xtask: installing {}", packages.join(" "));
    // The lists may be old, or not there at all.
    if apt(&install).is_err() {
        apt(&["update"])?;
        apt(&install)?;
    }
    Ok(())
}
