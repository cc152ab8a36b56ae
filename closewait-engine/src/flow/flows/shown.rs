//! Facts about flows that metrics show beside their counts: service, oldest socket, last verdict.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Flows;
use crate::{
    flow::group_key::FlowKey,
    flow::growth::Growth,
    model::{Class, Limit, Pileup, Since, SocketKey},
    snapshot::urgency::Severity,
    text::harmless_field,
    time::BootTime,
};

/// Maximum number of flows that one count names, at some microseconds each; the others wait for the next counts.
const MAX_NAMED_AT_ONCE: usize = 256;
/// Age at which the name of a service is looked up again: an inspection may have found a better one.
const NAME_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Facts about a flow with stuck sockets or an incident.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ShownFacts {
    /// Entry and key of the oldest socket at the last count.
    oldest: Option<(BootTime, SocketKey)>,
    /// Last count with stuck sockets or an open incident.
    last_stuck: Option<BootTime>,
    /// Name of the service, also after its last socket has exited.
    #[serde(deserialize_with = "harmless_field")]
    service: Option<String>,
    /// Socket whose owner has the name, and the time of the lookup.
    named: Option<(SocketKey, BootTime)>,
    judgement: Option<IncidentJudgement>,
}

/// Verdict on an incident, and its forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IncidentJudgement {
    pub(crate) class: Class,
    pub(crate) severity: Severity,
    /// Limit that is exhausted first, and the time at which it is.
    pub(crate) exhausted: Option<(Limit, BootTime)>,
}

impl IncidentJudgement {
    /// Returns the judgement in a report of an incident at `at`.
    pub(crate) fn new(at: BootTime, pileup: &Pileup) -> Self {
        let exhausted = pileup.forecast.map(|forecast| (forecast.limit, at + forecast.left));
        Self { class: pileup.verdict.class, severity: pileup.severity(), exhausted }
    }
}

/// Flow with stuck sockets or an open incident, now or shortly before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownFlow<'a> {
    pub(crate) key: FlowKey,
    pub(crate) service: Option<&'a str>,
    /// Number of stuck sockets at the last count.
    pub(crate) stuck: u64,
    /// Entry of the oldest socket at the last count; `None` without sockets.
    pub(crate) oldest: Option<BootTime>,
    /// Last judgement of the open incident; `None` without one.
    pub(crate) incident: Option<IncidentJudgement>,
}

impl ShownFacts {
    /// Begins a count.
    pub(super) fn start(&mut self) {
        self.oldest = None;
    }

    /// Counts a socket.
    pub(super) fn present(&mut self, since: Since, key: SocketKey) {
        let entered = (since.latest(), key);
        self.oldest = Some(self.oldest.map_or(entered, |oldest| oldest.min(entered)));
    }

    /// Whether the name is missing, of a socket that is not the oldest any more, or old.
    fn is_name_due(&self, now: BootTime) -> bool {
        let Some((_, oldest)) = self.oldest else { return false };
        self.named.is_none_or(|(of, at)| of != oldest || now.since(at) >= NAME_REFRESH_INTERVAL)
    }
}

impl Flows {
    /// Looks up the names of services with stuck sockets or an open incident, after a count at `now`. `name` returns the name of
    /// a socket's owner. An unknown owner does not replace a known name.
    pub(crate) fn name_stuck(&mut self, now: BootTime, name: impl Fn(SocketKey) -> Option<String>) {
        let mut named = 0;
        for stats in self.flows.values_mut() {
            let incident = stats.growth.as_deref().filter(|growth| growth.incident().is_some());
            if stats.latest.stuck.present == 0 && incident.is_none() {
                continue;
            }
            let shown = &mut stats.shown;
            shown.last_stuck = Some(now);
            if !shown.is_name_due(now) || named >= MAX_NAMED_AT_ONCE {
                continue;
            }
            named += 1;
            // Events of an incident name the owner of most sockets.
            let reported = incident.and_then(Growth::reported_service).map(str::to_owned);
            let found = reported.or_else(|| shown.oldest.and_then(|(_, oldest)| name(oldest)));
            shown.service = found.or_else(|| shown.service.take());
            shown.named = shown.oldest.map(|(_, oldest)| (oldest, now));
        }
    }

    /// Stores the judgement of an inspection.
    pub(crate) fn judged(&mut self, key: FlowKey, judgement: IncidentJudgement) {
        if let Some(stats) = self.flows.get_mut(&key) {
            stats.shown.judgement = Some(judgement);
        }
    }

    /// Returns the flows with stuck sockets or an open incident at most `kept` before `now`.
    pub(crate) fn shown(&self, now: BootTime, kept: Duration) -> impl Iterator<Item = ShownFlow<'_>> {
        self.flows.iter().filter_map(move |(key, stats)| {
            let shown = &stats.shown;
            let is_open = stats.growth.as_deref().and_then(Growth::incident).is_some();
            let is_shown = is_open || shown.last_stuck.is_some_and(|last| now.since(last) <= kept);
            is_shown.then_some(ShownFlow {
                key: *key,
                service: shown.service.as_deref(),
                stuck: stats.latest.stuck.present,
                oldest: shown.oldest.map(|(entered, _)| entered),
                incident: shown.judgement.filter(|_| is_open),
            })
        })
    }
}
