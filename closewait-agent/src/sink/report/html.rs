//! HTML of `closewait report`: one file for a ticket, which loads nothing and can be read without scripts.

mod course;
mod groups;
mod panels;
mod scale;
mod words;

use std::io;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::{
    course::CourseCharts,
    words::{Clock, foreign},
};
use super::{ReportPage, ReportSource};
use crate::sink::{
    list::{missing, none},
    schema,
    status::{is_calm, used_limit},
};
use closewait_engine::{
    model::{IncidentCourse, IncidentReport, ReportedGroup, ResolvedIncident, Totals},
    text::{count, duration, still_harmless},
};

/// Maximum size of a page, bytes: ticket systems and mail accept it.
pub const MAX_PAGE_BYTES: usize = 200_000;
/// Maximum size of a page without its JSON, bytes.
const MAX_SHOWN_BYTES: usize = 110_000;
/// Maximum size of the page around its content and JSON, bytes.
const FRAME_BYTES: usize = 12_000;
/// Maximum number of milestones of an incident.
const MAX_MILESTONES: usize = 24;
/// Style sheet of the page.
pub const STYLE: &str = include_str!("html/style.css");
/// Script of the copy buttons. The page is complete without it.
pub const SCRIPT: &str = include_str!("html/copy.js");
/// Content security policy: the page loads nothing, and runs and applies only its own script and style sheet, which it knows by
/// their SHA-256.
pub const POLICY: &str = "default-src 'none'; style-src 'sha256-62B9cwexgSviSn/ZM/0VvBLyHyGxkyW2n/MkvdObNx8='; \
    script-src 'sha256-6VE6TM4EBAzQKh0YCi/jolxNwiX26aQZKtd4yEVf2fs='; base-uri 'none'; form-action 'none'";

/// Numbers of parts of a page. A page that would be too large gets fewer.
#[derive(Clone, Copy, Debug)]
struct PageLimits {
    /// Groups and resolved incidents with charts, each.
    articles: usize,
    /// Further groups with a diagnosis.
    diagnoses: usize,
    /// Rows of the table of groups.
    rows: usize,
}

impl PageLimits {
    /// Limits from the most to the fewest parts.
    const STEPS: [Self; 5] = [
        Self { articles: 6, diagnoses: 24, rows: 64 },
        Self { articles: 4, diagnoses: 12, rows: 64 },
        Self { articles: 2, diagnoses: 6, rows: 64 },
        Self { articles: 1, diagnoses: 2, rows: 32 },
        Self { articles: 1, diagnoses: 0, rows: 16 },
    ];
}

/// Returns the page. A report that does not fit into [`MAX_PAGE_BYTES`] is shortened, and the page says by how much.
///
/// # Errors
///
/// If the report cannot be written as JSON.
pub fn page(page: &ReportPage<'_>) -> io::Result<String> {
    let mut content = Markup::default();
    for limits in PageLimits::STEPS {
        content = shown(page, limits);
        if content.0.len() <= MAX_SHOWN_BYTES {
            break;
        }
    }
    let appendix = appendix(page, MAX_PAGE_BYTES.saturating_sub(content.0.len() + FRAME_BYTES))?;
    let host = page.report.host.as_deref().map(|host| format!(" of {host}")).unwrap_or_default();
    let time = Clock { anchor: page.anchor, now: page.report.at }.full(page.report.at);
    let title = still_harmless(format!("CLOSE_WAIT report{host}, {time}"));
    let file = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (content)
                (appendix)
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(file.into_string())
}

/// Returns everything that people read.
fn shown(page: &ReportPage<'_>, limits: PageLimits) -> Markup {
    let report = page.report;
    let clock = Clock { anchor: page.anchor, now: report.at };
    let problems = report.groups.iter().take_while(|group| !is_calm(&group.pileup) || group.course.is_some()).count();
    let articles = problems.min(limits.articles);
    // The latest incidents come last.
    let resolved = report.resolved.iter().rev().take(limits.articles).enumerate();
    let more_resolved = report.resolved.len().saturating_sub(limits.articles);
    html! {
        (head(page, clock))
        main {
            @for (number, group) in report.groups.iter().take(articles).enumerate() {
                (incident(group, report, clock, number + 1))
            }
            @if problems > articles {
                p.note { (count((problems - articles) as u64, "more group")) " with a problem: in the table below." }
            }
            @for (number, one) in resolved { (ended(one, clock, number + 1)) }
            @if more_resolved > 0 { p.note { (count(more_resolved as u64, "earlier incident")) " that ended: not in this page." } }
            @if !report.groups.is_empty() { (groups::table(report, limits.rows, articles, limits.diagnoses)) }
            (losses(page))
        }
    }
}

/// Returns the head with the band.
fn head(page: &ReportPage<'_>, clock: Clock) -> Markup {
    let (report, (tone, word, sentence)) = (page.report, band(page.report));
    let Totals { entered, left, tracked, .. } = report.totals;
    html! {
        header {
            h1 { "CLOSE_WAIT report" @if let Some(host) = &report.host { " of " (foreign(host)) } }
            div.band.(tone) { p.word { (word) } p { (foreign(&sentence)) } }
            dl {
                div { dt { "Time" } dd { (clock.full(report.at)) } }
                @if let ReportSource::Recording(name) = page.source { div { dt { "Recording" } dd { (foreign(name)) } } }
                div { dt { "Watched" } dd {
                    @match report.watched {
                        Some(watched) => { "for " (duration(watched)) }
                        None => { "no, this is a one-off scan" }
                    }
                } }
                div { dt { "In CLOSE_WAIT" } dd { (count(tracked, "socket")) } }
                @if report.watched.is_some() { div { dt { "Since the start" } dd { (entered) " entered, " (left) " exited" } } }
                div { dt { "Stuck" } dd { "older than " (duration(report.stuck_after)) } }
                div { dt { "Version" } dd { "closewait " (foreign(page.version)) } }
            }
            nav {
                @if !report.groups.is_empty() { a href="#groups" { "Groups" } }
                a href="#losses" { "What could not be seen" }
                a href="#data" { "Data" }
            }
        }
    }
}

/// Returns color, word and sentence of the worst group.
fn band(report: &IncidentReport) -> (&'static str, &'static str, String) {
    let worst = report.groups.first().map(|group| &group.pileup);
    let Some(worst) = worst.filter(|worst| groups::tone(worst) != "good") else {
        let is_blind = report.unseen.is_some() || report.untracked > 0;
        let (tone, word) = if is_blind { ("warn", "Incomplete") } else { ("good", "Normal") };
        let sentence = match (report.groups.len() as u64 + report.more, report.resolved.last()) {
            (_, Some(ended)) => ended.end.summary(ended.at),
            (0, None) => none(report.untracked, report.unseen.as_deref()).to_owned(),
            (groups, None) => format!("no group needs attention: {} normal", count(groups, "group")),
        };
        return (tone, word, sentence);
    };
    (groups::tone(worst), worst.severity().name(), worst.summary())
}

/// Returns the article on a group with a problem.
fn incident(group: &ReportedGroup, report: &IncidentReport, clock: Clock, number: usize) -> Markup {
    let pileup = &group.pileup;
    let prefix = format!("i{number}");
    html! {
        article #{ "incident-" (number) } {
            h2 { (groups::badge(pileup)) " " (foreign(&groups::name(pileup))) }
            (groups::diagnosis(pileup))
            (groups::facts(group, report, clock))
            @if let Some(course) = &group.course {
                @let forecast = pileup.forecast.map(|forecast| (forecast.limit, forecast.most));
                @let limit = forecast.or(used_limit(pileup).map(|(limit, _, most)| (limit, most)));
                (charts(course, limit, &prefix, clock))
            } @else if report.watched.is_none() {
                p.note { "There are no counts over time: they need an agent that watches, or a recording." }
            }
            (panels::panels(pileup, &prefix))
        }
    }
}

/// Returns the charts and milestones of a course.
fn charts(
    course: &IncidentCourse,
    limit: Option<(closewait_engine::model::Limit, u64)>,
    prefix: &str,
    clock: Clock,
) -> Markup {
    let more = course.milestones.len().saturating_sub(MAX_MILESTONES);
    let mut course = course.clone();
    course.milestones.truncate(MAX_MILESTONES);
    let limit = course.forecast.map(|forecast| (forecast.limit, forecast.most)).or(limit);
    let charts = CourseCharts { course: &course, limit, prefix: prefix.to_owned(), clock };
    html! { (charts.charts()) (charts.milestones(more)) }
}

/// Returns the article on an incident that has ended.
fn ended(ResolvedIncident { at, end, course }: &ResolvedIncident, clock: Clock, number: usize) -> Markup {
    let limit = course.milestones.iter().rev().find_map(|one| one.used).map(|(limit, _, most)| (limit, most));
    html! {
        article {
            h2 { span.badge.good { "resolved" } " " (foreign(&groups::cut(end.service.as_deref().unwrap_or("unknown owner"), 120))) " " (end.group.place()) }
            p { (foreign(&end.numbers(*at))) @if let Some(last) = &end.last {
                (format!("; diagnosis at {}: {}, certainty {}", clock.short(last.at), last.class.name(), last.certainty.name()))
            } "." }
            (charts(course, limit, &format!("r{number}"), clock))
        }
    }
}

/// Returns the section on facts that the report lacks.
fn losses(page: &ReportPage<'_>) -> Markup {
    let report = page.report;
    let lost = lost(&report.totals);
    let missing: Vec<_> =
        missing(report.untracked, report.unseen.as_deref()).chain(page.notes.iter().cloned()).collect();
    let unread = report.groups.iter().filter_map(|group| group.pileup.evidence.process.as_deref());
    let mut unread: Vec<_> = unread
        .flat_map(|process| process.unseen.iter().map(move |fact| format!("{}[{}]: {fact}", process.comm, process.pid)))
        .collect();
    unread.sort();
    unread.dedup();
    html! {
        section #losses {
            h2 { "What could not be seen" }
            @if lost.is_empty() && missing.is_empty() && unread.is_empty() {
                p { "Nothing was lost, and every socket in CLOSE_WAIT was visible." }
            }
            @else if lost.is_empty() { p { "Nothing was lost." } }
            @if !lost.is_empty() || !missing.is_empty() || !unread.is_empty() { ul {
                @for (number, what) in &lost { li { b { (number) } " " (what) } }
                @for text in &missing { @for line in text.lines() { li { (foreign(&groups::cut(line, 300))) } } }
                @for fact in unread.iter().take(8) { li { (foreign(&groups::cut(fact, 300))) } }
            } }
            @if unread.len() > 8 { p.note { (unread.len() - 8) " more facts about processes could not be read." } }
        }
    }
}

/// Returns the numbers of lost data that are not 0.
fn lost(totals: &Totals) -> Vec<(u64, &'static str)> {
    let all = [
        (totals.lost_ring_full, "records were dropped because the ring buffer was full"),
        (totals.lost_map_full, "entry times were dropped because the kernel's map was full"),
        (totals.skipped_by_kernel.unwrap_or(0), "runs of the kernel program were skipped by the kernel"),
        (totals.undecodable, "records could not be decoded"),
        (totals.replaced, "exits were missed, and noticed when the socket entered again"),
        (totals.unwritten, "lines were dropped because the reader of standard output was too slow"),
        (totals.log_lines_dropped, "lines of the log were dropped because the reader of standard error was too slow"),
        (totals.recordings_failed, "recordings ended early because they could not be written"),
        (totals.repaired, "sockets were missed at first, and found by an audit"),
    ];
    all.into_iter().filter(|(number, _)| *number > 0).collect()
}

/// Returns the section with the report as JSON, in at most `most` bytes.
fn appendix(page: &ReportPage<'_>, most: usize) -> io::Result<Markup> {
    let report = page.report;
    let mut json = json(report, page)?;
    let (mut groups, mut is_whole) = (report.groups.len(), true);
    if json.len() > most {
        is_whole = false;
        let mut shortened = without_counts(report);
        loop {
            json = self::json(&shortened, page)?;
            if json.len() <= most || groups == 0 {
                break;
            }
            groups /= 2;
            let dropped = shortened.groups.drain(groups..).count() as u64;
            shortened.more += dropped;
            let resolved = shortened.resolved.len() / 2;
            shortened.resolved.drain(..resolved);
        }
    }
    let all = report.groups.len() as u64 + report.more;
    Ok(html! {
        section #data {
            h2 { "Data" }
            p {
                "This page contains the report as JSON, as " code { "closewait report --output json" } " writes it, in the element "
                code { "script#report" } "."
                @if !is_whole {
                    (format!(" It is shortened, because the page has a limit of {} KB: it has {groups} of {all} groups, without their counts over time.", MAX_PAGE_BYTES / 1000))
                }
            }
        }
        script #report type="application/json" { (PreEscaped(json)) }
    })
}

/// Returns the report as JSON for a script element.
fn json(report: &IncidentReport, page: &ReportPage<'_>) -> io::Result<String> {
    let mut json = Vec::new();
    super::json::write(report, page.version, &|at| schema::time(page.anchor.wall(at)), &mut json)?;
    // JSON has `<` only in strings. Without it, no text can end the element or open a comment.
    Ok(String::from_utf8(json).map_err(io::Error::other)?.replace('<', "\\u003c"))
}

/// Returns the report without counts over time.
fn without_counts(report: &IncidentReport) -> IncidentReport {
    let mut report = report.clone();
    for group in &mut report.groups {
        group.pileup.evidence.history.clear();
        if let Some(course) = &mut group.course {
            course.points.clear();
        }
    }
    for one in &mut report.resolved {
        one.course.points.clear();
    }
    report
}
