//! Timeline of an incident: its milestones, and forecasts against what came about.

use super::{
    ReportPage,
    content::{amount, socket},
};
use closewait_engine::{
    model::{FirstForecast, IncidentCourse, Limit, Milestone, MilestoneKind, Onset, Recovery, ReportedGroup},
    snapshot::urgency::NEAR_LIMIT,
    text::duration,
    time::BootTime,
};

/// Divisor of the time to exhaustion for the error of a forecast that came about as made.
const EXACT_DIVISOR: u32 = 10;

/// Events in order of time.
pub(super) struct Timeline {
    pub(super) rows: Vec<TimelineRow>,
}

/// Event of a timeline.
pub(super) struct TimelineRow {
    /// Time of day, with the date if it is another day than that of the report.
    pub(super) time: String,
    pub(super) what: String,
    /// Counts at that time; empty if unknown.
    pub(super) counts: String,
}

impl Timeline {
    /// Returns the timeline of a group: of its incident, or at least of its sockets.
    pub(super) fn of_group(group: &ReportedGroup, page: &ReportPage<'_>) -> Self {
        let ReportedGroup { pileup, course, .. } = group;
        let mut milestones = match course {
            Some(course) => course.milestones.clone(),
            None => of_onset(&pileup.onset),
        };
        milestones.sort_by_key(|milestone| milestone.at);
        let forecast = course.as_ref().and_then(|course| course.forecast);
        let first = pileup
            .evidence
            .oldest
            .first()
            .filter(|oldest| oldest.dwell.at_least() == page.report.at.since(pileup.onset.first_stuck));
        let row = |milestone: &Milestone| {
            let mut row = row(milestone, forecast.as_ref(), page);
            if milestone.kind == MilestoneKind::FirstStuck
                && milestone.at == pileup.onset.first_stuck
                && let Some(first) = first
            {
                row.counts = socket(first);
            }
            row
        };
        let mut rows: Vec<TimelineRow> = milestones.iter().map(row).collect();
        let ahead = pileup.forecast.filter(|forecast| !forecast.is_reached());
        if let Some(ahead) = ahead {
            let before = forecast.filter(|first| first.limit == ahead.limit && first.made_at < page.report.at);
            let before = before.map(|first| format!("; first forecast: {}", page.clock(first.exhausted_at)));
            rows.push(TimelineRow {
                time: page.clock(page.report.at + ahead.left),
                what: format!("forecast: {}{}", reaches(ahead.limit), before.unwrap_or_default()),
                counts: String::new(),
            });
        }
        Self { rows }
    }

    /// Returns the timeline of a resolved incident.
    pub(super) fn of_resolved(course: &IncidentCourse, page: &ReportPage<'_>) -> Self {
        Self { rows: course.milestones.iter().map(|one| row(one, course.forecast.as_ref(), page)).collect() }
    }
}

/// Returns the time at which a limit was reached.
pub(super) fn reached(course: &IncidentCourse, limit: Limit) -> Option<BootTime> {
    let mut milestones = course.milestones.iter();
    milestones.find(|milestone| milestone.kind == MilestoneKind::LimitReached(limit)).map(|milestone| milestone.at)
}

/// Returns the milestones of a group without an incident.
fn of_onset(onset: &Onset) -> Vec<Milestone> {
    let Onset { first_stuck, last_closed, unaccepted_since } = *onset;
    let milestone = |kind| move |at| Milestone { at, kind, count: None, used: None };
    let all = [
        last_closed.map(milestone(MilestoneKind::LastClosed)),
        Some(milestone(MilestoneKind::FirstStuck)(first_stuck)),
        unaccepted_since.map(milestone(MilestoneKind::FirstUnaccepted)),
    ];
    all.into_iter().flatten().collect()
}

/// Returns the name of an event.
pub(super) fn name(kind: MilestoneKind) -> String {
    match kind {
        MilestoneKind::LastClosed => "last close".to_owned(),
        MilestoneKind::FirstStuck => "first socket that remains".to_owned(),
        MilestoneKind::FirstUnaccepted => "first connection that is not accepted".to_owned(),
        MilestoneKind::Detected => "incident detected".to_owned(),
        MilestoneKind::Doubled => "number has doubled".to_owned(),
        MilestoneKind::LimitNear(limit) => format!("less than {} until {}", duration(NEAR_LIMIT), reaches(limit)),
        MilestoneKind::LimitReached(limit) => reaches(limit).to_owned(),
        MilestoneKind::Resolved(Recovery::Drained) => "resolved: nearly all sockets have exited".to_owned(),
        MilestoneKind::Resolved(Recovery::ProcessEnded) => "resolved: the process has ended".to_owned(),
        MilestoneKind::Resolved(Recovery::Level) => "resolved: the number no longer grows".to_owned(),
    }
}

/// Returns the event of a limit that is reached.
const fn reaches(limit: Limit) -> &'static str {
    match limit {
        Limit::Descriptors => "descriptors run out",
        Limit::Backlog => "the backlog is full",
        Limit::Connections => "the connection limit is reached",
    }
}

fn row(milestone: &Milestone, forecast: Option<&FirstForecast>, page: &ReportPage<'_>) -> TimelineRow {
    let Milestone { at, kind, count, used } = *milestone;
    let mut what = name(kind);
    if let (MilestoneKind::LimitReached(limit), Some(forecast)) = (kind, forecast)
        && forecast.limit == limit
    {
        what.push_str(&format!(", {}", against(forecast, at, page)));
    }
    let count = count.map(|count| format!("{count} in CLOSE_WAIT"));
    let used = used.map(|(limit, used, most)| amount((limit, used, limit.configured(most))));
    let counts: Vec<String> = count.into_iter().chain(used).collect();
    TimelineRow { time: page.clock(at), what, counts: counts.join(", ") }
}

/// Compares a forecast with what came about at `at`.
fn against(forecast: &FirstForecast, at: BootTime, page: &ReportPage<'_>) -> String {
    let FirstForecast { made_at, exhausted_at, earliest, latest, .. } = *forecast;
    let allowed = earliest <= at && latest.is_some_and(|latest| at <= latest);
    let error = at.since(exhausted_at).max(exhausted_at.since(at));
    let how = if allowed || error <= exhausted_at.since(made_at) / EXACT_DIVISOR {
        "as forecast"
    } else if at < exhausted_at {
        "earlier than forecast"
    } else {
        "later than forecast"
    };
    format!("{how} at {} for {}", page.clock(made_at), page.clock(exhausted_at))
}
