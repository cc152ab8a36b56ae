//! `closewait stacks`.

use super::print;
use crate::{
    cli,
    host::deadline::Patience,
    sink::stacks::{StacksPage, render},
    source::{
        jvm::{self, JvmThreads},
        stacks,
    },
};
use closewait_engine::{snapshot::redact::Redactor, stacks::group_stacks};

/// Shows what the threads of a process are doing.
///
/// # Errors
///
/// If its memory cannot be read, it does not dump its threads, or standard output cannot be written.
pub(super) fn stacks(args: &cli::StacksArgs) -> anyhow::Result<()> {
    let cli::StacksArgs { shape, pid, jvm, virtual_threads, redact } = args;
    let patience = &mut Patience::default();
    let mut read = match (jvm, virtual_threads) {
        (false, _) => stacks::read(*pid, patience)?,
        (true, false) => jvm::read(*pid, JvmThreads::OfSystem, patience)?,
        (true, true) => jvm::read(*pid, JvmThreads::AllKinds, patience)?,
    };
    let mut groups = group_stacks(&read.stacks);
    if *redact {
        let mut redactor = Redactor::default();
        redactor.comm(&mut read.comm);
        redactor.stacks(&mut groups, &mut read.unread);
    }
    let page = StacksPage {
        pid: *pid,
        comm: &read.comm,
        threads: read.threads,
        threads_left_out: read.threads_left_out,
        groups: &groups,
        unread: &read.unread,
    };
    let mut shown = Vec::new();
    render(&page, shape.output.into(), &mut shown)?;
    print(&shown)
}
