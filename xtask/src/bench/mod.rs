use crate::exec::Workspace;
use anyhow::Result;
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    Overhead,
}
pub(crate) fn run(_: &Workspace, _: &Bench) -> Result<()> {
    Ok(())
}
