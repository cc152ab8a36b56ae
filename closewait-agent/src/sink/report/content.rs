//! Content of a report for people, the same in every format. All texts are harmless for a terminal, and not escaped for any other
//! format.

use super::{ReportPage, ReportSource, chart::CountChart, timeline::Timeline};
use crate::sink::{
    command::with_socket,
    list::{missing, still_open},
    stacks::{frame_lines, owner_clause, pinned_line},
    status::{headline, is_calm, label, port, used_limit, who},
    text::{dwell, losses},
};
use closewait_engine::{
    model::{
        Evidence, Forecast, IncidentReport, Limit, Oldest, Pileup, ReadState, ReportedGroup, ResolvedIncident,
        UnixBackend,
    },
    snapshot::urgency::Severity,
    stacks::{ConnectStacks, StackGroup},
    text::duration,
    time::BootTime,
    unread::UnreadRequests,
};

/// Maximum number of activities of threads.
const MAX_ACTIVITIES: usize = 5;
/// Maximum number of groups of stacks.
const MAX_STACKS: usize = 3;

/// Report as texts.
pub(super) struct ReportTexts<'a> {
    /// Host, time and origin, in one sentence.
    pub(super) head: String,
    /// Number of sockets and groups.
    pub(super) summary: String,
    /// Groups that need attention, the most urgent first.
    pub(super) problems: Vec<ProblemTexts<'a>>,
    /// Groups that need none, one line each.
    pub(super) calm: Vec<String>,
    /// Resolved incidents, the latest first.
    pub(super) resolved: Vec<ResolvedTexts<'a>>,
    /// Gaps of the report, or the statement that there are none. A text can have several lines.
    pub(super) gaps: Vec<String>,
}

/// Group that needs attention.
pub(super) struct ProblemTexts<'a> {
    /// Class in capitals.
    pub(super) label: String,
    pub(super) severity: Severity,
    /// Owner, port and numbers.
    pub(super) title: String,
    /// Limit that is reached or ahead.
    pub(super) limit: Option<LimitText>,
    pub(super) cause: String,
    /// Class, certainty and rule of the cause.
    pub(super) certainty: String,
    pub(super) next: String,
    pub(super) command: String,
    pub(super) timeline: Timeline,
    pub(super) chart: Option<CountChart<'a>>,
    /// Names and values of further facts.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Stacks of the owner's threads that do something.
    pub(super) stacks: Vec<StackTexts>,
}

/// Stack of some threads.
pub(super) struct StackTexts {
    /// Number of threads, and what they do.
    pub(super) headline: String,
    /// Frames, innermost first.
    pub(super) frames: Vec<String>,
}

/// Text about a limit.
pub(super) struct LimitText {
    pub(super) is_reached: bool,
    pub(super) text: String,
}

/// Resolved incident.
pub(super) struct ResolvedTexts<'a> {
    /// Owner, port, and the way in which the incident ended.
    pub(super) title: String,
    /// Diagnosis at the last report.
    pub(super) cause: Option<String>,
    pub(super) timeline: Timeline,
    pub(super) chart: Option<CountChart<'a>>,
}

impl<'a> ReportTexts<'a> {
    pub(super) fn new(page: &ReportPage<'a>) -> Self {
        let report = page.report;
        let (calm, problems): (Vec<_>, Vec<_>) =
            report.groups.iter().partition(|group| is_calm(&group.pileup) && group.course.is_none());
        let calm = calm.into_iter().map(|ReportedGroup { pileup, .. }| {
            let (who, port) = (who(pileup), port(&pileup.group));
            let (label, numbers) = (label(pileup), pileup.numbers("in CLOSE_WAIT"));
            format!("{label}  {who} {port}: {numbers}; {}", pileup.verdict.text)
        });
        let mut calm: Vec<String> = calm.collect();
        if report.more > 0 {
            calm.push(format!("and {}", closewait_engine::text::count(report.more, "less urgent group")));
        }
        Self {
            head: head(page),
            summary: headline(report),
            problems: problems.into_iter().map(|group| ProblemTexts::new(group, page)).collect(),
            calm,
            resolved: report.resolved.iter().rev().map(|one| ResolvedTexts::new(one, page)).collect(),
            gaps: gaps(page),
        }
    }
}

fn head(page: &ReportPage<'_>) -> String {
    let IncidentReport { at, host, watched, .. } = page.report;
    let on = host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
    let origin = match (page.source, watched) {
        (ReportSource::Host, Some(watched)) => format!("agent, watched {}", duration(*watched)),
        (ReportSource::Host, None) => "one scan: growth and history are unknown".to_owned(),
        (ReportSource::Recording(name), Some(watched)) => format!("recording {name}, watched {}", duration(*watched)),
        (ReportSource::Recording(name), None) => format!("recording {name}"),
    };
    format!("CLOSE_WAIT{on} at {} UTC, by closewait {} ({origin})", page.date(*at), page.version)
}

/// Returns what the report may lack.
pub(super) fn gaps(page: &ReportPage<'_>) -> Vec<String> {
    let IncidentReport { untracked, unseen, watched, totals, matching, .. } = page.report;
    // These numbers have no filter.
    let of_host = |text: String| if matching.is_some() { format!("all of this host: {text}") } else { text };
    let mut gaps: Vec<String> = still_open(page.report).map(of_host).into_iter().collect();
    gaps.extend(missing(*untracked, unseen.as_deref()).map(of_host));
    gaps.extend(page.notes.iter().cloned());
    // A scan is one moment, in which nothing can get lost.
    if watched.is_some() {
        gaps.push(of_host(losses(*totals)));
    }
    gaps
}

impl<'a> ProblemTexts<'a> {
    /// Returns the texts of a group.
    pub(super) fn new(group: &'a ReportedGroup, page: &ReportPage<'a>) -> Self {
        let ReportedGroup { pileup, course, .. } = group;
        let verdict = &pileup.verdict;
        let timeline = Timeline::of_group(group, page);
        Self {
            label: label(pileup),
            severity: pileup.severity(),
            title: format!("{} {}: {}", who(pileup), port(&pileup.group), numbers(pileup, page)),
            limit: limit(group, page),
            cause: verdict.text.clone(),
            certainty: format!("{}, {} (rule {})", verdict.class.name(), verdict.certainty.name(), verdict.rule),
            next: verdict.next.text.clone(),
            command: with_socket(&pileup.command(), page.socket).into_owned(),
            timeline,
            chart: course.as_ref().and_then(CountChart::new),
            facts: facts(group, page),
            stacks: stack_texts(&pileup.evidence, page.report.at),
        }
    }
}

/// Returns the stacks of threads that do something, for a report at `now`.
fn stack_texts(evidence: &Evidence, now: BootTime) -> Vec<StackTexts> {
    let Some(stacks) = evidence.stacks.as_deref() else { return Vec::new() };
    let as_of = stacks.as_of(now);
    let texts = |group: &StackGroup| {
        let since = group.since.filter(|since| stacks.at > *since);
        let lasting = since.map(|since| format!(", for at least {}", duration(stacks.at.since(since))));
        let owner = owner_clause(group.lock_owner.as_ref(), ", ");
        let headline = format!("{}{}{owner}{as_of}", group.headline(), lasting.unwrap_or_default());
        StackTexts { headline, frames: frame_lines(group) }
    };
    let pinned = stacks
        .pinned_carriers()
        .map(|pinned| StackTexts { headline: pinned_line(&pinned) + &as_of, frames: Vec::new() });
    let others = stacks.working_groups().skip(MAX_STACKS).count();
    let more = (others > 0).then(|| StackTexts {
        headline: format!(
            "and {} of threads: `closewait stacks PID` shows all",
            closewait_engine::text::count(others as u64, "more group")
        ),
        frames: Vec::new(),
    });
    pinned.into_iter().chain(stacks.working_groups().take(MAX_STACKS).map(texts)).chain(more).collect()
}

/// Returns the numbers of a group, and the time without a close.
fn numbers(pileup: &Pileup, page: &ReportPage<'_>) -> String {
    let mut text = pileup.numbers("in CLOSE_WAIT");
    if page.report.watched.is_some() {
        text.push_str(&match pileup.onset.last_closed {
            Some(closed) => format!("; last close {} ago", duration(page.report.at.since(closed))),
            None => "; no close seen".to_owned(),
        });
    }
    text
}

/// Returns an amount of a limit: `368 of 1024 descriptors`.
pub(super) fn amount((limit, used, most): (Limit, u64, u64)) -> String {
    match limit {
        Limit::Descriptors => format!("{used} of {most} descriptors"),
        Limit::Backlog => format!("{used} in a backlog of {most}"),
        Limit::Connections => format!("{used} of {most} connections"),
    }
}

/// Returns an amount of a limit as a sentence: `368 of 1024 descriptors are used`.
fn in_use((limit, used, most): (Limit, u64, u64)) -> String {
    match limit {
        Limit::Descriptors | Limit::Connections => format!("{} are used", amount((limit, used, most))),
        Limit::Backlog if used == 1 => format!("1 connection waits in a backlog of {most}"),
        Limit::Backlog => format!("{used} connections wait in a backlog of {most}"),
    }
}

/// Returns the text about the limit that is reached, or exhausted first.
pub(super) fn limit(group: &ReportedGroup, page: &ReportPage<'_>) -> Option<LimitText> {
    let ReportedGroup { pileup, course, .. } = group;
    let used = used_limit(pileup)?;
    if let Some(limit) = pileup.reached_limit() {
        let since = course.as_ref().and_then(|course| super::timeline::reached(course, limit));
        let since = since.map(|at| format!(", since {}", page.clock(at))).unwrap_or_default();
        let mut text = format!("{}{since}", in_use(used));
        let unaccepted = pileup.evidence.unaccepted;
        if unaccepted > 0 && limit != Limit::Backlog {
            text.push_str(&format!("; {unaccepted} more wait to be accepted"));
        }
        return Some(LimitText { is_reached: true, text });
    }
    let Forecast { left, .. } = pileup.forecast?;
    let text = format!("{}, full at {}", in_use(used), page.clock(page.report.at + left));
    Some(LimitText { is_reached: false, text })
}

/// Returns the state of a socket's received data.
pub(super) const fn read_text(state: ReadState) -> &'static str {
    match state {
        ReadState::NeverRead => "never read",
        ReadState::Probe => "without data, end not read",
        ReadState::IdleFin => "all data read, end not read",
        ReadState::Goodbye => "read except for a short rest",
        ReadState::Partial => "partly read",
        ReadState::FinConsumed => "read to the end",
    }
}

/// Formats one of the oldest sockets: `fd 5 127.0.0.1:54804 for 1m19s`.
pub(super) fn socket(oldest: &Oldest) -> String {
    let fd = match oldest.owners.as_deref() {
        Some([one]) => format!("fd {} ", one.fd),
        Some([first, ..]) => format!("fd {} of {}[{}], and others ", first.fd, first.task.comm, first.task.pid),
        Some([]) | None => String::new(),
    };
    format!("{fd}{} for {}", oldest.remote, dwell(oldest.dwell))
}

pub(super) fn facts(group: &ReportedGroup, page: &ReportPage<'_>) -> Vec<(&'static str, String)> {
    let ReportedGroup { pileup, stuck, course, .. } = group;
    let Pileup { owners, evidence, onset, .. } = pileup;
    let stuck_after = duration(page.report.stuck_after);
    let mut facts = vec![("stuck", format!("{stuck} for more than {stuck_after}"))];
    let list = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join(", "));
    let mut add = |name: &'static str, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    add("first sockets", list(evidence.oldest.iter().map(socket).collect()));
    add("read", list(evidence.reads.iter().map(|(state, count)| format!("{count} {}", read_text(*state))).collect()));
    add("unread", evidence.unread.as_ref().map(UnreadRequests::text));
    add("opened in", evidence.connects.as_ref().and_then(ConnectStacks::text));
    add("ages", Some(format!("p50 {}, p90 {}", duration(evidence.median), duration(evidence.p90))));
    let remotes = evidence.top_remotes.iter().map(|(address, count)| format!("{address} {count}"));
    let more = u64::from(evidence.remotes).saturating_sub(evidence.top_remotes.len() as u64);
    let more = (more > 0).then(|| closewait_engine::text::count(more, "more address"));
    add("peers", list(remotes.chain(more).collect()));
    let owners = owners.as_deref().filter(|owners| owners.len() > 1).unwrap_or_default();
    add("owners", list(owners.iter().map(|(task, count)| format!("{}[{}] {count}", task.comm, task.pid)).collect()));
    if let Some(process) = evidence.process.as_deref() {
        let place =
            |group: &closewait_engine::process::ThreadGroup| Some(format!("{} in {}", group.count, group.place()?));
        let places: Vec<String> = process.groups.iter().filter_map(place).take(MAX_ACTIVITIES).collect();
        add("threads", evidence.activity(page.report.at));
        add("calls", list(places));
        add("descriptors", process.descriptors().map(|(open, limit)| format!("{open} of {limit} open")));
    }
    if let Some((backlog, most)) = evidence.backlog.filter(|(backlog, _)| *backlog > 0) {
        let first = onset.unaccepted_since.map(|since| format!(", the first since {}", page.clock(since)));
        add("backlog", Some(format!("{backlog} of {most} wait to be accepted{}", first.unwrap_or_default())));
    }
    add("waits for", evidence.proxy_peer.as_ref().map(|peer| peer.socket.remote.to_string()));
    let backend = |backend: &UnixBackend| {
        let connections = closewait_engine::text::count(backend.connections, "connection");
        format!("{connections} to {backend}, {} not accepted", backend.queued)
    };
    add("UNIX sockets", evidence.unix.as_ref().and_then(|unix| list(unix.iter().map(backend).collect())));
    add("incident", course.as_ref().map(|course| course.id.to_string()));
    facts
}

impl<'a> ResolvedTexts<'a> {
    pub(super) fn new(resolved: &'a ResolvedIncident, page: &ReportPage<'a>) -> Self {
        let ResolvedIncident { at, end, course } = resolved;
        let name = end.service.as_deref().unwrap_or("unknown owner");
        let cause = end.last.as_ref().map(|last| {
            format!("{}, {} (rule {}), at {}", last.class.name(), last.certainty.name(), last.rule, page.clock(last.at))
        });
        Self {
            title: format!("{name} {}: {}", port(&end.group), end.numbers(*at)),
            cause,
            timeline: Timeline::of_resolved(course, page),
            chart: CountChart::new(course),
        }
    }
}
