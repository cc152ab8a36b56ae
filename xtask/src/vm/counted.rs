//! A measurement in a guest whose clock counts instructions, instead of the kernel tests.

use super::{
    AGENT, COMMAND_LINE, Kernel, Parts, SILENCE,
    machine::{Accelerator, Guest},
};
use crate::{dist::Arch, prelude::*};

/// Words for the clock, whose frequency is exact, and for the same addresses in each boot.
const COUNTING: &str = "tsc=reliable nokaslr";
/// Prefixes of lines of the guest.
const RELEASE: &str = "closewait-vm: release ";
const ENDED: &str = "closewait-vm: ended ";

/// Output of a measurement.
pub(crate) struct Counted {
    /// Release of the guest's kernel.
    pub(crate) release: String,
    /// Lines that the guest printed.
    pub(crate) lines: Vec<String>,
}

/// Boots the newest kernel of x86_64 and runs `program`, a static file, in the guest. The last of its arguments is the path of the
/// agent there, which is built as for the kernel tests.
pub(crate) fn count(workspace: &Workspace, program: &Path, arguments: &[String]) -> Result<Counted> {
    let arch = Arch::X86_64;
    let kernel = Kernel::matrix(arch).last().context("the matrix has no kernel; this is a bug")?;
    // The part of a name keeps unit tests out of the build: none of the tests is run.
    let parts = Parts::prepare(workspace, arch, &[kernel], ("--test", vec!["none"]))?;
    let append = format!("{COMMAND_LINE} {COUNTING}");
    let guest = Guest { append: &append, silence: SILENCE, ..parts.guest(kernel, "counted")? };
    let tree = guest.tree()?;
    tree.copy(program, "/measure")?;
    tree.copy(&parts.binaries.agent, AGENT)?;
    let modules = parts.copy_modules(&tree, kernel)?.join(" ");
    let settings = format!("MODULES='{modules}'\nBTF=there\nARGUMENTS='{} {AGENT}'\n", arguments.join(" "));
    tree.write("/settings", &settings, 0o644)?;
    let boot = guest.boot(&tree, Accelerator::Counting)?;
    let after = |prefix: &str| boot.lines.iter().find_map(|line| Some(line.split_once(prefix)?.1));
    let console = guest.console();
    let console = console.display();
    ensure!(boot.trouble.is_none(), "the guest did not end: {}; see {console}", boot.trouble.unwrap_or_default());
    ensure!(after(ENDED) == Some("0"), "the measurement failed in the guest; all that it printed is in {console}");
    let release = after(RELEASE).with_context(|| format!("the guest named no release; see {console}"))?.to_owned();
    Ok(Counted { release, lines: boot.lines })
}
