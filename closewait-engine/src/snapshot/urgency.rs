//! Order of groups by urgency, and their severity.
//!
//! | urgency | severity |
//! |---|---|
//! | a limit is reached | `critical` |
//! | a limit will be reached, soonest first | `critical` below 5 minutes, else as for growth |
//! | the group grows, fastest first | `error` if hung or never accepted, else `warning` |
//! | sockets are stuck, and their number is level or unknown | `error` if hung or never accepted with certainty medium or higher, else `warning` |
//! | undecided: it is too early to tell, or too little is known | `info` |
//! | normal: the program needs no attention | `info` |
//!
//! A level group is stuck if it is `hung`, `leak` or `never_accepted`, or if it is an incident and `inherited`, or a proxy whose
//! backend is stuck; undecided if it is `unknown`, `transient` with certainty low, or `never_accepted` with sockets that are all younger
//! than 1 s, as in the backlog of every busy server; and else normal. A growing
//! group is normal only as `pool`, `half_close` or `transient` with certainty medium or higher, and while no limit is within an hour. A
//! process without free descriptors makes a group urgent only if the group grows or holds a quarter of them.

use std::{cmp::Reverse, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    diagnose::BACKEND_STUCK,
    model::{Certainty, Class, Limit, Pileup, Shape, Verdict},
};

/// Time to exhaustion of a limit below which a group is critical.
pub const NEAR_LIMIT: Duration = Duration::from_secs(300);
/// Time to exhaustion of a limit below which growth is a problem even if the verdict is benign.
const BENIGN_NEAR_LIMIT: Duration = Duration::from_secs(3600);
/// Minimum share of a process's open descriptors that a level group holds if its sockets are the reason for exhaustion, as a
/// divisor.
const EXHAUSTS_DIVISOR: u64 = 4;

/// Severity of a group or incident, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No action is needed, or it is too early to tell.
    Info,
    /// Sockets are stuck or become more, and the program still works.
    Warning,
    /// The program no longer serves some or all connections.
    Error,
    /// A limit is reached, or will be within [`NEAR_LIMIT`].
    Critical,
}

impl Severity {
    /// All severities, the worst first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Error, Self::Warning, Self::Info];

    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// Urgency of a group. The least value is the most urgent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A limit is reached.
    LimitReached(Limit),
    /// Growth exhausts a limit in this time.
    NearsLimit(Duration),
    /// The group grows. The value orders groups by growth, in thousandths of a socket per second.
    Grows(Reverse<u64>),
    /// Sockets are stuck, and their number is level or unknown. The values order groups by severity, then by number of sockets.
    Stuck(Reverse<Severity>, Reverse<u64>),
    /// It is too early to tell, or too little is known. The value orders groups by number of sockets.
    Undecided(Reverse<u64>),
    /// The program needs no attention. The value orders groups by number of sockets.
    Normal(Reverse<u64>),
}

/// Number of groups by their urgency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrgencyCounts {
    /// Groups that have reached a limit.
    pub full: u64,
    /// Groups that grow.
    pub growing: u64,
    /// Groups with stuck sockets, whose number is level or unknown.
    pub stuck: u64,
    /// Groups for which it is too early to tell, or of which too little is known.
    pub undecided: u64,
    /// Groups that need no attention.
    pub normal: u64,
    /// Further groups, which were not ranked.
    pub others: u64,
}

impl UrgencyCounts {
    /// Counts a group.
    pub fn add(&mut self, urgency: Urgency) {
        *match urgency {
            Urgency::LimitReached(_) => &mut self.full,
            Urgency::NearsLimit(_) | Urgency::Grows(_) => &mut self.growing,
            Urgency::Stuck(..) => &mut self.stuck,
            Urgency::Undecided(_) => &mut self.undecided,
            Urgency::Normal(_) => &mut self.normal,
        } += 1;
    }

    /// Returns the number of all groups.
    pub fn total(&self) -> u64 {
        let Self { full, growing, stuck, undecided, normal, others } = *self;
        [full, growing, stuck, undecided, normal, others].into_iter().fold(0, u64::saturating_add)
    }
}

impl Pileup {
    /// Returns the urgency of the group.
    pub fn urgency(&self) -> Urgency {
        if let Some(limit) = self.reached_limit() {
            return Urgency::LimitReached(limit);
        }
        let forecast = self.forecast.filter(|_| !self.is_benign());
        if let Some(forecast) = forecast {
            return Urgency::NearsLimit(forecast.left);
        }
        match self.slope {
            Some(slope) if self.grows() && !self.is_benign() => {
                Urgency::Grows(Reverse((slope.per_second.max(0.0) * 1000.0) as u64))
            }
            _ if self.is_undecided() => Urgency::Undecided(Reverse(self.count)),
            _ if self.is_normal() => Urgency::Normal(Reverse(self.count)),
            _ => Urgency::Stuck(Reverse(self.severity_without_limit()), Reverse(self.count)),
        }
    }

    /// Returns the severity of the group.
    pub fn severity(&self) -> Severity {
        match self.urgency() {
            Urgency::LimitReached(_) => Severity::Critical,
            Urgency::NearsLimit(left) if left < NEAR_LIMIT => Severity::Critical,
            Urgency::Undecided(_) | Urgency::Normal(_) => Severity::Info,
            Urgency::NearsLimit(_) | Urgency::Grows(_) | Urgency::Stuck(..) => self.severity_without_limit(),
        }
    }

    /// Whether the number of sockets grows; false also if no agent watched.
    pub fn grows(&self) -> bool {
        matches!(self.shape, Some(Shape::Linear | Shape::Accelerating))
    }

    /// Returns the limit that is reached, and that the group contributes to.
    pub fn reached_limit(&self) -> Option<Limit> {
        if let Some(forecast) = self.forecast.filter(|forecast| forecast.is_reached()) {
            return Some(forecast.limit);
        }
        // An unknown cause does not make an exhausted limit normal.
        let is_problem = self.grows() || !self.is_normal() || self.verdict.class == Class::Unknown;
        let process = self.evidence.process.as_deref().filter(|_| is_problem);
        let exhausted = process.and_then(|process| process.descriptors()).filter(|(open, limit)| open >= limit);
        if exhausted.is_some_and(|(open, _)| self.grows() || self.count >= open / EXHAUSTS_DIVISOR) {
            return Some(Limit::Descriptors);
        }
        // The backlog holds one more than the limit (`sk_acceptq_is_full`, include/net/sock.h at v5.10).
        let is_full = |(backlog, most)| backlog > most;
        (is_problem && self.evidence.unaccepted > 0 && self.evidence.backlog.is_some_and(is_full))
            .then_some(Limit::Backlog)
    }

    /// Whether growth is no problem: the verdict explains it without a fault of the program, and no limit is near.
    pub fn is_benign(&self) -> bool {
        let Verdict { class, certainty, .. } = &self.verdict;
        let explained =
            matches!(class, Class::Transient | Class::Pool | Class::HalfClose) && *certainty <= Certainty::Medium;
        explained && self.forecast.as_ref().is_none_or(|forecast| forecast.left > BENIGN_NEAR_LIMIT)
    }

    /// Whether no action is needed as long as the group does not grow.
    fn is_normal(&self) -> bool {
        match self.verdict.class {
            Class::Hung | Class::Leak | Class::NeverAccepted => false,
            // Copies of a descriptor are closed when the child ends. An incident shows that this does not happen.
            Class::Inherited => self.incident.is_none(),
            Class::ProxyWait => self.verdict.rule != BACKEND_STUCK,
            Class::Pool | Class::HalfClose | Class::Transient | Class::Unknown => true,
        }
    }

    fn is_undecided(&self) -> bool {
        match self.verdict.class {
            Class::Unknown => true,
            Class::Transient => self.verdict.certainty == Certainty::Low,
            Class::NeverAccepted => self.is_young(),
            Class::Hung | Class::Leak | Class::Pool | Class::HalfClose | Class::Inherited | Class::ProxyWait => false,
        }
    }

    /// Whether all sockets are younger than 1 s, the first bound of [`AGE_BOUNDS`](crate::model::AGE_BOUNDS).
    fn is_young(&self) -> bool {
        let [young, older @ ..] = &self.evidence.ages;
        *young > 0 && older.iter().all(|number| *number == 0)
    }

    fn severity_without_limit(&self) -> Severity {
        let Verdict { class, certainty, .. } = self.verdict;
        let is_certain = certainty <= Certainty::Medium;
        let no_longer_serves = matches!(class, Class::Hung | Class::NeverAccepted);
        if no_longer_serves && (self.grows() || is_certain) { Severity::Error } else { Severity::Warning }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Evidence, Forecast, Host, IncidentId, IncidentState, IncidentStatus, Slope},
        testing::{pileup, process},
        time::BootTime,
    };

    fn growing(of: Pileup, per_second: f64) -> Pileup {
        Pileup { shape: Some(Shape::Linear), slope: Some(Slope { per_second, error: 0.0 }), ..of }
    }

    fn forecast(of: Pileup, left: u64) -> Pileup {
        let left = Duration::from_secs(left);
        let (limit, used, most) = (Limit::Descriptors, 900, 1024);
        let read_at = BootTime(0);
        Pileup { forecast: Some(Forecast { limit, used, most, read_at, left, at_least: left, at_most: None }), ..of }
    }

    fn incident(of: Pileup) -> Pileup {
        let status = IncidentStatus {
            id: IncidentId::new(&Host::default(), &of.group, BootTime(0)),
            state: IncidentState::Opened,
            began: BootTime(0),
        };
        Pileup { incident: Some(status), ..of }
    }

    fn with_descriptors(of: Pileup, open: u64) -> Pileup {
        let process = Some(Box::new(process("app", 7, Some((open, 1024)))));
        Pileup { evidence: Evidence { process, ..of.evidence.clone() }, ..of }
    }

    #[test]
    fn the_most_urgent_group_comes_first() {
        use Certainty::{Fact, High, Low, Medium};
        let hung = |count| pileup(Class::Hung, Medium, count);
        let leak = |count| pileup(Class::Leak, High, count);
        let pool = |count| pileup(Class::Pool, High, count);
        let order = [
            (with_descriptors(leak(1000), 1024), Severity::Critical),
            (forecast(growing(leak(10), 1.0), 37), Severity::Critical),
            (forecast(growing(hung(10), 1.0), 299), Severity::Critical),
            (forecast(growing(hung(10), 1.0), 300), Severity::Error),
            (forecast(growing(leak(10), 1.0), 20_000), Severity::Warning),
            (growing(hung(10), 20.0), Severity::Error),
            (growing(pileup(Class::Unknown, Low, 900), 4.0), Severity::Warning),
            (growing(leak(10), 0.5), Severity::Warning),
            (pileup(Class::NeverAccepted, Fact, 5), Severity::Error),
            (hung(3), Severity::Error),
            (leak(4000), Severity::Warning),
            (incident(pileup(Class::Inherited, Low, 60)), Severity::Warning),
            (pileup(Class::Hung, Low, 40), Severity::Warning),
            (pileup(Class::Unknown, Low, 5), Severity::Info),
            (pileup(Class::Transient, Low, 3), Severity::Info),
            (pool(6), Severity::Info),
            (pileup(Class::Transient, Medium, 5), Severity::Info),
            (growing(pool(4), 1.0), Severity::Info),
            (pileup(Class::HalfClose, Fact, 3), Severity::Info),
            (pileup(Class::ProxyWait, High, 2), Severity::Info),
            (pileup(Class::Inherited, Fact, 1), Severity::Info),
        ];
        for (at, (pileup, severity)) in order.iter().enumerate() {
            assert_eq!(pileup.severity(), *severity, "{at}: {:?}", pileup.urgency());
        }
        let urgencies: Vec<_> = order.iter().map(|(pileup, _)| pileup.urgency()).collect();
        assert!(urgencies.is_sorted_by(|one, next| one < next), "{urgencies:#?}");
    }

    #[test]
    fn a_young_backlog_needs_no_attention_yet() {
        let severity = |younger, older, backlog| {
            let mut pileup = pileup(Class::NeverAccepted, Certainty::Fact, 5);
            [pileup.evidence.ages[0], pileup.evidence.ages[1]] = [younger, older];
            (pileup.evidence.backlog, pileup.evidence.unaccepted) = (Some((backlog, 128)), 5);
            pileup.severity()
        };
        assert_eq!(severity(5, 0, 5), Severity::Info);
        assert_eq!(severity(4, 1, 5), Severity::Error);
        assert_eq!(severity(5, 0, 129), Severity::Critical, "it is full");
    }

    #[test]
    fn a_limit_counts_only_for_groups_that_contribute() {
        let hung = |count| with_descriptors(pileup(Class::Hung, Certainty::High, count), 1024);
        assert_eq!(hung(256).reached_limit(), Some(Limit::Descriptors));
        assert_eq!(hung(255).reached_limit(), None);
        assert_eq!(growing(hung(2), 1.0).reached_limit(), Some(Limit::Descriptors));
        let pool = with_descriptors(pileup(Class::Pool, Certainty::High, 1000), 1024);
        assert_eq!(pool.severity(), Severity::Info, "a normal group that does not grow");
        assert_eq!(with_descriptors(pileup(Class::Hung, Certainty::High, 900), 1023).reached_limit(), None);
    }

    #[test]
    fn a_backlog_is_full_above_its_limit() {
        let with = |backlog, unaccepted| {
            let mut pileup = pileup(Class::NeverAccepted, Certainty::Fact, 9);
            (pileup.evidence.backlog, pileup.evidence.unaccepted) = (Some((backlog, 128)), unaccepted);
            pileup.severity()
        };
        assert_eq!(with(129, 9), Severity::Critical);
        assert_eq!(with(128, 9), Severity::Error);
        assert_eq!(with(129, 0), Severity::Error);
    }
}
