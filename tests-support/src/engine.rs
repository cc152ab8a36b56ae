//! Programs that get the agent's output in tests, and that not every machine has.

use std::{
    env,
    io::{self, Write as _},
};

/// Whether a test that needs `program` runs; `is_there` tells whether the program is installed. If it is not, this says on standard
/// error that the test is skipped, and with `CLOSEWAIT_REQUIRE_ENGINES=1`, as in CI, it fails.
pub fn has_engine(program: &str, is_there: bool) -> bool {
    let is_required = env::var_os("CLOSEWAIT_REQUIRE_ENGINES").is_some_and(|value| value == "1");
    assert!(is_there || !is_required, "{program} is not installed\nhint: run .ci/packages engines");
    if !is_there {
        // Written past the capture of libtest, so that it is seen.
        let _unseen: io::Result<()> = writeln!(io::stderr(), "SKIPPED: no {program}; run .ci/packages engines");
    }
    is_there
}
