//! `cargo xtask docs`: docs/diagnoses.md, generated from the descriptions in the rules.

use crate::prelude::*;
use crate::{setup, test};

/// Compares the page with the rules, or writes it: only the engine knows them.
const TEST: &str = "diagnose::page::tests::the_page_matches_the_rules";

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing; fail if a page in docs/ is not up to date
    #[arg(long)]
    check: bool,
}

/// Writes the generated page, or checks it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    let mut command = workspace.cargo("test");
    command.args(test::PACKAGES).args(["--quiet", "--lib"]);
    // With `--nocapture` a difference is shown on stderr.
    command.args(["--", "--nocapture", "--exact", TEST]).env_remove("BLESS");
    command.envs((!options.check).then_some(("BLESS", "1")));
    let output = exec::output(&mut command)?;
    ensure!(
        output.contains("1 passed"),
        "there is no test {TEST}, which writes docs/diagnoses.md; name it in {}",
        file!()
    );
    Ok(())
}
