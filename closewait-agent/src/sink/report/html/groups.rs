//! Groups: their table, and the diagnosis of each with its command.

use std::borrow::Cow;

use maud::{Markup, html};

use super::{
    super::{
        ReportPage,
        content::{self, ProblemTexts},
    },
    words::foreign,
};
use crate::sink::status::{age, growth, label, port, used_limit, who};
use closewait_engine::{
    diagnose::verdict_sources,
    model::{IncidentReport, Pileup, ReportedGroup},
    snapshot::urgency::{Severity, Urgency},
    text::time_left,
};

/// Maximum length of a name, characters.
const MAX_NAME: usize = 120;
/// Maximum length of a sentence with foreign names, characters.
const MAX_PROSE: usize = 1000;
/// Maximum length of a command, bytes. A command is not cut, because a part of it could do something else.
const MAX_COMMAND: usize = 1000;

/// Facts that panels show.
const SHOWN_ELSEWHERE: [&str; 5] = ["first sockets", "read", "ages", "threads", "calls"];

/// Returns the name of the style of a group's severity.
pub(super) fn tone(pileup: &Pileup) -> &'static str {
    match (pileup.severity(), pileup.urgency()) {
        (Severity::Critical | Severity::Error, _) => "bad",
        (Severity::Warning, _) | (Severity::Info, Urgency::Undecided(_)) => "warn",
        (Severity::Info, _) => "good",
    }
}

/// Returns the name of a group: its owner and its port or remote endpoint.
pub(super) fn name(pileup: &Pileup) -> String {
    format!("{} {}", cut(&who(pileup), MAX_NAME), port(&pileup.group))
}

/// Returns the class of a group as a small label.
pub(super) fn badge(pileup: &Pileup) -> Markup {
    html! { span.badge.(tone(pileup)) { (label(pileup)) } }
}

/// Returns the table of groups. Each row leads to its incident, or opens its diagnosis, for the first `detailed` groups without an
/// incident in the page.
pub(super) fn table(page: &ReportPage<'_>, rows: usize, articles: usize, mut detailed: usize) -> Markup {
    let report = page.report;
    let mut with_details = |number: usize| {
        let is_detailed = number >= articles && detailed > 0;
        detailed -= usize::from(is_detailed);
        is_detailed
    };
    let more = report.groups.len().saturating_sub(rows) as u64 + report.more;
    html! {
        section #groups {
            h2 { "Groups" }
            p.note { "Sockets of one owner on one port or towards one remote endpoint, the most urgent group first." }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Class" } th scope="col" { "Owner" } th scope="col" { "Port" }
                    th.amount scope="col" { "Sockets" } th.amount scope="col" { "Stuck" } th.amount scope="col" { "Grows" }
                    th.amount scope="col" { "Oldest" } th.amount scope="col" { "Limit" } th.amount scope="col" { "Full in" }
                } }
                tbody {
                    @for (number, group) in report.groups.iter().take(rows).enumerate() {
                        (row(group, report, number, articles))
                        @if with_details(number) {
                            tr.more { td colspan="9" { details.diagnosis {
                                summary { "Diagnosis, evidence and command" }
                                (diagnosis(group, page))
                            } } }
                        }
                    }
                }
            } }
            @if more > 0 { p.note { (more) " more groups are less urgent and not in this page." } }
        }
    }
}

fn row(group: &ReportedGroup, report: &IncidentReport, number: usize, articles: usize) -> Markup {
    let ReportedGroup { pileup, stuck, .. } = group;
    let full_in = match (pileup.reached_limit(), pileup.forecast) {
        (Some(_), _) => "full".to_owned(),
        (None, Some(forecast)) => time_left(forecast.left),
        (None, None) => String::new(),
    };
    html! {
        tr {
            td { (badge(pileup)) }
            td {
                @if number < articles {
                    a href={ "#incident-" (number + 1) } { (foreign(&cut(&who(pileup), MAX_NAME))) }
                } @else { (foreign(&cut(&who(pileup), MAX_NAME))) }
            }
            td { code { (port(&pileup.group)) } }
            td.amount { (pileup.count) }
            td.amount { (stuck) }
            td.amount { (growth(pileup)) }
            td.amount { (age(pileup, report)) }
            td.amount { @if let Some((_, used, most)) = used_limit(pileup) { (used) "/" (most) } }
            td.amount { (full_in) }
        }
    }
}

/// Returns the diagnosis of a group: limit, evidence, certainty, next step, command, and what the rule excludes.
pub(super) fn diagnosis(group: &ReportedGroup, page: &ReportPage<'_>) -> Markup {
    let ProblemTexts { limit, cause, next, command, .. } = ProblemTexts::new(group, page);
    let verdict = &group.pileup.verdict;
    let about = verdict_sources().map(|source| source.about).find(|about| about.name == verdict.rule);
    html! {
        @if let Some(limit) = limit { p { b { (if limit.is_reached { "Full: " } else { "Limit: " }) } (limit.text) } }
        p { b { "Cause: " } (foreign(&cut(&cause, MAX_PROSE))) }
        p { b { "Next: " } (foreign(&cut(&next, MAX_PROSE))) }
        @if command.len() <= MAX_COMMAND {
            div.command { pre { code { (foreign(&command)) } } button type="button" hidden { "Copy" } }
        } @else { p.note { "The command is too long for this page; the JSON has it." } }
        p.note {
            (format!("Class {}: {}. Certainty {}: {}. Rule {}: ", verdict.class.name(), verdict.class.meaning(),
                verdict.certainty.name(), verdict.certainty.meaning(), verdict.rule))
            code { "closewait explain " (verdict.rule) } "."
        }
        @if let Some(about) = about.filter(|about| !about.not.is_empty()) {
            details {
                summary { "What it is not" }
                ul { @for not in about.not { li { (not) } } }
            }
        }
    }
}

/// Returns the facts of a group that neither its panels nor its timeline show.
pub(super) fn facts(group: &ReportedGroup, page: &ReportPage<'_>) -> Markup {
    let pileup = &group.pileup;
    let facts = content::facts(group, page);
    html! {
        dl {
            div { dt { "In CLOSE_WAIT" } dd { (pileup.in_close_wait()) } }
            @if pileup.ended > 0 { div { dt { "Ended, not closed" } dd { (pileup.ended) } } }
            div { dt { "Oldest" } dd { (age(pileup, page.report)) } }
            @if page.report.watched.is_some() { div { dt { "Growth" } dd { (growth(pileup)) } } }
            @for (name, value) in facts.iter().filter(|(name, _)| !SHOWN_ELSEWHERE.contains(name)) {
                div { dt { (name) } dd { (foreign(&cut(value, MAX_PROSE))) } }
            }
        }
    }
}

/// Cuts a text that is longer than `most` characters.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}
