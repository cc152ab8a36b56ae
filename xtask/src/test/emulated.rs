//! `cargo xtask test --arch ARCH`: the tests without root, built for another architecture and run by QEMU's emulator of programs.
//!
//! The emulator passes system calls on to the kernel of this machine, after it has translated them.

use super::{Options, all_of};
use crate::{dist::Arch, prelude::*, root, setup};

/// Parts of the names of tests that need what the emulator lacks. `cargo xtask vm` runs them in a guest.
pub(crate) const OF_A_GUEST: [&str; 10] = [
    "host::confine::filter::",
    "host::open_files::",
    "host::proc::tests::",
    "otlp::tests::a_collector_that_is_killed",
    "recording::failure::",
    "recording::file::tests::one_agent_writes_a_file",
    "source::diag::exact::",
    "source::diag::peers::",
    "source::owners::",
    "source::processes::",
];
/// How much slower than a machine the tests take the emulator for.
const SLOWNESS: &str = "10";

/// Builds and runs them: the libraries, and the replay of all recordings.
pub(super) fn run(workspace: &Workspace, arch: Arch, options: &Options) -> Result<()> {
    ensure!(arch == Arch::Aarch64, "tests of {} run on a machine of that architecture only", arch.name());
    setup::run(workspace)?;
    root::install(workspace, arch.name())?;
    setup::toolchain()?.add_target(arch.target())?;
    let emulator = exec::find(&format!("qemu-{}-static", arch.name()))?;
    let runner = format!("CARGO_TARGET_{}_RUNNER", arch.target().to_uppercase().replace('-', "_"));
    let run = |arguments: &[&str]| {
        let mut command = workspace.cargo("test");
        // Without optimization, emulated tests take too long.
        command.args(["--profile=vm", "--target", arch.target(), "--no-fail-fast", "--lib"]).args(arguments);
        // Tests that start the agent find the emulator in the second one: the kernel does not know it.
        command.env(&runner, &emulator).env("CLOSEWAIT_TEST_EMULATOR", &emulator);
        command.env("CLOSEWAIT_TEST_SLOWNESS", SLOWNESS);
        command.arg("--").args(OF_A_GUEST.iter().flat_map(|part| ["--skip", part])).args(&options.filter);
        exec::run(&mut command)
    };
    // The agent by itself: `cargo xtask vm` builds it with the same features, and so only once.
    let results = [
        run(&["--package=closewait-common", "--package=closewait-engine"]),
        run(&["--package=closewait-agent", "--test=replay"]),
    ];
    all_of(results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")))
}
