//! Result of `closewait check` as a monitoring plugin: state, text and performance data, after the Monitoring Plugins
//! development guidelines.

pub mod left_behind;
#[cfg(test)]
mod tests;
mod thresholds;

use std::{
    fmt::{self, Write as _},
    io,
    time::Duration,
};

use serde::Serialize;

pub use self::thresholds::{ThresholdError, Thresholds};
use super::{
    Form, json,
    list::none,
    schema::{SCHEMA_VERSION, VerdictObject, seconds},
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    model::{IncidentReport, Limit, ReportedGroup},
    snapshot::urgency::Severity,
    text::{duration, rate, still_harmless, time_left},
};

/// State of a service, as monitoring systems read it from the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// Nothing needs attention.
    Ok,
    /// A threshold of `--warn` is reached, or a program needs attention.
    Warning,
    /// A threshold of `--crit` is reached, or a limit is reached or near.
    Critical,
    /// The check was not possible.
    Unknown,
}

impl ProbeState {
    /// Returns the exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    /// Returns the name on the line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Thresholds of both states; `None` without the option.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeThresholds {
    /// `--warn`.
    pub warning: Option<Thresholds>,
    /// `--crit`.
    pub critical: Option<Thresholds>,
}

/// Numbers that thresholds compare. They leave out groups with a benign cause, such as an idle pool.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measures {
    /// Number of sockets in CLOSE_WAIT, also in groups with a benign cause.
    close_wait: u64,
    /// Number of stuck sockets.
    stuck: u64,
    /// Number of incidents.
    incidents: u64,
    /// Growth of the fastest growing group, sockets per second; `None` if no agent watches.
    growth: Option<f64>,
    /// Time until the first limit is reached; `None` without a forecast.
    exhaustion: Option<Duration>,
}

impl Measures {
    fn of(report: &IncidentReport) -> Self {
        let counted = || report.groups.iter().filter(|group| !group.pileup.is_benign());
        let growth = counted().filter_map(|group| group.pileup.slope).map(|slope| slope.per_second.max(0.0));
        let exhaustion = counted().filter_map(|group| match group.pileup.reached_limit() {
            Some(_reached) => Some(Duration::ZERO),
            None => group.pileup.forecast.map(|forecast| forecast.left),
        });
        Self {
            close_wait: report.groups.iter().map(|group| group.pileup.in_close_wait()).sum(),
            stuck: counted().map(|group| group.stuck).sum(),
            incidents: counted().filter(|group| group.piles_up_since.is_some()).count() as u64,
            growth: report.watched.map(|_watched| growth.fold(0.0, f64::max)),
            exhaustion: exhaustion.min(),
        }
    }
}

/// Result of a check.
#[derive(Debug)]
pub struct Probe<'a> {
    /// State.
    pub state: ProbeState,
    text: String,
    levels: ProbeThresholds,
    measured: Option<(Measures, &'a IncidentReport)>,
}

impl<'a> Probe<'a> {
    /// Returns the result of a check that was not possible.
    pub fn unknown(why: &str) -> Self {
        Self { state: ProbeState::Unknown, text: why.to_owned(), levels: ProbeThresholds::default(), measured: None }
    }

    /// Judges a report: by thresholds if there are any, else by the severity of its groups. `filtered` is whether a filter may
    /// have left out sockets.
    pub fn of(report: &'a IncidentReport, levels: ProbeThresholds, filtered: bool) -> Self {
        let measures = Measures::of(report);
        let (state, mut text) = match levels {
            ProbeThresholds { warning: None, critical: None } => by_severity(report, &measures, filtered),
            ProbeThresholds { .. } => by_thresholds(report, &measures, levels, filtered),
        };
        if report.more > 0 {
            let _infallible: fmt::Result = write!(text, "; {} less urgent groups were not checked", report.more);
        }
        if report.untracked > 0 {
            let _infallible: fmt::Result = write!(text, "; {} more sockets are not tracked", report.untracked);
        }
        if let Some(unseen) = report.unseen.as_deref().and_then(|unseen| unseen.lines().next()) {
            let _infallible: fmt::Result = write!(text, "; {unseen}");
        }
        Self { state, text, levels, measured: Some((measures, report)) }
    }

    /// Writes the line, or the JSON object.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as JSON.
    pub fn render(&self, form: Form, to: &mut Vec<u8>) -> io::Result<()> {
        match form {
            Form::Json => json::write_line(&ProbeObject::new(self), to),
            Form::Text => {
                to.extend_from_slice(self.line().as_bytes());
                Ok(())
            }
        }
    }

    fn line(&self) -> String {
        let mut line = line(self.state, &self.text);
        if let Some((measures, _report)) = &self.measured {
            line.push_str(" | ");
            line.push_str(&performance_data(measures, self.levels));
        }
        line.push('\n');
        line
    }
}

/// Returns the line without performance data. `|` would begin them, so it is escaped.
pub fn line(state: ProbeState, text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("CLOSEWAIT {} - {}", state.name(), still_harmless(text).replace('|', "\\u{7c}"))
}

/// Returns the state and its text without thresholds.
fn by_severity(report: &IncidentReport, measures: &Measures, filtered: bool) -> (ProbeState, String) {
    let worst = report.groups.iter().map(|group| group.pileup.severity()).max();
    let state = match worst.unwrap_or(Severity::Info) {
        Severity::Info => ProbeState::Ok,
        Severity::Warning | Severity::Error => ProbeState::Warning,
        Severity::Critical => ProbeState::Critical,
    };
    let problems = report.groups.iter().filter(|group| group.pileup.severity() > Severity::Info);
    let problems: Vec<_> = problems.collect();
    let text = match problems.as_slice() {
        [] => healthy(report, measures, filtered),
        [worst] => problem(worst),
        [worst, others @ ..] => format!("{}; and {}", problem(worst), count(others.len(), "more group")),
    };
    (state, text)
}

/// Returns the state and its text with thresholds. An unknown number changes only the state OK.
fn by_thresholds(
    report: &IncidentReport,
    measures: &Measures,
    levels: ProbeThresholds,
    filtered: bool,
) -> (ProbeState, String) {
    let reached = |level: Option<Thresholds>| level.map(|level| reasons(&level, measures)).unwrap_or_default();
    let (critical, warning) = (reached(levels.critical), reached(levels.warning));
    let unknown = [levels.warning, levels.critical].into_iter().flatten().any(|level| {
        measures.growth.is_none()
            && (level.growth.is_some() || (level.exhaustion.is_some() && measures.exhaustion.is_none()))
    });
    let (state, reasons) = match (critical.is_empty(), warning.is_empty()) {
        (false, _) => (ProbeState::Critical, critical),
        (true, false) => (ProbeState::Warning, warning),
        (true, true) if unknown => {
            let text = "growth and time to exhaustion are unknown without an agent; start closewait run";
            return (ProbeState::Unknown, text.to_owned());
        }
        (true, true) => return (ProbeState::Ok, healthy(report, measures, filtered)),
    };
    let mut text = reasons.join(", ");
    if let Some(worst) = report.groups.iter().find(|group| !group.pileup.is_benign()) {
        let _infallible: fmt::Result = write!(text, "; worst: {}", problem(worst));
    }
    (state, text)
}

/// Returns the thresholds that are reached, one phrase each.
fn reasons(level: &Thresholds, measures: &Measures) -> Vec<String> {
    let Thresholds { stuck, growth, exhaustion } = *level;
    let stuck = stuck.filter(|limit| measures.stuck >= *limit);
    let growth = growth.zip(measures.growth).filter(|(limit, growth)| growth >= limit);
    let exhaustion = exhaustion.zip(measures.exhaustion).filter(|(limit, left)| left <= limit);
    let stuck = stuck.map(|limit| format!("{} stuck (threshold {limit})", count(measures.stuck, "socket")));
    let growth = growth.map(|(limit, growth)| format!("grows by {} (threshold {})", rate(growth), rate(limit)));
    let exhaustion = exhaustion.map(|(limit, left)| match left {
        Duration::ZERO => format!("a limit is reached (threshold {})", duration(limit)),
        left => format!("a limit is reached in {} (threshold {})", duration(left), duration(limit)),
    });
    [stuck, growth, exhaustion].into_iter().flatten().collect()
}

fn healthy(report: &IncidentReport, measures: &Measures, filtered: bool) -> String {
    let Measures { close_wait, stuck, .. } = *measures;
    match report.groups.len() {
        0 if filtered => "no matching socket is in CLOSE_WAIT".to_owned(),
        0 => none(report.untracked, report.unseen.as_deref()).to_owned(),
        groups => format!("{} in CLOSE_WAIT in {}, {stuck} stuck", count(close_wait, "socket"), count(groups, "group")),
    }
}

/// Returns the cause, owner, size, growth and limit of a group.
fn problem(group: &ReportedGroup) -> String {
    let ReportedGroup { stuck, pileup, .. } = group;
    let name = pileup.service().name();
    let who = name.as_deref().unwrap_or("an unknown program");
    let (class, certainty) = (pileup.verdict.class.name(), pileup.verdict.certainty.name());
    let mut text = format!(
        "{class} ({certainty}): {who} {}: {} {}, {stuck} stuck",
        pileup.group,
        count(pileup.count, "socket"),
        pileup.count_words("in CLOSE_WAIT")
    );
    if let Some(slope) = pileup.slope.filter(|_| pileup.grows()) {
        let _infallible: fmt::Result = write!(text, ", grows by {}", rate(slope.per_second));
    }
    if let Some(limit) = pileup.reached_limit() {
        let _infallible: fmt::Result = write!(text, ", {}", reached(limit));
    } else if let Some(forecast) = pileup.forecast {
        let (limit, left) = (reached(forecast.limit), time_left(forecast.left));
        let _infallible: fmt::Result = write!(text, ", {limit} in {left}");
    }
    text
}

/// Returns what a limit that is reached means, for a sentence.
const fn reached(limit: Limit) -> &'static str {
    match limit {
        Limit::Descriptors => "the limit of open descriptors is reached",
        Limit::Backlog => "the backlog is full",
        Limit::Connections => "the connection limit is reached",
    }
}

fn count<N: Copy + fmt::Display + PartialEq + From<u8>>(number: N, what: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Formats `'label'=value[UOM];[warn];[crit];[min]`, separated by blanks. A value below a threshold of time is bad, so
/// that is a range: `300:`.
fn performance_data(measures: &Measures, levels: ProbeThresholds) -> String {
    let Measures { close_wait, stuck, incidents, growth, exhaustion } = *measures;
    let pair = |of: &dyn Fn(&Thresholds) -> Option<String>| {
        let [warning, critical] = [levels.warning, levels.critical].map(|level| level.as_ref().and_then(of));
        format!("{};{}", warning.unwrap_or_default(), critical.unwrap_or_default())
    };
    let of_stuck = pair(&|level| level.stuck.map(|limit| limit.to_string()));
    let of_growth = pair(&|level| level.growth.map(|limit| limit.to_string()));
    let of_exhaustion = pair(&|level| level.exhaustion.map(|limit| format!("{}:", limit.as_secs_f64())));
    // `U` is an unknown value.
    let growth = growth.map_or_else(|| "U".to_owned(), |growth| format!("{growth:.3}"));
    let mut data = format!(
        "close_wait={close_wait};;;0 stuck={stuck};{of_stuck};0 incidents={incidents};;;0 growth={growth};{of_growth};0"
    );
    if let Some(left) = exhaustion {
        let _infallible: fmt::Result = write!(data, " exhaustion={:.0}s;{of_exhaustion};0", left.as_secs_f64());
    }
    data
}

/// Result of a check.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct ProbeObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// State of the service.
    #[cfg_attr(test, schemars(with = "ProbeStateName"))]
    state: String,
    /// Exit code of the command, which is that of the state: 0 ok, 1 warning, 2 critical, 3 unknown.
    exit_code: u8,
    /// Reason of the state, as text for people.
    text: &'a str,
    /// Number of sockets in CLOSE_WAIT; `null` if the check was not possible.
    close_wait: Option<u64>,
    /// Number of stuck sockets; `null` if the check was not possible.
    stuck: Option<u64>,
    /// Number of open incidents; `null` if the check was not possible.
    incidents: Option<u64>,
    /// Growth of the fastest growing group, in sockets per second; `null` if no agent watches.
    growth_per_second: Option<f64>,
    /// Time until the first limit is reached, in seconds; 0 if it is reached; `null` without a forecast.
    exhaustion_seconds: Option<f64>,
    /// Time for which the agent has watched, in seconds; `null` without an agent.
    watched_seconds: Option<f64>,
    /// Thresholds of `--warn`; `null` without the option.
    warning: Option<ThresholdsObject>,
    /// Thresholds of `--crit`; `null` without the option.
    critical: Option<ThresholdsObject>,
    /// Groups, the most urgent first.
    groups: Vec<ProbedGroupObject<'a>>,
    /// Number of further groups, which are less urgent and were not checked.
    more_groups: u64,
}

/// Thresholds of an option.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ThresholdsObject {
    /// Number of stuck sockets; `null` without this threshold.
    stuck: Option<u64>,
    /// Growth of a group, in sockets per second; `null` without this threshold.
    growth_per_second: Option<f64>,
    /// Time until a limit is reached, in seconds; `null` without this threshold.
    exhaustion_seconds: Option<f64>,
}

/// Group of sockets.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ProbedGroupObject<'a> {
    /// Owner of most sockets: unit, pod or container, or else the process with its script; `null` if unknown.
    service: Option<String>,
    /// Port or remote endpoint, as text for people.
    place: String,
    /// Severity.
    #[cfg_attr(test, schemars(with = "SeverityName"))]
    severity: &'static str,
    /// Number of sockets that the program has not closed, also of those whose connections have ended.
    count: u64,
    /// Number of sockets that are certainly stuck.
    stuck: u64,
    /// Change of the count, in sockets per second; negative if it falls; `null` without an agent that watches.
    slope_per_second: Option<f64>,
    /// Time until the first limit is reached, in seconds; 0 if it is reached; `null` without a forecast.
    exhaustion_seconds: Option<f64>,
    /// Diagnosis of the group.
    verdict: VerdictObject<'a>,
}

impl<'a> ProbeObject<'a> {
    fn new(probe: &'a Probe<'_>) -> Self {
        let Probe { state, text, levels, measured } = probe;
        let (measures, report) = measured.as_ref().map(|(measures, report)| (measures, *report)).unzip();
        let thresholds = |level: Option<Thresholds>| {
            level.map(|Thresholds { stuck, growth, exhaustion }| ThresholdsObject {
                stuck,
                growth_per_second: growth,
                exhaustion_seconds: exhaustion.map(seconds),
            })
        };
        Self {
            schema_version: SCHEMA_VERSION,
            state: state.name().to_lowercase(),
            exit_code: state.exit_code(),
            text,
            close_wait: measures.map(|measures| measures.close_wait),
            stuck: measures.map(|measures| measures.stuck),
            incidents: measures.map(|measures| measures.incidents),
            growth_per_second: measures.and_then(|measures| measures.growth),
            exhaustion_seconds: measures.and_then(|measures| measures.exhaustion).map(seconds),
            watched_seconds: report.and_then(|report| report.watched).map(seconds),
            warning: thresholds(levels.warning),
            critical: thresholds(levels.critical),
            groups: report.map(|report| report.groups.iter().map(probed).collect()).unwrap_or_default(),
            more_groups: report.map_or(0, |report| report.more),
        }
    }
}

fn probed(group: &ReportedGroup) -> ProbedGroupObject<'_> {
    let ReportedGroup { stuck, pileup, .. } = group;
    ProbedGroupObject {
        service: pileup.service().label(),
        place: pileup.group.to_string(),
        severity: pileup.severity().name(),
        count: pileup.count,
        stuck: *stuck,
        slope_per_second: pileup.slope.map(|slope| slope.per_second),
        exhaustion_seconds: pileup.forecast.map(|forecast| seconds(forecast.left)),
        verdict: (&pileup.verdict).into(),
    }
}
