//! Groups: their table, and the diagnosis of each with its command.

use std::borrow::Cow;

use maud::{Markup, html};

use super::words::{Clock, foreign};
use crate::sink::status::{age, growth, label, port, used_limit, who};
use closewait_engine::{
    diagnose::verdict_sources,
    model::{IncidentReport, Pileup, ReportedGroup},
    snapshot::urgency::{Severity, Urgency},
    text::duration,
};

/// Maximum length of a name, characters.
const MAX_NAME: usize = 120;
/// Maximum length of a sentence with foreign names, characters.
const MAX_PROSE: usize = 1000;
/// Maximum length of a command, bytes. A command is not cut, because a part of it could do something else.
const MAX_COMMAND: usize = 1000;

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
pub(super) fn table(report: &IncidentReport, rows: usize, articles: usize, mut detailed: usize) -> Markup {
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
                                (diagnosis(&group.pileup))
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
        (None, Some(forecast)) => duration(forecast.left),
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

/// Returns the diagnosis of a group: evidence, certainty, next step, command, and what the rule excludes.
pub(super) fn diagnosis(pileup: &Pileup) -> Markup {
    let verdict = &pileup.verdict;
    let about = verdict_sources().map(|source| source.about).find(|about| about.name == verdict.rule);
    let command = pileup.command();
    html! {
        p { (foreign(&cut(&verdict.text, MAX_PROSE))) }
        p { b { "Next: " } (foreign(&cut(&verdict.next.text, MAX_PROSE))) }
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

/// Returns the facts of a group that are not in its charts.
pub(super) fn facts(group: &ReportedGroup, report: &IncidentReport, clock: Clock) -> Markup {
    let pileup = &group.pileup;
    let evidence = &pileup.evidence;
    let process = pileup.service().process().filter(|process| Some(process) != pileup.service().name().as_ref());
    let remotes: Vec<_> = evidence.top_remotes.iter().map(|(address, count)| format!("{address} ({count})")).collect();
    let owners: Vec<_> =
        pileup.owners.iter().flatten().map(|(task, count)| format!("{}[{}] ({count})", task.comm, task.pid)).collect();
    html! {
        dl {
            div { dt { "In CLOSE_WAIT" } dd { (pileup.count) ", stuck " (group.stuck) } }
            div { dt { "Since" } dd { (clock.short(pileup.onset.first_stuck)) ", " (age(pileup, report)) " ago" } }
            @if report.watched.is_some() {
                div { dt { "Last close" } dd {
                    @match pileup.onset.last_closed {
                        Some(closed) => { (clock.short(closed)) ", " (duration(report.at.since(closed))) " ago" }
                        None => { "none seen" }
                    }
                } }
            }
            @if pileup.slope.is_some() { div { dt { "Growth" } dd { (growth(pileup)) } } }
            @if let Some((limit, used, most)) = used_limit(pileup) {
                div { dt { (super::words::limit(limit)) } dd { (used) " of " (most) } }
            }
            @if let Some(process) = process { div { dt { "Process" } dd { (foreign(&cut(&process, MAX_NAME))) } } }
            @if owners.len() > 1 { div { dt { "Owners" } dd { (foreign(&cut(&owners.join(", "), MAX_PROSE))) } } }
            @if !remotes.is_empty() {
                div { dt { "Peers" } dd { (remotes.join(", ")) @if evidence.remotes as usize > remotes.len() {
                    " and " (evidence.remotes as usize - remotes.len()) " more addresses"
                } } }
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
