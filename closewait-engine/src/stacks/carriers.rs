//! Threads of a Java virtual machine that carry virtual threads, and whether all of them are pinned.
//!
//! Before JDK 24, a virtual thread that waits in `synchronized` keeps its carrier. If all carriers are kept like that, no other virtual
//! thread runs: also not the one that the awaited lock goes to.

use super::{
    frame::CodeFrame,
    group::{StackGroup, ThreadWork},
    lock_owner::LockOwner,
};
use crate::{text::count, time::BootTime};

/// State of a virtual thread that has no carrier.
pub const VIRTUAL: &str = "virtual";
/// State of a virtual thread that a carrier runs.
pub const MOUNTED: &str = "virtual, on its carrier";
/// State of a virtual thread that waits and keeps its carrier.
pub const PINNED: &str = "virtual, pinned to its carrier";
/// State of a thread that carries a virtual one whose stack is unknown.
pub const CARRIES: &str = "carries a virtual thread";
/// State of a thread that carries virtual threads, but none at this moment.
pub const FREE_CARRIER: &str = "free carrier of virtual threads";

/// Carriers of a process, all of which are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedCarriers {
    /// Number of carriers.
    pub carriers: u32,
    /// Number of virtual threads that have no carrier; at least that many, if the sample has not all groups.
    pub unmounted: u32,
    /// Whether there can be more virtual threads without a carrier.
    pub has_more: bool,
    /// Work of most of the pinned threads.
    pub work: ThreadWork,
    /// Time of the first of the consecutive samples in which some of them were at this line.
    pub since: Option<BootTime>,
    /// The application's innermost frame of most of the pinned threads; `None` if they have none of the application.
    pub place: Option<CodeFrame>,
    /// Thread that owns the lock that most of the pinned threads wait for; `None` if the machine does not say it.
    pub lock_owner: Option<LockOwner>,
}

/// Whether a state is of this kind, with or without the thread's own state behind it.
fn is_kind(state: Option<&str>, kind: &str) -> bool {
    let rest = state.and_then(|state| state.strip_prefix(kind));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(", "))
}

fn has_state(group: &StackGroup, kind: &str) -> bool {
    is_kind(group.state.as_deref(), kind)
}

/// Whether a state is that of a virtual thread.
pub(super) fn is_virtual(state: Option<&str>) -> bool {
    is_kind(state, VIRTUAL)
}

fn is_pinned(group: &StackGroup) -> bool {
    has_state(group, PINNED)
}

/// Whether a group shows that virtual threads can run: a carrier is free, or runs one that is not pinned.
pub(super) fn can_run(group: &StackGroup) -> bool {
    [MOUNTED, CARRIES, FREE_CARRIER].iter().any(|kind| has_state(group, kind))
}

impl PinnedCarriers {
    /// Returns the carriers of a process; `None` if there are none, or not all of them are pinned. `has_more` says that groups can be
    /// missing, none of which shows that virtual threads can run.
    pub fn of(groups: &[StackGroup], has_more: bool) -> Option<Self> {
        if groups.iter().any(can_run) {
            return None;
        }
        let (mut carriers, mut unmounted, mut most): (u32, u32, Option<&StackGroup>) = (0, 0, None);
        for group in groups {
            if is_pinned(group) {
                carriers = carriers.saturating_add(group.count);
                most = most.filter(|most| most.count >= group.count).or(Some(group));
            } else if is_virtual(group.state.as_deref()) {
                unmounted = unmounted.saturating_add(group.count);
            }
        }
        let most = most?;
        let (place, lock_owner) = (most.place().cloned(), most.lock_owner.clone());
        let (work, since) = (most.work, most.since);
        Some(Self { carriers, unmounted, has_more, work, since, place, lock_owner })
    }

    /// Returns what the carriers do, in a sentence: `all 4 carriers of virtual threads are pinned in Orders.finish (Orders.java:146); 96
    /// virtual threads without a carrier cannot run`.
    pub fn headline(&self) -> String {
        let Self { carriers, unmounted, has_more, place, .. } = self;
        let who = match carriers {
            1 => "the only carrier of virtual threads is".to_owned(),
            carriers => format!("all {carriers} carriers of virtual threads are"),
        };
        let place = place.as_ref().map_or_else(String::new, |place| format!(" in {place}"));
        let others = match unmounted {
            0 => String::new(),
            unmounted => {
                let at_least = if *has_more { "at least " } else { "" };
                format!("; {at_least}{} without a carrier cannot run", count(*unmounted, "virtual thread"))
            }
        };
        format!("{who} pinned{place}{others}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::{CodeLanguage, CodeStack, ProcessStacks};

    fn stack(state: &str, tid: Option<u32>, function: &str) -> CodeStack {
        CodeStack {
            language: CodeLanguage::Jvm,
            tid,
            name: None,
            state: Some(state.to_owned()),
            lock_owner: None,
            frames: vec![CodeFrame { function: Some(function.to_owned()), ..CodeFrame::default() }],
            cut: None,
        }
    }

    fn pinned(stacks: &[CodeStack]) -> Option<String> {
        ProcessStacks::new(7, BootTime(1), stacks, Vec::new()).pinned_carriers().map(|pinned| pinned.headline())
    }

    #[test]
    fn all_carriers_are_pinned_unless_one_is_free_or_runs_a_thread() {
        let carriers = [11, 12].map(|tid| stack(PINNED, Some(tid), "shop.Orders.finish"));
        let waits = [(); 3].map(|()| stack("virtual, WAITING", None, "shop.Orders.reserve"));
        let whole = [&carriers[..], &waits, &[stack("RUNNABLE", Some(1), "shop.Orders.main")]].concat();
        let expected = "all 2 carriers of virtual threads are pinned in shop.Orders.finish; 3 virtual threads without a carrier cannot run";
        assert_eq!(pinned(&whole).as_deref(), Some(expected));
        let only = "the only carrier of virtual threads is pinned in shop.Orders.finish";
        assert_eq!(pinned(&carriers[..1]).as_deref(), Some(only));
        assert_eq!(pinned(&waits), None);
        for (state, tid) in
            [(FREE_CARRIER, 13), (CARRIES, 13), ("virtual, on its carrier, RUNNABLE", 13), (MOUNTED, 13)]
        {
            let other = stack(state, Some(tid), "java.util.concurrent.ForkJoinPool.awaitWork");
            assert_eq!(pinned(&[&whole[..], &[other]].concat()), None, "{state}");
        }
    }

    #[test]
    fn a_free_carrier_is_kept_among_many_groups() {
        let carriers = [11, 12].map(|tid| stack(PINNED, Some(tid), "shop.Orders.finish"));
        let others: Vec<_> = (0..100).map(|at| stack(VIRTUAL, None, &format!("shop.Orders.reserve{at}"))).collect();
        let many = [&carriers[..], &others].concat();
        let text = pinned(&many).expect("all are pinned");
        assert!(text.contains("; at least 31 virtual threads without"), "{text}");
        let free = stack(FREE_CARRIER, Some(13), "java.util.concurrent.ForkJoinPool.awaitWork");
        assert_eq!(pinned(&[&many[..], &[free]].concat()), None);
    }
}
