//! Rate limits for hook programs. Pure: the time comes in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{HookEventKind, HookGroup};
use closewait_engine::{text::duration, time::BootTime};

/// Maximum number of starts at once, and per minute.
const MAX_BURST: u32 = 10;
/// Interval at which one more start becomes available.
const REFILL_INTERVAL: Duration = Duration::from_secs(6);
/// Maximum number of groups whose last start is remembered: as many as can start in nearly seven hours. Beyond it,
/// the limiter forgets the group that started first, which may run again sooner.
const MAX_GROUPS: usize = 4096;
/// Interval between two log lines about skipped hooks.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Reason why a program is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// A program has run for this group recently.
    Recent,
    /// Too many programs have run.
    TooMany,
}

/// Rate limit for starts of hook programs: one per group, one for all.
#[derive(Debug)]
pub(super) struct StartLimiter {
    every: Duration,
    started: BTreeMap<HookGroup, BootTime>,
    /// Incidents whose program has started, and not yet for their end.
    unended: BTreeSet<String>,
    /// Remaining time to spend, [`REFILL_INTERVAL`] for each start.
    credit: Duration,
    earned: BootTime,
}

impl StartLimiter {
    /// Creates a limiter with at most one start of a group in `every`.
    pub(super) fn new(every: Duration, now: BootTime) -> Self {
        Self {
            every,
            started: BTreeMap::new(),
            unended: BTreeSet::new(),
            credit: REFILL_INTERVAL * MAX_BURST,
            earned: now,
        }
    }

    /// Changes the interval.
    pub(super) fn set_every(&mut self, every: Duration) {
        self.every = every;
    }

    /// Checks that a program may start, and counts the start. The end of an incident whose program has started always may: a
    /// service that was notified has to learn it. So the number of ends is at most that of the other starts.
    pub(super) fn start(&mut self, group: &HookGroup, now: BootTime) -> Result<(), Skip> {
        if group.is_end() && self.unended.remove(&group.who) {
            self.started.insert(group.clone(), now);
            return Ok(());
        }
        if self.started.get(group).is_some_and(|at| now.since(*at) < self.every) {
            return Err(Skip::Recent);
        }
        self.credit = (self.credit + now.since(self.earned)).min(REFILL_INTERVAL * MAX_BURST);
        self.earned = now;
        self.credit = self.credit.checked_sub(REFILL_INTERVAL).ok_or(Skip::TooMany)?;
        self.started.retain(|_, at| now.since(*at) < self.every);
        if self.started.len() >= MAX_GROUPS
            && let Some(first) = self.started.iter().min_by_key(|(_, at)| **at).map(|(first, _)| first.clone())
        {
            self.started.remove(&first);
        }
        self.started.insert(group.clone(), now);
        if group.kind == HookEventKind::Pileup && !group.is_end() {
            if self.unended.len() >= MAX_GROUPS {
                self.unended.pop_first();
            }
            self.unended.insert(group.who.clone());
        }
        Ok(())
    }
}

/// Numbers of skipped hooks since the last report.
#[derive(Debug)]
pub(super) struct Skipped {
    recent: u64,
    too_many: u64,
    unsent: u64,
    too_long: u64,
    every: Duration,
    last_report: BootTime,
}

impl Skipped {
    pub(super) fn new(every: Duration, now: BootTime) -> Self {
        Self { recent: 0, too_many: 0, unsent: 0, too_long: 0, every, last_report: now }
    }

    /// Changes the interval that the report names.
    pub(super) fn set_every(&mut self, every: Duration) {
        self.every = every;
    }

    pub(super) fn skip(&mut self, skip: Skip) {
        match skip {
            Skip::Recent => self.recent += 1,
            Skip::TooMany => self.too_many += 1,
        }
    }

    /// Counts an event that the helper was too slow to receive.
    pub(super) fn unsent(&mut self) {
        self.unsent += 1;
    }

    /// Counts an event that is longer than a request may be.
    pub(super) fn too_long(&mut self) {
        self.too_long += 1;
    }

    /// Returns the report in one line if it is due, and resets the numbers.
    pub(super) fn line(&mut self, now: BootTime) -> Option<String> {
        (now.since(self.last_report) >= LOG_INTERVAL).then(|| self.last_line(now)).flatten()
    }

    /// Returns the last line of the log about dropped hooks.
    pub(super) fn last_line(&mut self, now: BootTime) -> Option<String> {
        let parts = [
            (self.recent, format!("one of the same group ran within {} (--hook-every)", duration(self.every))),
            (self.too_many, format!("{MAX_BURST} ran in a minute")),
            (self.unsent, "earlier ones were not done".to_owned()),
            (self.too_long, "the event is too long".to_owned()),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{count} because {why}"))
            .collect();
        if parts.is_empty() {
            return None;
        }
        *self = Self::new(self.every, now);
        Some(format!("hooks not run: {}", parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use closewait_engine::model::IncidentState;

    const EVERY: Duration = Duration::from_secs(60);

    fn group(who: &str) -> HookGroup {
        HookGroup::of_socket(who.to_owned())
    }

    fn incident(who: &str, once: Option<IncidentState>) -> HookGroup {
        HookGroup { kind: HookEventKind::Pileup, who: who.to_owned(), once }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn a_group_starts_once_in_its_time_whatever_is_reported_of_it() {
        let mut limits = StartLimiter::new(EVERY, at(0));
        assert_eq!(limits.start(&group("a"), at(1)), Ok(()));
        for second in 1..61 {
            assert_eq!(limits.start(&group("a"), at(second)), Err(Skip::Recent));
        }
        assert_eq!(limits.start(&group("a"), at(61)), Ok(()));
        assert_eq!(limits.start(&incident("a", None), at(61)), Ok(()));
    }

    #[test]
    fn ten_start_at_once_and_then_one_in_six_seconds() {
        let mut limits = StartLimiter::new(EVERY, at(0));
        let mut start = |n: u64, second| limits.start(&group(&n.to_string()), at(second)).is_ok();
        assert_eq!((0..100).filter(|n| start(*n, 1)).count(), 10);
        assert_eq!((100..200).filter(|n| start(*n, 6)).count(), 0);
        assert_eq!((200..300).filter(|n| start(*n, 7)).count(), 1);
        assert_eq!((300..400).filter(|n| start(*n, 1000)).count(), 10, "what was not used is not kept for ever");
    }

    #[test]
    fn the_end_of_an_incident_starts_whatever_started_before_it() {
        let mut limits = StartLimiter::new(EVERY, at(0));
        let (open, end) = (incident("a", None), incident("a", Some(IncidentState::Resolved)));
        assert_eq!((limits.start(&open, at(0)), limits.start(&end, at(40))), (Ok(()), Ok(())));
        assert_eq!((limits.start(&open, at(61)), limits.start(&end, at(70))), (Ok(()), Ok(())), "again within 60 s");
        assert_eq!(limits.start(&end, at(71)), Err(Skip::Recent), "it did not start in between");
        let full = incident("b", Some(IncidentState::Exhausted));
        assert_eq!(limits.start(&full, at(72)), Ok(()));
        while limits.start(&group(&limits.started.len().to_string()), at(72)).is_ok() {}
        assert_eq!(limits.start(&incident("c", Some(IncidentState::Resolved)), at(72)), Err(Skip::TooMany));
        assert_eq!(limits.start(&incident("b", Some(IncidentState::Resolved)), at(72)), Ok(()));
    }

    #[test]
    fn one_that_found_no_room_is_not_taken_for_started() {
        let mut limits = StartLimiter::new(EVERY, at(0));
        for n in 0..10 {
            assert_eq!(limits.start(&group(&n.to_string()), at(0)), Ok(()));
        }
        assert_eq!(limits.start(&group("late"), at(0)), Err(Skip::TooMany));
        assert_eq!(limits.start(&group("late"), at(6)), Ok(()));
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_the_first_goes() {
        let mut limits = StartLimiter::new(Duration::MAX, at(0));
        for n in 0..=MAX_GROUPS as u64 {
            assert_eq!(limits.start(&group(&n.to_string()), at(n * 6)), Ok(()));
        }
        assert_eq!(limits.started.len(), MAX_GROUPS);
        let now = at((MAX_GROUPS as u64 + 1) * 6);
        assert_eq!(limits.start(&group("1"), now), Err(Skip::Recent));
        assert_eq!(limits.start(&group("0"), now), Ok(()));
    }

    #[test]
    fn skipped_hooks_are_reported_in_one_line_a_minute() {
        let mut skipped = Skipped::new(EVERY, at(0));
        assert_eq!(skipped.line(at(100)), None);
        skipped.skip(Skip::Recent);
        skipped.skip(Skip::Recent);
        skipped.skip(Skip::TooMany);
        assert_eq!(skipped.line(at(59)), None);
        let line = skipped.line(at(160)).unwrap();
        assert_eq!(
            line,
            "hooks not run: 2 because one of the same group ran within 1m (--hook-every), 1 because 10 ran in a minute"
        );
        skipped.unsent();
        assert_eq!(skipped.line(at(161)), None);
        assert_eq!(skipped.last_line(at(161)).as_deref(), Some("hooks not run: 1 because earlier ones were not done"));
        assert_eq!(skipped.last_line(at(161)), None);
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_twice_the_burst(steps in prop::collection::vec((0_u64..20, 0_u64..50), 1..400)) {
            let mut limits = StartLimiter::new(EVERY, at(0));
            let (mut now, mut starts) = (0, Vec::new());
            for (step, who) in steps {
                now += step;
                if limits.start(&group(&who.to_string()), at(now)).is_ok() {
                    prop_assert!(starts.iter().all(|(other, then)| *other != who || now - then >= 60));
                    starts.push((who, now));
                }
            }
            for (_, first) in &starts {
                let minute = starts.iter().filter(|(_, at)| (*first..first + 60).contains(at)).count();
                prop_assert!(minute <= 20, "{minute}");
            }
        }
    }
}
