//! Reports of incidents, with the evidence that a restart would destroy.

mod counts;

use std::{collections::BTreeSet, time::Duration};

use self::counts::{FlowCounts, shown};
use super::{Course, Inspected, LEVEL_PERIOD, LastReport};
use crate::{
    Engine,
    diagnose::grouping::Grouping,
    diagnose::{self, Growing},
    flow::flows::{Flows, IncidentJudgement},
    flow::group_key::FlowKey,
    flow::port_watch::OldestOfPorts,
    model::{
        Certainty, Class, Evidence, Finding, Forecast, IncidentCourse, IncidentId, LastDiagnosis, Limit, Milestone,
        MilestoneKind, Moment, Onset, Output, Pileup, PileupEnd, ResolvedIncident, Shape, Since, Slope, SocketKey,
        Verdict,
    },
    process::Process,
    snapshot::metrics::service_of,
    time::BootTime,
    track::socket_view::SocketView,
    unread::UnreadRequests,
};

/// Maximum number of groups that one inspection reports; the others wait for the next inspection.
const MAX_REPORTED_AT_ONCE: usize = 32;
/// Maximum number of a group's oldest sockets in a report.
const MAX_OLDEST: usize = 5;
/// Maximum number of a suspected group's sockets that are refreshed before the report.
const MAX_REFRESHED: usize = 32;
/// Maximum number of remote addresses in a report.
const MAX_TOP_REMOTES: usize = 3;
/// Maximum number of resolved incidents that the engine keeps for a report.
const MAX_RESOLVED: usize = 16;

/// Interval of reminders of sockets that are still stuck.
const STILL_STUCK_INTERVAL: Duration = Duration::from_secs(60);

/// Limit with its used amount at the last reading.
#[derive(Clone, Copy)]
struct Used {
    limit: Limit,
    used: u64,
    most: u64,
    /// Share of the group's growth that counts towards the limit, 0 to 1.
    share: f64,
    at: BootTime,
}

impl Used {
    /// Returns the forecast for a limit that is reached.
    fn reached(self) -> Forecast {
        let Self { limit, used, most, share: _, at } = self;
        let now = Duration::ZERO;
        Forecast { limit, used, most, read_at: at, left: now, at_least: now, at_most: Some(now) }
    }
}

impl Engine {
    /// Counts the sockets at `now`, and reports the incidents that have ended.
    pub(crate) fn count(&mut self, now: BootTime) {
        let Some(flows) = &mut self.flows else { return };
        if !flows.is_count_due(now) {
            return;
        }
        let watches = self.config.reads_progress && self.config.named;
        let mut oldest = OldestOfPorts::default();
        let mut counted = |one: SocketView<'_>| {
            let flow_key = self.group_keys.flow_of(one);
            if watches {
                oldest.present(now, flow_key, one.since(), one.key());
            }
            flow_key
        };
        let abandoned: Vec<_> = self.lingering.maybe_abandoned().map(|one| (counted(one), one.latest())).collect();
        let sockets = self.tracker.stored().map(|one| (counted(one), one.since(), one.key()));
        let ended = flows.handle_timeout(now, sockets, abandoned.into_iter());
        if let Some(ports) = watches.then(|| self.port_watch.update(oldest)).flatten() {
            self.host_context.watch(&ports, now);
            self.outputs.push_back(Output::WatchPorts(ports));
        }
        flows.log_descriptors(|pid| {
            let open = self.host_context.processes().get(&pid)?.fds_open?;
            Some((self.host_context.inspected_at(pid)?, open))
        });
        flows.name_stuck(now, |key| service_of(self.tracker.get(key)?, &self.host_context));
        for (flow_key, ended) in ended {
            let super::EndedIncident { id, began, onset, last, count, most, how, course } = ended;
            let last = last.map(|last| *last);
            let (service, last) =
                last.map_or((None, None), |LastReport { service, diagnosis }| (service, Some(diagnosis)));
            let group = flow_key.group();
            let end = Box::new(PileupEnd { id, group, service, began, onset, last, count, most, how });
            let course = course.unwrap_or_else(|| course_without_log(&end, now));
            if self.resolved.len() >= MAX_RESOLVED {
                self.resolved.pop_front();
            }
            self.resolved.push_back(ResolvedIncident { at: now, end: (*end).clone(), course });
            self.find(Finding::PileupEnd { at: now, end });
        }
        self.count_stuck(now);
    }

    /// Reminds once a minute of sockets that are still stuck.
    fn count_stuck(&mut self, now: BootTime) {
        let counts = self.flows.as_ref().map(Flows::stuck_counts).unwrap_or_default();
        match self.still_stuck {
            _ if counts.groups == 0 => self.still_stuck = None,
            Some(due) if now < due => {}
            due => {
                self.still_stuck = Some(now + STILL_STUCK_INTERVAL);
                if due.is_some() {
                    self.outputs.push_back(Output::StillStuck { at: now, counts });
                }
            }
        }
    }

    /// Returns the flows whose growth is suspected.
    pub(crate) fn suspects(&self) -> BTreeSet<FlowKey> {
        self.flows.as_ref().map(|flows| flows.suspects(MAX_REPORTED_AT_ONCE)).unwrap_or_default()
    }

    /// Returns the oldest sockets of the suspected flows, which are refreshed before the report.
    pub(crate) fn oldest_of_suspects(&self) -> Vec<SocketKey> {
        let suspects = self.suspects();
        if suspects.is_empty() {
            return Vec::new();
        }
        let members = self.members(|flow_key| suspects.contains(&flow_key));
        let sorted = members.values().map(|members| members.oldest_first(BootTime(u64::MAX)));
        sorted.flat_map(|members| members.into_iter().take(MAX_REFRESHED).map(SocketView::key)).collect()
    }

    /// Reports the incidents of suspected flows, as of `at`, the end of their inspection: everything in a report is a fact of that
    /// moment, or has a time of its own.
    pub(crate) fn report_pileups(&mut self, at: BootTime) {
        let suspects = self.suspects();
        if suspects.is_empty() {
            return;
        }
        let grouping = self.grouping(at);
        let members = self.members_in(&grouping, |flow_key| suspects.contains(&flow_key));
        let pileups: Vec<_> = suspects
            .iter()
            .map(|flow_key| {
                let pileup = members.get(flow_key).and_then(|members| {
                    let members = members.oldest_first(at);
                    let pileup = self.pileup(*flow_key, &members, &grouping, at)?;
                    let entries: Vec<Since> = members.iter().map(|one| one.since()).collect();
                    let id = IncidentId::new(&self.config.host, &pileup.group, identifying_onset(&entries)?);
                    let entries = match pileup.incident {
                        Some(_) => Vec::new(),
                        None => entries.into_iter().map(Since::latest).collect(),
                    };
                    Some((id, pileup, entries))
                });
                (*flow_key, pileup)
            })
            .collect();
        for (flow_key, pileup) in pileups {
            let Some(flows) = &mut self.flows else { return };
            let pileup = pileup.filter(|(_, pileup, _)| !pileup.is_benign());
            if let Some((_, pileup, _)) = &pileup {
                flows.judged(flow_key, IncidentJudgement::new(at, pileup));
            }
            let seen = pileup.as_ref().map(|(id, Pileup { count, owners, onset, forecast, .. }, entries)| Inspected {
                id: *id,
                count: *count,
                onset: onset.first_stuck,
                forecast: *forecast,
                last_closed: onset.last_closed,
                first_unaccepted: onset.unaccepted_since,
                owner: owners.as_deref().and_then(|owners| owners.first()).map(|(task, _)| task.pid),
                entries: entries.clone(),
                began: self.began,
            });
            let pileup = pileup.map(|(_, pileup, _)| pileup);
            let Some((incident, pileup)) = flows.inspected(flow_key, at, seen.as_ref()).zip(pileup) else { continue };
            let diagnosis = LastDiagnosis::new(at, &pileup.verdict);
            flows.reported(flow_key, LastReport { service: pileup.service().label(), diagnosis });
            let pileup = Box::new(Pileup { incident: Some(incident), ..pileup });
            self.find(Finding::Pileup { at, pileup });
        }
    }

    /// Returns the connection limit that the user set for the flow's port.
    fn connection_limit(&self, flow_key: FlowKey) -> Option<u64> {
        let port = match flow_key {
            FlowKey::Port(_, port) => port,
            FlowKey::Remote(_, remote) => remote.port,
            FlowKey::Rest => return None,
        };
        let limits = self.config.connection_limits.iter();
        limits.filter(|(of, _)| *of == port).map(|(_, most)| u64::from(*most)).min()
    }

    pub(crate) fn pileup(
        &self,
        flow_key: FlowKey,
        members: &[SocketView<'_>],
        grouping: &Grouping<'_>,
        now: BootTime,
    ) -> Option<Pileup> {
        let flows = self.flows.as_ref();
        let growth = flows.and_then(|flows| flows.growth(flow_key));
        let flow = |onset| flows.and_then(|flows| flows.flow(flow_key, onset, now));
        let last_closed = flow(None).and_then(|flow| flow.last_closed);
        let longest = flows.and_then(|flows| flows.longest_healthy(flow_key));
        let first = first_of_growth(members, last_closed, longest);
        let (grown, onset) = (members.get(first..)?, members.get(first)?.latest());
        let course = growth.map(|growth| growth.course(onset));
        let stuck_permille = flow(Some(onset)).and_then(|flow| flow.stuck_permille_since_onset());
        let stuck_permille = stuck_permille.or_else(|| course.and_then(|course| course.stuck_permille()));
        let FlowCounts { owners, scanned, reads, remotes, unaccepted, unaccepted_since, ended, ages: age_counts } =
            FlowCounts::of(members, first, now);
        // A port or remote endpoint can have several owners, and each a cause of its own: the owner of most sockets counts.
        let main = owners.as_deref().and_then(|owners| owners.first()).map(|(task, _)| task.pid);
        let of_main = |one: &&SocketView<'_>| {
            one.owners().is_some_and(|owners| owners.iter().any(|owner| Some(owner.task.pid) == main))
        };
        let oldest = *grown.iter().find(of_main).or(grown.first())?;
        let (oldest_socket, oldest_owners) = (oldest.socket(), oldest.owners());
        let oldest_owners = oldest_owners.as_deref();
        let process = match main {
            Some(pid) => self.host_context.processes().get(&pid),
            None => grouping.process(&oldest_socket, oldest_owners),
        };
        let origins = grouping.origins(&oldest_socket);
        let listener = origins.listener;
        let backlog = listener.map(|seen| (seen.what.backlog, seen.what.backlog_max));
        // Of more processes than one inspection reads, the name is known.
        let accepts = listener
            .and_then(|seen| seen.owners.first())
            .filter(|_| main.is_none() && oldest_socket.accepted == Some(false));
        let unread = || accepts.map(|owner| Process::unread(owner.task.pid, owner.task.comm.clone()));
        let ages = |permille: usize| {
            // The oldest sockets come first.
            let at = (members.len() - 1) * (1000 - permille) / 1000;
            members.get(at).map_or(Duration::ZERO, |one| one.dwell(now).at_least())
        };
        let waits = unaccepted * 2 > members.len();
        let process_at = process.and_then(|process| self.host_context.inspected_at(process.pid));
        let backlog_at = listener.map(|seen| seen.at);
        let own = owners.as_deref().and_then(|owners| owners.first()).map_or(0, |(_, own)| *own);
        // The backlog holds one more than the limit (`sk_acceptq_is_full`, include/net/sock.h at v5.10).
        let waiting = backlog.zip(backlog_at).map(|((used, most), at)| Used {
            limit: Limit::Backlog,
            used: used.into(),
            most: u64::from(most) + 1,
            share: 1.0,
            at,
        });
        let open = process.and_then(|process| process.descriptors()).map(|(used, most)| Used {
            limit: Limit::Descriptors,
            used,
            most,
            // The owners of sockets that entered after the scan are not known yet.
            share: f64::from(own) / scanned.max(1) as f64,
            at: process_at.unwrap_or(now),
        });
        let count = members.len() as u64;
        let connections = self.connection_limit(flow_key);
        let connections =
            connections.map(|most| Used { limit: Limit::Connections, used: count, most, share: 1.0, at: now });
        // Only accepted sockets use descriptors of the process.
        let growing = [if waits { waiting } else { open }, connections].into_iter().flatten();
        let forecasts = growing.filter_map(|used| course?.forecast(used, now));
        let forecast = connections.filter(|used| used.used >= used.most).map(Used::reached);
        let forecast = forecast.or_else(|| forecasts.min_by_key(|forecast| forecast.left));
        let is_undecided = |verdict: &Verdict| {
            matches!(verdict.class, Class::Transient | Class::Unknown) && verdict.certainty == Certainty::Low
        };
        let (judged, proxy_peer) = grouping.judge(oldest, origins, |_, _| true);
        // An accepted one of which nothing is known does not stand for the others, most of which no program accepts.
        let find_unaccepted = || grown.iter().find(|one| one.accepted() == Some(false));
        let judged = match (waits && is_undecided(&judged)).then(find_unaccepted).flatten() {
            Some(one) => grouping.judge(*one, grouping.origins(&one.socket()), |_, _| true).0,
            None => judged,
        };
        let grows = course
            .filter(|course| is_undecided(&judged) && matches!(course.shape, Shape::Linear | Shape::Accelerating));
        // A close in another state, as of a program that closes first, shows as well that the program closes.
        let closes = match flow_key {
            FlowKey::Port(netns, port) => self.host_context.closes(netns, port, now).and_then(|closes| closes.last),
            FlowKey::Remote(..) | FlowKey::Rest => None,
        };
        let group = flow_key.group();
        let verdict = grows.map_or(judged, |course| {
            diagnose::growth(&Growing {
                group: &group,
                entered_per_second: course.entered_per_second,
                stuck_permille,
                since: now.since(onset),
                owner: owners.as_deref().and_then(|owners| owners.first()).map(|(task, _)| task),
                process,
                now,
            })
        });
        let history = growth.map(|growth| growth.history()).unwrap_or_default();
        let moments = history.windows(2).map(|pair| Moment {
            at: pair[1].at,
            count: pair[1].present,
            entered: pair[1].entered - pair[0].entered,
            left: pair[1].left - pair[0].left,
        });
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let evidence = Evidence {
            oldest: grown.iter().take(MAX_OLDEST).map(|one| shown(*one, now)).collect(),
            median: ages(500),
            p90: ages(900),
            ages: age_counts,
            reads,
            unaccepted: number(unaccepted),
            remotes: number(remotes.len()),
            top_remotes: remotes.into_iter().take(MAX_TOP_REMOTES).collect(),
            process: process.cloned().or_else(unread).map(Box::new),
            process_at,
            stacks: process.and_then(|process| process.stacks.clone()),
            unread: UnreadRequests::of(members.iter().filter_map(|one| self.host_context.unread(*one))),
            connects: process.zip(flow_key.remote()).and_then(|(process, (netns, remote))| {
                self.host_context.connect_stacks(process, netns, remote).cloned()
            }),
            unix: grouping.unix_backends(oldest),
            workload: self.host_context.workload(&oldest_socket, oldest_owners).cloned().map(Box::new),
            backlog,
            backlog_at,
            proxy_peer: proxy_peer.cloned(),
            history: moments.collect(),
        };
        let pileup = Pileup {
            group,
            incident: flows.and_then(|flows| flows.incident(flow_key)),
            count,
            ended: ended as u64,
            owners,
            shape: course.map(|course| course.shape),
            slope: course.and_then(|course| course.slope),
            entered_per_second: course.map(|course| course.entered_per_second),
            left_per_second: course.map(|course| course.left_per_second),
            stuck_permille,
            onset: Onset { first_stuck: onset, last_closed: last_closed.max(closes), unaccepted_since },
            forecast,
            verdict,
            evidence,
        };
        let reached = match pileup.reached_limit() {
            Some(Limit::Descriptors) => open.map(Used::reached),
            Some(Limit::Backlog) => waiting.map(Used::reached),
            Some(Limit::Connections) | None => None,
        };
        Some(Pileup { forecast: reached.or(pileup.forecast), ..pileup })
    }
}

impl Course {
    /// Returns the share of the entering sockets that remain, in thousandths; `None` if none enters.
    fn stuck_permille(&self) -> Option<u64> {
        let share = 1.0 - self.left_per_second / self.entered_per_second;
        (self.entered_per_second > 0.0).then(|| (share.clamp(0.0, 1.0) * 1000.0) as u64)
    }

    /// Returns the time to exhaustion of a limit; `None` unless the count grows along a line.
    fn forecast(&self, of: Used, now: BootTime) -> Option<Forecast> {
        let Slope { per_second, error } = self.slope.filter(|slope| self.fits && slope.per_second > 0.0)?;
        let Used { limit, used, most, share, at } = of;
        let rest = most.saturating_sub(used) as f64;
        let left = |per_second: f64| {
            // The amount has grown since its reading, which may also be a little later than the report.
            let since = now.since(at).as_secs_f64() - at.since(now).as_secs_f64();
            let seconds = rest / (per_second * share) - since;
            Duration::try_from_secs_f64(seconds.max(0.0)).ok()
        };
        Some(Forecast {
            limit,
            used,
            most,
            read_at: at,
            left: left(per_second)?,
            at_least: left(per_second + error)?,
            at_most: Some(per_second - error).filter(|slow| *slow > 0.0).and_then(left),
        })
    }
}

/// Returns the course of an incident without a log that ended at `now`.
fn course_without_log(end: &PileupEnd, now: BootTime) -> IncidentCourse {
    let milestone = |at, kind, count| Milestone { at, kind, count, used: None };
    let milestones = vec![
        milestone(end.onset, MilestoneKind::FirstStuck, None),
        milestone(end.began, MilestoneKind::Detected, None),
        milestone(now, MilestoneKind::Resolved(end.how), Some(end.count)),
    ];
    IncidentCourse { id: end.id, milestones, forecast: None, points: Vec::new() }
}

/// Returns the index of the first socket of the growth among `members`. The growth begins with the first socket that the program
/// would have closed after its last close. If fewer than half of the sockets are later, the program closes others, and all
/// members are part of the growth.
fn first_of_growth(members: &[SocketView<'_>], last_closed: Option<BootTime>, longest: Option<Duration>) -> usize {
    let Some((closed, longest)) = last_closed.zip(longest) else { return 0 };
    let since = members.partition_point(|one| one.latest() + longest < closed);
    if (members.len() - since) * 2 >= members.len() { since } else { 0 }
}

/// Returns the onset that identifies an incident: the first exact entry after the last pause of [`LEVEL_PERIOD`] without an entry,
/// or the latest possible time of the first entry if none is exact. It depends on nothing but the present sockets, so an agent that
/// has just started finds the same onset as the previous one. Bounds do not serve: each agent estimates its own, some milliseconds
/// apart.
fn identifying_onset(entries: &[Since]) -> Option<BootTime> {
    let pause = entries.windows(2).rposition(|pair| pair[1].latest().since(pair[0].latest()) >= LEVEL_PERIOD);
    let growth = entries.get(pause.map_or(0, |pause| pause + 1)..)?;
    let exact = growth.iter().find(|since| matches!(since, Since::Exact(_)));
    exact.or_else(|| growth.first()).map(|since| since.latest())
}

#[cfg(test)]
mod tests;
