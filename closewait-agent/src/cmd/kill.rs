//! `closewait kill`.
//!
//! Kill selects from the rows that `list` shows with the same filters, from a running agent or a one-off scan. The
//! rows are enough to find each socket, and never enough to destroy it: kill applies the filters again to the rows,
//! and to the kernel's current state of each socket, once for the plan and once right before the destruction.

use std::io;

use thiserror::Error;

use super::{
    color, exit,
    list::{answer, filter, warn_of_missing, width},
    print,
};
use crate::{
    cli::{self, OutputFormat},
    clock,
    host::{
        caps::{Capabilities, Capability},
        error_text::with_hints,
    },
    sink::{
        Form,
        answer::Listing,
        kill::{self, Done, MAX_SELECTED, Planned},
        list::{ListShape, Style},
    },
    source::{
        destroy,
        diag::exact::{DestroyError, probe_destroy},
    },
};
use closewait_engine::{
    kill::{Failure, Outcome, Refusal, Selected, Target},
    snapshot::query::{Filter, ListContent, Query},
};

/// Text below a plan that this process has no privilege to execute.
const MISSING_CAPABILITY: &str =
    "--yes needs CAP_NET_ADMIN, which is missing\nhint: run as root, or grant cap_net_admin too";

/// Reason why sockets were not destroyed.
#[derive(Debug, Error)]
pub(super) enum KillError {
    /// No filter that excludes any socket.
    #[error(
        "kill needs a filter that excludes some sockets\n\
         hint: give --pid, --port, --peer, --cgroup, --older-than or --verdict"
    )]
    NoFilter,
    /// More than the user expected.
    #[error(
        "{count} sockets are to be destroyed, more than --max {max}: nothing changed\n\
         hint: narrow the filters, or give --max {count}"
    )]
    TooMany {
        /// Number of sockets.
        count: usize,
        /// Maximum number of sockets.
        max: u32,
    },
    /// More than one call accepts.
    #[error("more than {MAX_SELECTED} sockets match, the limit of one call\nhint: narrow the filters")]
    TooManyMatch,
    /// This process lacks a capability.
    #[error("{count} sockets were not destroyed because a capability is missing: {why}")]
    Denied {
        /// Number of sockets.
        count: usize,
        /// Reason for the first socket.
        why: String,
    },
    /// The kernel lacks support.
    #[error("nothing changed")]
    Unsupported(#[source] DestroyError),
    /// The agent has listed sockets that the filters do not match.
    #[error(
        "the agent listed {count} sockets that the filters do not match, so its answer is wrong: nothing changed\n\
         hint: scan without the agent: --alone"
    )]
    UnmatchedSockets {
        /// Number of sockets.
        count: usize,
    },
    /// Writing the plan failed.
    #[error("the plan could not be written: {0}: nothing was destroyed")]
    PlanUnwritten(io::Error),
    /// Writing the result failed.
    #[error("{destroyed} of {count} sockets were destroyed, but the result could not be written: {error}")]
    ResultUnwritten {
        /// Number of destroyed sockets.
        destroyed: usize,
        /// Number of selected sockets.
        count: usize,
        /// Error of the write.
        error: io::Error,
    },
    /// The destruction failed for another reason.
    #[error("{count} sockets were not destroyed: {why}\nhint: list again")]
    Failed {
        /// Number of sockets.
        count: usize,
        /// Error of the first socket.
        why: String,
    },
}

impl KillError {
    /// Returns the reason why the first socket was not destroyed.
    fn why(&self) -> Option<&str> {
        match self {
            Self::Denied { why, .. } | Self::Failed { why, .. } => Some(why),
            Self::NoFilter
            | Self::TooMany { .. }
            | Self::TooManyMatch
            | Self::Unsupported(_)
            | Self::UnmatchedSockets { .. }
            | Self::PlanUnwritten(_)
            | Self::ResultUnwritten { .. } => None,
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::NoFilter => exit::USAGE,
            Self::TooMany { .. }
            | Self::TooManyMatch
            | Self::UnmatchedSockets { .. }
            | Self::PlanUnwritten(_)
            | Self::ResultUnwritten { .. }
            | Self::Failed { .. } => exit::FAILED,
            Self::Denied { .. } => exit::DENIED,
            Self::Unsupported(_) => exit::UNAVAILABLE,
        }
    }
}

/// Makes a plan, shows it, and executes it with `--yes`.
///
/// # Errors
///
/// If there is no filter, if this kernel or these privileges do not allow it, if there are more than `--max`, or if standard
/// output cannot be written.
pub(super) fn kill(args: &cli::KillArgs) -> anyhow::Result<()> {
    planned(
        args,
        |filter, plan, targets| {
            if args.yes { act(args, filter, plan, targets) } else { only_plan(args, plan, targets.len()) }
        },
    )
}

/// Returns the text of a plan, in lines of at most `width` columns, and the number of sockets to destroy. Changes nothing.
///
/// # Errors
///
/// As [`kill()`].
pub(super) fn dry_run(args: &cli::KillArgs, width: u16) -> anyhow::Result<(String, usize)> {
    planned(args, |_filter, plan, targets| {
        let (style, mut text) = (Style { width: Some(width), wide: false, color: false }, Vec::new());
        kill::plan(clock::now(), &plan.selected, &plan.plans, style, &mut text);
        Ok((String::from_utf8_lossy(&text).into_owned(), targets.len()))
    })
}

/// Makes a plan, and hands the filter, the plan and the sockets to destroy to `take`.
fn planned<T>(
    args: &cli::KillArgs,
    take: impl FnOnce(&Filter, &KillPlan<'_>, &[Target]) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let filter = filter(&args.filters);
    if filter.fits_everything() {
        return Err(KillError::NoFilter.into());
    }
    let query = Query::List { filter: filter.clone(), content: ListContent::Sockets };
    // The plan has no place for sockets that are not listed, in any format, and needs all facts of each socket.
    let shape = ListShape { form: Form::Json, ..ListShape::default() };
    answer(&args.asked, &query, shape, |answer| {
        let listing = answer.listing()?;
        warn_of_missing(&listing.header);
        check_listed(&listing, &filter)?;
        let selected: Vec<Selected> = listing.rows().map(|row| Selected::new(&row, listing.header.at)).collect();
        let plans = destroy::plan(&selected, &filter, clock::now);
        let targets: Vec<Target> = plans.iter().flatten().cloned().collect();
        take(&filter, &KillPlan { listing: &listing, selected, plans }, &targets)
    })
}

/// Selected sockets, and the plan for each.
struct KillPlan<'a> {
    /// Sockets as listed.
    listing: &'a Listing<'a>,
    selected: Vec<Selected>,
    plans: Vec<Planned>,
}

/// Fails if there are too many sockets, or any that the filter does not match.
fn check_listed(listing: &Listing<'_>, filter: &Filter) -> Result<(), KillError> {
    if listing.len() > MAX_SELECTED {
        return Err(KillError::TooManyMatch);
    }
    let count = listing.rows().filter(|row| !filter.matches(row, listing.header.at)).count();
    if count == 0 { Ok(()) } else { Err(KillError::UnmatchedSockets { count }) }
}

/// Shows the plan, and changes nothing.
fn only_plan(args: &cli::KillArgs, plan: &KillPlan<'_>, count: usize) -> anyhow::Result<()> {
    if count > 0
        && let Err(error @ DestroyError::Unsupported(_)) = probe_destroy()
    {
        log::warn!("--yes would fail: {}", with_hints(&error.into()));
    }
    let lacks_right = count > 0 && Capabilities::read().is_some_and(|granted| !granted.has(Capability::NetAdmin));
    if lacks_right && args.shape.output == OutputFormat::Json {
        log::warn!("{MISSING_CAPABILITY}");
    }
    let refused = check_count(args, count).err().map(|too_many| format!("--yes would fail: {too_many}"));
    if let Some(refused) = refused.as_ref().filter(|_| args.shape.output == OutputFormat::Json) {
        log::warn!("{refused}");
    }
    show_plan(args, plan, |text| {
        if lacks_right {
            text.push_str(&format!("\n{MISSING_CAPABILITY}\n"));
        }
        if let Some(refused) = &refused {
            text.push_str(&format!("\n{refused}\n"));
        } else if count > 0 {
            text.push_str("\nDry run: nothing changed. Run again with --yes to destroy them.\n");
        }
    })
}

/// Executes the plan, unless it has more sockets than expected.
fn act(args: &cli::KillArgs, filter: &Filter, plan: &KillPlan<'_>, targets: &[Target]) -> anyhow::Result<()> {
    let is_text = args.shape.output == OutputFormat::Text;
    let too_many = check_count(args, targets.len());
    // Nothing happens that was not shown. JSON has one object per socket, with plan and result.
    if is_text || too_many.is_err() {
        // Even if the reader has gone, a failure here must not be silent: there was something to destroy.
        show_plan(args, plan, |_text| {}).map_err(|error| KillError::PlanUnwritten(io_error(error)))?;
    }
    too_many?;
    if !targets.is_empty() {
        // Any other obstacle is reported for each socket.
        if let Err(error @ DestroyError::Unsupported(_)) = probe_destroy() {
            return Err(KillError::Unsupported(error).into());
        }
    }
    let outcomes = destroy::act(targets, filter, clock::now);
    let destroyed = targets.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Destroyed);
    let inodes: Vec<u32> = destroyed.map(|(target, _)| target.inode).collect();
    let destroyed = inodes.len();
    let (mut open, blind) =
        if inodes.is_empty() { Default::default() } else { destroy::descriptors(inodes.iter().copied()) };
    let done: Vec<(&Target, Done)> = targets
        .iter()
        .zip(outcomes)
        .map(|(target, outcome)| {
            let open = if outcome == Outcome::Destroyed { open.remove(&target.inode) } else { None };
            // An empty list means no descriptor only if all processes could be read.
            let open = open.filter(|open| !open.is_empty() || blind.is_none());
            (target, Done { outcome, open })
        })
        .collect();
    let failed = failures(&plan.plans, &done);
    let mut text = Vec::new();
    if !is_text {
        kill::json(plan.listing, &plan.plans, Some(&done), &mut text)?;
        if let Some(blind) = &blind {
            log::warn!("there may be more descriptors: {blind}");
        }
    } else if !done.is_empty() {
        kill::outcome(&done, blind.as_deref(), failed.as_ref().err().and_then(KillError::why), &mut text);
    }
    let failed = failed.map_err(anyhow::Error::from);
    if let Err(error) = print(&text) {
        if let Err(failed) = failed {
            log::error!("{}", with_hints(&failed));
        }
        return Err(KillError::ResultUnwritten { destroyed, count: targets.len(), error: io_error(error) }.into());
    }
    failed
}

/// Returns the I/O error of a write.
fn io_error(error: anyhow::Error) -> io::Error {
    error.downcast().unwrap_or_else(io::Error::other)
}

fn check_count(args: &cli::KillArgs, count: usize) -> Result<(), KillError> {
    let max = args.max;
    if u32::try_from(count).is_ok_and(|count| count <= max) { Ok(()) } else { Err(KillError::TooMany { count, max }) }
}

/// Shows the plan; `last` adds lines below its text.
fn show_plan(args: &cli::KillArgs, plan: &KillPlan<'_>, last: impl FnOnce(&mut String)) -> anyhow::Result<()> {
    let mut text = Vec::new();
    match args.shape.output {
        OutputFormat::Json => kill::json(plan.listing, &plan.plans, None, &mut text)?,
        OutputFormat::Text => {
            let width = if args.wide { None } else { width() };
            let style = Style { width, wide: args.wide, color: color(args.shape) };
            kill::plan(clock::now(), &plan.selected, &plan.plans, style, &mut text);
            let mut below = String::new();
            last(&mut below);
            text.extend_from_slice(below.as_bytes());
        }
    }
    print(&text)
}

/// Returns an error if a planned destruction failed: the first one that the user can fix.
fn failures(plans: &[Planned], done: &[(&Target, Done)]) -> Result<(), KillError> {
    let mut denied: Vec<&str> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for plan in plans {
        if let Err(Refusal::Denied(why) | Refusal::OwnersUnknown(why)) = plan {
            denied.push(why);
        }
    }
    for (_, done) in done {
        match &done.outcome {
            Outcome::Failed(Failure::Denied(why))
            | Outcome::Refused(Refusal::Denied(why) | Refusal::OwnersUnknown(why)) => denied.push(why),
            Outcome::Failed(failure) => others.push(failure.to_string()),
            Outcome::Destroyed | Outcome::GoneBefore | Outcome::Replaced | Outcome::Refused(_) => {}
        }
    }
    match (denied.first(), others.first()) {
        (Some(why), _) => Err(KillError::Denied { count: denied.len(), why: (*why).to_owned() }),
        (None, Some(why)) => Err(KillError::Failed { count: others.len(), why: why.clone() }),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use closewait_engine::testing::socket;

    fn done(outcome: Outcome) -> Result<(), KillError> {
        let (local, remote) = (socket().local, socket().remote);
        let target =
            Target { netns: 1, local, remote, cookie: 7, inode: 99, interface: 0, entered: None, peer_reads: false };
        failures(&[], &[(&target, Done { outcome, open: None })])
    }

    fn code(result: Result<(), impl Into<anyhow::Error>>) -> Option<u8> {
        super::super::exit_code(&result.unwrap_err().into())
    }

    #[test]
    fn what_changed_meanwhile_is_no_failure() {
        for outcome in [Outcome::Destroyed, Outcome::GoneBefore, Outcome::Replaced, Outcome::Refused(Refusal::Sending)]
        {
            assert!(done(outcome.clone()).is_ok(), "{outcome:?}");
        }
        assert!(failures(&[Err(Refusal::NeverAccepted), Err(Refusal::Namespace(String::new()))], &[]).is_ok());
    }

    #[test]
    fn a_failure_ends_with_the_code_of_what_is_missing() {
        let denied = || "CAP_NET_ADMIN".to_owned();
        assert_eq!(code(done(Outcome::Failed(Failure::Denied(denied())))), Some(77));
        assert_eq!(code(failures(&[Err(Refusal::Denied(denied()))], &[])), Some(77));
        assert_eq!(code(done(Outcome::Failed(Failure::StillThere))), Some(1));
        let unsupported = DestroyError::Unsupported(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        assert_eq!(code(Err(KillError::Unsupported(unsupported))), Some(69));
        assert_eq!(code(Err(KillError::NoFilter)), Some(2));
        assert_eq!(code(Err(KillError::TooMany { count: 5, max: 4 })), Some(1));
        assert_eq!(code(failures(&[Err(Refusal::OwnersUnknown(denied()))], &[])), Some(77));
        assert_eq!(code(Err(KillError::UnmatchedSockets { count: 1 })), Some(1));
    }

    #[test]
    fn what_could_not_be_written_is_a_failure_also_if_the_reader_has_gone() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
            let error = || io_error(io::Error::from(kind).into());
            assert_eq!(error().kind(), kind);
            assert_eq!(code(Err(KillError::PlanUnwritten(error()))), Some(1), "{kind}");
            let unwritten = KillError::ResultUnwritten { destroyed: 2, count: 3, error: error() };
            assert_eq!(code(Err(unwritten)), Some(1), "{kind}");
        }
        assert_eq!(code(Err(io::Error::from(io::ErrorKind::BrokenPipe))), None, "of what changes nothing");
    }
}
