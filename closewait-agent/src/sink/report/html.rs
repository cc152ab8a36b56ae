//! HTML of `closewait report`: one file for a ticket, which loads nothing and can be read without scripts.

mod ages;
mod course;
mod groups;
mod panels;
mod scale;
mod words;

use std::{collections::BTreeSet, io};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::{course::CourseCharts, words::foreign};
use super::{
    ReportPage, ReportSource,
    content::{ResolvedTexts, gaps},
    timeline::Timeline,
};
use crate::sink::{
    list::none,
    status::{is_calm, used_limit},
};
use closewait_engine::{
    model::{IncidentCourse, IncidentReport, Limit, ReportedGroup, ResolvedIncident, Totals},
    text::{count, duration, still_harmless},
};

/// Maximum size of a page, bytes: ticket systems and mail accept it.
pub const MAX_PAGE_BYTES: usize = 200_000;
/// Maximum size of a page without its JSON, bytes.
const MAX_SHOWN_BYTES: usize = 110_000;
/// Maximum size of the page around its content and JSON, bytes.
const FRAME_BYTES: usize = 12_000;
/// Maximum number of facts about processes that could not be read.
const MAX_UNREAD: usize = 8;
/// Reason why a report has no charts.
const NO_COUNTS: &str = "There are no counts over time: they need an agent that watches, or a recording.";
/// Style sheet of the page.
pub const STYLE: &str = include_str!("html/style.css");
/// Script of the copy buttons. The page is complete without it.
pub const SCRIPT: &str = include_str!("html/copy.js");
/// Content security policy: the page loads nothing, and runs and applies only its own script and style sheet, which it knows by
/// their SHA-256.
pub const POLICY: &str = "default-src 'none'; style-src 'sha256-z2dJlAIQYlWJiht9EEULXuJvYV2VDXmIfIhWlXCsWLU='; \
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
    let title = still_harmless(format!("CLOSE_WAIT report{host}, {} UTC", page.date(page.report.at)));
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
    let problems = report.groups.iter().take_while(|group| !is_calm(&group.pileup) || group.course.is_some()).count();
    let articles = problems.min(limits.articles);
    // The latest incidents come last.
    let resolved = report.resolved.iter().rev().take(limits.articles).enumerate();
    let more_resolved = report.resolved.len().saturating_sub(limits.articles);
    html! {
        (head(page))
        main {
            @for (number, group) in report.groups.iter().take(articles).enumerate() {
                (incident(group, page, number + 1))
            }
            @if problems > articles {
                p.note { (count((problems - articles) as u64, "more group")) " with a problem: in the table below." }
            }
            @for (number, one) in resolved { (ended(one, page, number + 1)) }
            @if more_resolved > 0 { p.note { (count(more_resolved as u64, "earlier incident")) " that ended: not in this page." } }
            @if !report.groups.is_empty() { (groups::table(page, limits.rows, articles, limits.diagnoses)) }
            (losses(page))
        }
    }
}

/// Returns the head with the band.
fn head(page: &ReportPage<'_>) -> Markup {
    let (report, (tone, word, sentence)) = (page.report, band(page.report));
    let Totals { entered, left, tracked, .. } = report.totals;
    let of_host = if report.matching.is_some() { ", all of this host" } else { "" };
    html! {
        header {
            h1 { "CLOSE_WAIT report" @if let Some(host) = &report.host { " of " (foreign(host)) } }
            div.band.(tone) { p.word { (word) } p { (foreign(&sentence)) } }
            dl {
                div { dt { "Time" } dd { (page.date(report.at)) " UTC" } }
                @if let ReportSource::Recording(name) = page.source { div { dt { "Recording" } dd { (foreign(name)) } } }
                div { dt { "Watched" } dd {
                    @match report.watched {
                        Some(watched) => { "for " (duration(watched)) }
                        None => { "no, this is a one-off scan" }
                    }
                } }
                div { dt { "In CLOSE_WAIT" } dd {
                    (count(report.matching.unwrap_or(tracked), "socket"))
                    @if report.matching.is_some() { ", of " (tracked) " without the filters" }
                } }
                @if report.watched.is_some() { div { dt { "Since the start" } dd { (entered) " entered, " (left) " exited" (of_host) } } }
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
fn incident(group: &ReportedGroup, page: &ReportPage<'_>, number: usize) -> Markup {
    let (pileup, prefix) = (&group.pileup, format!("i{number}"));
    let forecast = pileup.forecast.map(|forecast| (forecast.limit, forecast.most));
    let limit = forecast.or(used_limit(pileup).map(|(limit, _, most)| (limit, most)));
    let milestones = group.course.as_ref().map_or(&[][..], |course| &course.milestones);
    html! {
        article #{ "incident-" (number) } {
            h2 { (groups::badge(pileup)) " " (foreign(&groups::name(pileup))) }
            (groups::diagnosis(group, page))
            (groups::facts(group, page))
            @match &group.course {
                Some(course) => (charts(course, limit, &prefix, page)),
                None if page.report.watched.is_none() => p.note { (NO_COUNTS) },
                None => {}
            }
            (course::table(&Timeline::of_group(group, page), milestones))
            (panels::panels(pileup, page.report.at, &prefix))
        }
    }
}

/// Returns the charts of a course.
fn charts(course: &IncidentCourse, limit: Option<(Limit, u64)>, prefix: &str, page: &ReportPage<'_>) -> Markup {
    let limit = course.forecast.map(|forecast| (forecast.limit, forecast.most)).or(limit);
    CourseCharts { course, limit, prefix: prefix.to_owned(), page }.charts()
}

/// Returns the article on an incident that has ended.
fn ended(resolved: &ResolvedIncident, page: &ReportPage<'_>, number: usize) -> Markup {
    let ResolvedTexts { title, cause, timeline, .. } = ResolvedTexts::new(resolved, page);
    let course = &resolved.course;
    let limit = course.milestones.iter().rev().find_map(|one| one.used).map(|(limit, _, most)| (limit, most));
    html! {
        article {
            h2 { span.badge.good { "resolved" } " " (foreign(&groups::cut(&title, 200))) }
            @if let Some(cause) = cause { p { b { "Cause: " } (foreign(&cause)) } }
            (charts(course, limit, &format!("r{number}"), page))
            (course::table(&timeline, &course.milestones))
        }
    }
}

/// Returns the section on facts that the report lacks.
fn losses(page: &ReportPage<'_>) -> Markup {
    let unread = page.report.groups.iter().filter_map(|group| group.pileup.evidence.process.as_deref());
    let unread = unread.flat_map(|process| {
        process.unseen.iter().map(move |fact| format!("{}[{}]: {fact}", process.comm, process.pid))
    });
    let unread: BTreeSet<String> = unread.collect();
    let more = unread.len().saturating_sub(MAX_UNREAD);
    html! {
        section #losses {
            h2 { "What could not be seen" }
            @for gap in gaps(page) { @for line in gap.lines() { p { (foreign(&groups::cut(line, 400))) } } }
            @if page.report.unseen.is_none() && page.report.untracked == 0 {
                p { "All sockets in CLOSE_WAIT were visible." }
            }
            @if !unread.is_empty() {
                p { "Facts about processes that could not be read:" }
                ul { @for fact in unread.iter().take(MAX_UNREAD) { li { (foreign(&groups::cut(fact, 400))) } } }
            }
            @if more > 0 { p.note { (count(more as u64, "more fact")) " not shown." } }
        }
    }
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
    super::json::write(&ReportPage { report, ..*page }, &mut json)?;
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
