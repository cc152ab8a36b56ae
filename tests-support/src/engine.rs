//! Programs that tests start, and that not every machine has.

use std::{
    env,
    io::{self, Write as _},
};

/// Whether a test runs that needs a program that gets the agent's output; `is_there` tells whether the program is installed. If it is
/// not, this says on standard error that the test is skipped, and with `CLOSEWAIT_REQUIRE_ENGINES=1`, as in CI, it fails.
pub fn has_engine(program: &str, is_there: bool) -> bool {
    has(program, is_there, "CLOSEWAIT_REQUIRE_ENGINES", "engines")
}

/// Whether a test runs that needs a shell or `man`; `is_there` tells whether it is installed. If it is not, this says on standard
/// error that the test is skipped, and with `CLOSEWAIT_REQUIRE_SHELLS=1`, as in CI, it fails.
pub fn has_shell(program: &str, is_there: bool) -> bool {
    has(program, is_there, "CLOSEWAIT_REQUIRE_SHELLS", "shells")
}

/// `group` is the one of `.ci/packages` with the program.
fn has(program: &str, is_there: bool, variable: &str, group: &str) -> bool {
    let is_required = env::var_os(variable).is_some_and(|value| value == "1");
    assert!(is_there || !is_required, "{program} is not installed\nhint: run .ci/packages {group}");
    if !is_there {
        // Written past the capture of libtest, so that it is seen.
        let _unseen: io::Result<()> = writeln!(io::stderr(), "SKIPPED: no {program}; run .ci/packages {group}");
    }
    is_there
}
