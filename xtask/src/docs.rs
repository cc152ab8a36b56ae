//! `cargo xtask docs`: docs/diagnoses.md, generated from the descriptions in the rules, docs/incident.svg, from a recording, and
//! docs/schema/, generated from the types that are written as JSON.

use crate::prelude::*;
use crate::{setup, test};

/// Tests that compare files with the code, or write them: one of the engine, which knows the rules, and three of the agent, which
/// knows the types and draws the picture.
const TESTS: [&str; 4] = [
    "diagnose::page::tests::the_page_matches_the_rules",
    "cmd::documents::the_schemas_match_the_types",
    "sink::journal::catalog::the_catalog_matches_the_rules",
    "picture::the_picture_of_the_readme_matches_the_recording",
];

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing; fail if a file in docs/ is not up to date
    #[arg(long)]
    check: bool,
}

/// Writes the generated files, or checks them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    let mut command = workspace.cargo("test");
    command.args(test::PACKAGES).args(["--quiet", "--no-fail-fast", "--lib", "--test", "html"]);
    // With `--nocapture` a difference is shown on stderr.
    command.args(["--", "--nocapture", "--exact"]).args(TESTS).env_remove("BLESS");
    command.envs((!options.check).then_some(("BLESS", "1")));
    let output = exec::output(&mut command)?;
    ensure!(
        output.matches("1 passed").count() == TESTS.len(),
        "one of the tests {TESTS:?}, which write the files, does not exist; name it in {}",
        file!()
    );
    Ok(())
}
