//! `cargo xtask docs`: docs/diagnoses.md, generated from the descriptions in the rules, docs/metrics.md, from the table of metrics,
//! docs/incident.svg, from a recording, docs/schema/, from the types that are written as JSON, contrib/closewait.toml, from the
//! options of `run`, contrib/man/ and contrib/completions/, from the command line, the catalog of the journal, and the series of the
//! unit tests of the alerts, from recordings.

use crate::prelude::*;
use crate::{setup, test};

/// Tests that compare files with the code, or write them: one of the engine, which knows the rules, and eight of the agent, which
/// knows the types, the options and the metrics, draws the picture and plays recordings.
const TESTS: [&str; 9] = [
    "diagnose::page::tests::the_page_matches_the_rules",
    "cmd::completions::tests::the_scripts_match_the_definitions",
    "cmd::documents::the_schemas_match_the_types",
    "cmd::man::the_manual_pages_match_the_definitions",
    "cmd::settings::tests::the_example_matches_the_options",
    "metrics::page::the_page_matches_the_table",
    "sink::journal::catalog::the_catalog_matches_the_rules",
    "picture::the_picture_of_the_readme_matches_the_recording",
    "series::the_series_of_the_unit_tests_are_those_of_the_recordings",
];

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing; fail if a generated file is not up to date
    #[arg(long)]
    check: bool,
}

/// Writes the generated files, or checks them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    let mut command = workspace.cargo("test");
    command.args(test::PACKAGES).args(["--quiet", "--no-fail-fast", "--lib", "--test", "html", "--test", "monitoring"]);
    // With `--nocapture` a difference is shown on stderr.
    command.args(["--", "--nocapture", "--exact"]).args(TESTS).env_remove("BLESS");
    command.envs((!options.check).then_some(("BLESS", "1")));
    let output = exec::output(&mut command)?;
    let passed = |line: &str| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok();
    ensure!(
        output.lines().filter_map(passed).sum::<usize>() == TESTS.len(),
        "one of the tests {TESTS:?}, which write the files, does not exist; name it in {}",
        file!()
    );
    Ok(())
}
