//! `cargo xtask build`.

use anyhow::{Result, bail};

use crate::{
    exec::{self, Workspace},
    setup,
};

/// Builds the release binary and prints its path.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    release(workspace)?;
    println!("{}", workspace.closewait().display());
    Ok(())
}

/// Builds the release binary; stdout stays free for the binary's own output.
pub(crate) fn release(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    exec::run(workspace.cargo("build").args(["--release", "--package", "closewait-agent"]))?;
    let binary = workspace.closewait();
    if !binary.is_file() {
        // A `build.target` in someone's cargo configuration moves the output into a folder of that target's name.
        bail!(
            "cargo left no {}; build without `build.target` or `--target` in cargo's configuration",
            binary.display()
        );
    }
    Ok(())
}

/// Builds one of the agent's examples as a release, beside the binary in the folder `examples`.
pub(crate) fn example(workspace: &Workspace, name: &str) -> Result<()> {
    exec::run(workspace.cargo("build").args(["--release", "--package", "closewait-agent", "--example", name]))
}
