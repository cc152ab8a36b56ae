//! Text of `closewait report`, for a ticket.

use super::{
    ReportPage,
    chart::CountChart,
    content::{LimitText, ProblemTexts, ReportTexts, StackTexts},
    timeline::Timeline,
};
use crate::sink::{
    status::{FULL, Lines, Screen, sgr, wrap},
    table,
};
use closewait_engine::snapshot::urgency::Severity;

/// Indent of text behind its name.
const INDENT: &str = "        ";
/// Indent of a command.
const COMMAND_INDENT: &str = "  ";
/// Columns of the name of a fact.
const FACT: usize = 15;

/// Returns the text, wrapped to the width of `screen`.
pub(super) fn text(page: &ReportPage<'_>, screen: Screen) -> String {
    let texts = ReportTexts::new(page);
    let mut lines = Lines::new(screen);
    lines.wrapped(&texts.head, Some("1"));
    lines.wrapped(&texts.summary, None);
    let clock = |at| page.clock(at);
    for problem in &texts.problems {
        lines.push("", None);
        push_problem(problem, page, &mut lines);
    }
    if !texts.calm.is_empty() {
        lines.push("", None);
    }
    for calm in &texts.calm {
        for line in wrap(calm, screen.width, INDENT) {
            lines.push(&line, Some("2"));
        }
    }
    for (at, resolved) in texts.resolved.iter().enumerate() {
        lines.push("", None);
        named("ENDED", &resolved.title, Some("32"), &mut lines);
        if let Some(cause) = &resolved.cause {
            named("CAUSE", cause, None, &mut lines);
        }
        lines.push("", None);
        push_timeline(&resolved.timeline, &mut lines);
        // Without a problem, the latest incident is the reason for the report.
        if at == 0 && texts.problems.is_empty() {
            push_chart(resolved.chart.as_ref(), clock, &mut lines);
        }
    }
    if !texts.gaps.is_empty() {
        lines.push("", None);
    }
    texts.gaps.iter().flat_map(|gap| gap.lines()).for_each(|gap| lines.wrapped(gap, None));
    lines.text
}

/// Adds a name with its text, which is wrapped behind the name.
fn named(name: &str, text: &str, sgr: Option<&str>, lines: &mut Lines) {
    for (at, line) in wrap(&format!("{name:<7} {text}"), lines.screen.width, INDENT).iter().enumerate() {
        lines.push(line, sgr.filter(|_| at == 0));
    }
}

fn push_problem(problem: &ProblemTexts<'_>, page: &ReportPage<'_>, lines: &mut Lines) {
    let ProblemTexts { label, severity, title, limit, cause, certainty, next, command, timeline, chart, facts, stacks } =
        problem;
    named(label, title, sgr(*severity), lines);
    if let Some(LimitText { is_reached, text }) = limit {
        let (name, color) = if *is_reached { ("FULL", Some(FULL)) } else { ("LIMIT", sgr(Severity::Critical)) };
        named(name, text, color.filter(|_| *severity == Severity::Critical), lines);
    }
    named("CAUSE", cause, None, lines);
    for line in wrap(&format!("{INDENT}{certainty}"), lines.screen.width, INDENT) {
        lines.push(&line, Some("2"));
    }
    named("NEXT", next, None, lines);
    lines.push(&format!("{COMMAND_INDENT}{command}"), Some("1"));
    lines.push("", None);
    push_timeline(timeline, lines);
    push_chart(chart.as_ref(), |at| page.clock(at), lines);
    lines.push("", None);
    for (name, value) in facts {
        let indent = " ".repeat(FACT + 1);
        for line in wrap(&format!(" {name:<FACT$}{value}"), lines.screen.width, &indent) {
            lines.push(&line, None);
        }
    }
    for StackTexts { headline, frames } in stacks {
        lines.push("", None);
        for line in wrap(&format!(" {headline}"), lines.screen.width, "   ") {
            lines.push(&line, None);
        }
        for frame in frames {
            for line in wrap(&format!("  {frame}"), lines.screen.width, "      ") {
                lines.push(&line, Some(if frame.starts_with('>') { "1" } else { "2" }));
            }
        }
    }
}

fn push_chart(
    chart: Option<&CountChart<'_>>,
    clock: impl Fn(closewait_engine::time::BootTime) -> String,
    lines: &mut Lines,
) {
    let chart = chart.map(|chart| chart.lines(lines.screen.width.saturating_sub(1), clock)).unwrap_or_default();
    if !chart.is_empty() {
        lines.push("", None);
    }
    for line in chart {
        lines.push(&format!(" {line}"), None);
    }
}

/// Adds a timeline: counts in a column of their own if they fit on the screen, else behind the event.
fn push_timeline(timeline: &Timeline, lines: &mut Lines) {
    let widest = |of: fn(&super::timeline::TimelineRow) -> &str| {
        timeline.rows.iter().map(|row| table::width(of(row))).max().unwrap_or_default()
    };
    // An event without counts needs no column.
    let (time, what, counts) = (
        widest(|row| &row.time),
        widest(|row| if row.counts.is_empty() { "" } else { &row.what }),
        widest(|row| &row.counts),
    );
    let is_wide = 1 + time + 2 + what + 2 + counts <= lines.screen.width;
    let indent = " ".repeat(time + 3);
    for row in &timeline.rows {
        let fill = |text: &str, width: usize| " ".repeat(width.saturating_sub(table::width(text)));
        let begin = format!(" {}{}  ", row.time, fill(&row.time, time));
        let separator = match (row.counts.is_empty(), is_wide) {
            (true, _) => String::new(),
            (false, true) => fill(&row.what, what) + "  ",
            (false, false) => ": ".to_owned(),
        };
        let line = format!("{begin}{}{separator}{}", row.what, row.counts);
        wrap(&line, lines.screen.width, &indent).iter().for_each(|line| lines.push(line, None));
    }
}
