//! What comes and goes on each local port and towards each remote end, also of the healthy: what tells a program that
//! hangs from one that forgets.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    diagnose::{Flow, Trend},
    model::{Dwell, Endpoint, How, Role, Socket},
    time::{Boot, nanos},
};

/// So many have a flow of their own, at some 2.5 KB; further ones have none, and what enters there is counted.
const LIMIT: usize = 4096;
/// Remote ends, of which there may be any number, leave the rest to local ports.
const REMOTES: usize = LIMIT / 4 * 3;
/// At the end of each window the quiet ones give way, the longest quiet first, until so many are left.
const KEPT: usize = LIMIT / 2;
/// Sockets that entered at about the same time are counted together; so many times are kept, each half as long as the age
/// at which a socket counts as stuck.
const COHORTS: usize = 128;
/// So many windows, each as long as that age, are a span of time that the longest stay is known for.
const SPAN: usize = 64;
/// So many windows make a trend.
const WINDOWS: usize = 6;
/// Fewer make none: three differences.
const FEWEST: usize = 4;

/// A local port that is listened on, or a remote end that is connected to, in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Service {
    /// Accepting side.
    Port(Option<u32>, u16),
    /// Connecting side.
    Remote(Option<u32>, Endpoint),
}

impl Service {
    /// The one of a socket.
    pub(super) fn of(socket: &Socket) -> Self {
        match socket.role {
            Some(Role::Server) => Self::Port(socket.netns, socket.local.port),
            Some(Role::Client) | None => Self::Remote(socket.netns, socket.remote),
        }
    }

    fn is_remote(self) -> bool {
        matches!(self, Self::Remote(..))
    }
}

/// Those that entered at about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cohort {
    number: u64,
    entered: u32,
    left: u32,
}

#[derive(Clone, Debug, Default)]
struct Counted {
    entered: u64,
    closed: u64,
    lost: u64,
    last_closed: Option<Boot>,
    /// The longest stay that the program ended, in this span of windows and in the one before: what was long once must
    /// not count for ever.
    longest_closed: [Option<Duration>; 2],
    cohorts: VecDeque<Cohort>,
    present: u64,
    /// `present` at the ends of the last windows.
    counts: VecDeque<u64>,
    /// When it last changed.
    changed: Boot,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Services {
    began: Boot,
    stuck_after: Duration,
    services: BTreeMap<Service, Counted>,
    tick: Boot,
    /// Windows that have ended in this span.
    ended: usize,
    /// Of `services`.
    remotes: usize,
    ungrouped: u64,
}

impl Services {
    /// Begins at `now`.
    pub(super) fn new(now: Boot, stuck_after: Duration) -> Self {
        Self {
            began: now,
            stuck_after,
            services: BTreeMap::new(),
            tick: now + stuck_after,
            ended: 0,
            remotes: 0,
            ungrouped: 0,
        }
    }

    /// A socket entered; `found` says whether it was found before its record came.
    pub(super) fn entered(&mut self, socket: &Socket, at: Boot, found: bool) {
        let number = self.number(at);
        let Some(counted) = self.counted(Service::of(socket), at) else {
            self.ungrouped += 1;
            return;
        };
        counted.entered += 1;
        counted.present += u64::from(!found);
        match counted.cohorts.back_mut() {
            Some(last) if last.number == number => last.entered = last.entered.saturating_add(1),
            _ => {
                // First, so that the queue never asks for more places than that.
                if counted.cohorts.len() >= COHORTS {
                    counted.cohorts.pop_front();
                }
                counted.cohorts.push_back(Cohort { number, entered: 1, left: 0 });
            }
        }
    }

    /// How many sockets entered where there was no room to count them.
    pub(super) fn ungrouped(&self) -> u64 {
        self.ungrouped
    }

    /// One was found that is older than the agent, or whose entry was missed.
    pub(super) fn found(&mut self, service: Service, at: Boot) {
        if let Some(counted) = self.counted(service, at) {
            counted.present += 1;
        }
    }

    /// One has left at some time before `at`, and nobody knows how.
    pub(super) fn missed(&mut self, socket: &Socket, at: Boot) {
        if let Some(counted) = self.counted(Service::of(socket), at) {
            counted.present = counted.present.saturating_sub(1);
        }
    }

    /// A socket left at `at`, after `dwell`; `entered` is when it entered, if that was seen.
    pub(super) fn left(&mut self, socket: &Socket, at: Boot, entered: Option<Boot>, dwell: Option<Dwell>, how: How) {
        let number = entered.map(|entered| self.number(entered));
        let Some(counted) = self.counted(Service::of(socket), at) else { return };
        counted.present = counted.present.saturating_sub(1);
        if let Some(cohort) = number.and_then(|number| counted.cohorts.iter_mut().find(|one| one.number == number)) {
            cohort.left = cohort.left.saturating_add(1);
        }
        match how {
            How::Closed | How::Shutdown | How::Aborted => {
                counted.closed += 1;
                counted.last_closed = counted.last_closed.max(Some(at));
                counted.longest_closed[0] = counted.longest_closed[0].max(dwell.map(Dwell::at_least));
            }
            How::Reset | How::Timeout | How::Destroyed | How::ListenerClosed | How::Unknown => counted.lost += 1,
        }
    }

    /// When [`Services::handle_timeout`] has something to do; never while there is nothing to count.
    pub(super) fn poll_timeout(&self) -> Option<Boot> {
        (!self.services.is_empty()).then_some(self.tick)
    }

    /// Ends the windows that are over at `now`, and forgets what has been quiet for long.
    pub(super) fn handle_timeout(&mut self, now: Boot) {
        if self.tick > now {
            return;
        }
        self.ended = (self.ended + 1) % SPAN;
        for counted in self.services.values_mut() {
            if self.ended == 0 {
                counted.longest_closed = [None, counted.longest_closed[0]];
            }
            counted.counts.push_back(counted.present);
            if counted.counts.len() > WINDOWS {
                counted.counts.pop_front();
            }
        }
        let kept = self.stuck_after.saturating_mul(COHORTS as u32 / 2);
        self.services.retain(|_, counted| counted.present > 0 || now.since(counted.changed) < kept);
        self.make_room();
        self.remotes = self.services.keys().filter(|service| service.is_remote()).count();
        self.tick = now + self.stuck_after;
    }

    /// What is known of a service at `now`; `onset` is when the oldest that is still there entered.
    pub(super) fn flow(&self, service: Service, onset: Option<Boot>, now: Boot) -> Option<Flow> {
        let counted = self.services.get(&service)?;
        let young = self.number(now - self.stuck_after);
        let first = onset.map(|onset| self.number(onset));
        let mut flow = Flow {
            watched: now.since(self.began),
            entered: counted.entered,
            closed: counted.closed,
            lost: counted.lost,
            last_closed: counted.last_closed,
            longest_closed: counted.longest_closed.into_iter().max().flatten(),
            onset,
            trend: trend(&counted.counts),
            ..Flow::default()
        };
        for cohort in counted.cohorts.iter().filter(|cohort| cohort.number < young) {
            let entered = u64::from(cohort.entered);
            let present = entered.saturating_sub(cohort.left.into());
            flow.old_entered += entered;
            flow.old_present += present;
            if first.is_some_and(|first| cohort.number >= first) {
                flow.since_onset_entered += entered;
                flow.since_onset_present += present;
            }
        }
        Some(flow)
    }

    /// So that a crowd of remote ends that is gone again does not keep others out.
    fn make_room(&mut self) {
        let surplus = self.services.len().saturating_sub(KEPT);
        let quiet = self.services.iter().filter(|(_, counted)| counted.present == 0);
        let mut quiet: Vec<_> = quiet.map(|(service, counted)| (counted.changed, *service)).collect();
        quiet.sort_unstable();
        for (_, service) in quiet.iter().take(surplus) {
            self.services.remove(service);
        }
    }

    /// Which cohort a moment belongs to.
    fn number(&self, at: Boot) -> u64 {
        at.0 / (nanos(self.stuck_after) / 2).max(1)
    }

    fn counted(&mut self, service: Service, at: Boot) -> Option<&mut Counted> {
        if !self.services.contains_key(&service) {
            let full = service.is_remote() && self.remotes >= REMOTES;
            if full || self.services.len() >= LIMIT {
                return None;
            }
            self.remotes += usize::from(service.is_remote());
        }
        let counted = self.services.entry(service).or_default();
        counted.changed = counted.changed.max(at);
        Some(counted)
    }
}

/// How a count goes over the last windows.
fn trend(counts: &VecDeque<u64>) -> Option<Trend> {
    if counts.len() < FEWEST {
        return None;
    }
    let (first, last) = (*counts.front()?, *counts.back()?);
    let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
    let pairs = || counts.iter().zip(counts.iter().skip(1));
    Some(if most - least <= (most / 10).max(1) {
        Trend::Level
    } else if pairs().all(|(before, after)| after >= before) && last > first {
        Trend::Growing
    } else if pairs().all(|(before, after)| after <= before) {
        Trend::Falling
    } else {
        Trend::Uneven
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{socket, socket_on_port};

    const STUCK_AFTER: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Boot {
        Boot(seconds * 1_000_000_000)
    }

    fn services() -> Services {
        Services::new(at(0), STUCK_AFTER)
    }

    /// A connected one.
    fn towards(port: usize) -> Socket {
        let remote = Endpoint { port: u16::try_from(port).unwrap(), ..socket().remote };
        Socket { role: None, remote, ..socket() }
    }

    fn enter(services: &mut Services, seconds: u64) {
        services.entered(&socket(), at(seconds), false);
    }

    fn close(services: &mut Services, entered: u64, left: u64) {
        let dwell = Dwell::Exact(Duration::from_secs(left - entered));
        services.left(&socket(), at(left), Some(at(entered)), Some(dwell), How::Closed);
    }

    #[test]
    fn of_a_server_that_hangs_all_since_the_onset_are_still_there() {
        let mut services = services();
        for second in 0..100 {
            enter(&mut services, second);
            if second < 50 {
                close(&mut services, second, second + 1);
            }
        }
        let flow = services.flow(Service::of(&socket()), Some(at(50)), at(100)).unwrap();
        assert_eq!((flow.entered, flow.closed, flow.last_closed), (100, 50, Some(at(50))));
        assert_eq!(flow.longest_closed, Some(Duration::from_secs(1)));
        assert_eq!(flow.stuck_permille_since_onset(), Some(1000));
        let share = flow.stuck_permille().unwrap();
        assert!((400..500).contains(&share), "{share}");
    }

    #[test]
    fn the_young_do_not_count_as_stuck() {
        let mut services = services();
        for second in 90..100 {
            enter(&mut services, second);
        }
        let flow = services.flow(Service::of(&socket()), Some(at(90)), at(100)).unwrap();
        assert_eq!((flow.old_entered, flow.stuck_permille()), (0, None));
    }

    #[test]
    fn a_long_stay_does_not_count_for_ever() {
        let mut services = services();
        enter(&mut services, 1);
        close(&mut services, 1, 9);
        let mut longest = Vec::new();
        for window in 1..=2 * SPAN as u64 {
            enter(&mut services, window * 10 - 1);
            services.handle_timeout(at(window * 10));
            longest.push(services.flow(Service::of(&socket()), None, at(window * 10)).unwrap().longest_closed);
        }
        assert!(longest[..2 * SPAN - 1].iter().all(|longest| *longest == Some(Duration::from_secs(8))));
        assert_eq!(longest[2 * SPAN - 1], None);
    }

    #[test]
    fn a_trend_needs_three_windows() {
        let of = |counts: &[u64]| trend(&counts.iter().copied().collect());
        assert_eq!(of(&[1, 5, 9]), None);
        assert_eq!(of(&[1, 5, 9, 14]), Some(Trend::Growing));
        assert_eq!(of(&[100, 104, 99, 101]), Some(Trend::Level));
        assert_eq!(of(&[1, 1, 2, 2]), Some(Trend::Level));
        assert_eq!(of(&[90, 50, 20, 3]), Some(Trend::Falling));
        assert_eq!(of(&[3, 50, 20, 90]), Some(Trend::Uneven));
    }

    #[test]
    fn windows_end_only_while_there_is_something_to_count() {
        let mut services = services();
        assert_eq!(services.poll_timeout(), None);
        enter(&mut services, 1);
        assert_eq!(services.poll_timeout(), Some(at(10)));
        for window in 1..=4 {
            services.handle_timeout(at(window * 10));
        }
        assert_eq!(services.flow(Service::of(&socket()), None, at(41)).unwrap().trend, Some(Trend::Level));
    }

    #[test]
    fn what_is_quiet_is_forgotten_and_what_is_too_much_is_not_kept() {
        let mut services = services();
        enter(&mut services, 1);
        close(&mut services, 1, 2);
        services.handle_timeout(at(700));
        assert_eq!(services.flow(Service::of(&socket()), None, at(700)), None);
        for port in 0..LIMIT + 10 {
            services.entered(&towards(port), at(701), false);
        }
        assert_eq!((services.services.len(), services.ungrouped()), (REMOTES, (LIMIT - REMOTES + 10) as u64));
        for port in 0..LIMIT {
            services.entered(&socket_on_port(u16::try_from(port + 1000).unwrap()), at(702), false);
        }
        assert_eq!((services.services.len(), services.ungrouped()), (LIMIT, LIMIT as u64 + 10));
    }

    #[test]
    fn a_crowd_that_has_gone_gives_way_the_longest_quiet_first_and_those_with_sockets_stay() {
        let mut services = services();
        let ends = |count: usize| (0..count).map(towards);
        for (number, socket) in ends(REMOTES).enumerate() {
            let entered = at(1 + number as u64 % 8);
            services.entered(&socket, entered, false);
            // The first one stays.
            if number > 0 {
                services.left(&socket, entered, Some(entered), None, How::Closed);
            }
        }
        services.handle_timeout(at(10));
        assert_eq!(services.services.len(), KEPT);
        assert!(services.services.contains_key(&Service::of(&towards(0))), "it has a socket");
        assert!(!services.services.contains_key(&Service::of(&towards(8))), "quiet since second 1");
        assert!(services.services.contains_key(&Service::of(&towards(7))), "quiet since second 8");
        services.entered(&towards(9999), at(11), false);
        assert_eq!((services.services.len(), services.ungrouped()), (KEPT + 1, 0));
    }

    #[test]
    fn a_service_never_has_more_than_its_cohorts() {
        let mut services = services();
        for second in 0..2000 {
            enter(&mut services, second);
        }
        let counted = services.services.values().next().unwrap();
        assert_eq!((counted.cohorts.len(), counted.cohorts.capacity()), (COHORTS, COHORTS));
        assert_eq!(size_of::<Cohort>(), 16);
    }
}
