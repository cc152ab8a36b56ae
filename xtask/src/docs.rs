//! `cargo xtask docs`: docs/diagnoses.md, generated from the descriptions in the rules, and docs/incident.svg, from a recording.

use crate::prelude::*;
use crate::{setup, test};

/// Tests that compare a file with its source, or write it: the file, the arguments that name the target, and the test.
const TESTS: [(&str, &[&str], &str); 2] = [
    // Only the engine knows the rules.
    ("docs/diagnoses.md", &["--lib"], "diagnose::page::tests::the_page_matches_the_rules"),
    ("docs/incident.svg", &["--test", "html"], "picture::the_picture_of_the_readme_matches_the_recording"),
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
    for (file, target, test) in TESTS {
        let mut command = workspace.cargo("test");
        command.args(test::PACKAGES).arg("--quiet").args(target);
        // With `--nocapture` a difference is shown on stderr.
        command.args(["--", "--nocapture", "--exact", test]).env_remove("BLESS");
        command.envs((!options.check).then_some(("BLESS", "1")));
        let output = exec::output(&mut command)?;
        ensure!(output.contains("1 passed"), "there is no test {test}, which writes {file}; name it in {}", file!());
    }
    Ok(())
}
