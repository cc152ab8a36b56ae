//! Markdown of `closewait report`, for a ticket system.

use std::{borrow::Cow, fmt::Write as _};

use super::{
    ReportPage,
    chart::CountChart,
    content::{ProblemTexts, ReportTexts, StackTexts},
    timeline::Timeline,
};

/// Width of a chart, columns.
const CHART_WIDTH: usize = 90;

/// Returns the report as Markdown. No text from another program can become markup, a mention or a link.
pub(super) fn markdown(page: &ReportPage<'_>) -> String {
    let texts = ReportTexts::new(page);
    let mut to = String::new();
    push(&mut to, format_args!("## {}\n\n{}\n", escaped(&texts.head), escaped(&texts.summary)));
    for problem in &texts.problems {
        push_problem(problem, page, &mut to);
    }
    if !texts.calm.is_empty() {
        push(&mut to, format_args!("\n### Normal or undecided\n\n"));
    }
    for calm in &texts.calm {
        push(&mut to, format_args!("- {}\n", escaped(calm)));
    }
    for resolved in &texts.resolved {
        push(&mut to, format_args!("\n### Ended: {}\n", escaped(&resolved.title)));
        if let Some(cause) = &resolved.cause {
            push(&mut to, format_args!("\n**Cause:** {}\n", escaped(cause)));
        }
        push_timeline(&resolved.timeline, &mut to);
        push_chart(resolved.chart.as_ref(), page, &mut to);
    }
    if !texts.gaps.is_empty() {
        push(&mut to, format_args!("\n### Gaps\n\n"));
    }
    for gap in &texts.gaps {
        let lines: Vec<Cow<'_, str>> = gap.lines().map(escaped).collect();
        push(&mut to, format_args!("- {}\n", lines.join("  \n  ")));
    }
    to
}

fn push_problem(problem: &ProblemTexts<'_>, page: &ReportPage<'_>, to: &mut String) {
    let ProblemTexts { label, severity, title, limit, cause, certainty, next, command, timeline, chart, facts, stacks } =
        problem;
    push(to, format_args!("\n### {}: {}\n\n", escaped(label), escaped(title)));
    push(to, format_args!("**Severity:** {}  \n", severity.name()));
    if let Some(limit) = limit {
        let name = if limit.is_reached { "Full" } else { "Limit" };
        push(to, format_args!("**{name}:** {}  \n", escaped(&limit.text)));
    }
    push(to, format_args!("**Cause:** {}  \n{}  \n", escaped(cause), escaped(certainty)));
    push(to, format_args!("**Next:** {}\n\n{}", escaped(next), code_block("sh", command)));
    push_timeline(timeline, to);
    push_chart(chart.as_ref(), page, to);
    push(to, format_args!("\n| fact | value |\n|---|---|\n"));
    for (name, value) in facts {
        push(to, format_args!("| {name} | {} |\n", escaped(value)));
    }
    for StackTexts { headline, frames } in stacks {
        if frames.is_empty() {
            push(to, format_args!("\n{}.\n", escaped(headline)));
        } else {
            push(to, format_args!("\n{}:\n\n{}", escaped(headline), code_block("text", &frames.join("\n"))));
        }
    }
}

fn push_timeline(timeline: &Timeline, to: &mut String) {
    push(to, format_args!("\n| time (UTC) | event | counts |\n|---|---|---|\n"));
    for row in &timeline.rows {
        push(to, format_args!("| {} | {} | {} |\n", escaped(&row.time), escaped(&row.what), escaped(&row.counts)));
    }
}

fn push_chart(chart: Option<&CountChart<'_>>, page: &ReportPage<'_>, to: &mut String) {
    let lines = chart.map(|chart| chart.lines(CHART_WIDTH, |at| page.clock(at))).unwrap_or_default();
    if !lines.is_empty() {
        push(to, format_args!("\nSockets in CLOSE_WAIT over time:\n\n{}", code_block("text", &lines.join("\n"))));
    }
}

/// Comment that ends a word for everything that looks for mentions, references and links in a text: those filters see the text
/// behind escapes and character references.
const BREAK: &str = "<!-- -->";

/// Escapes text for a paragraph, a heading, a list or a cell of a table of GitHub Flavored Markdown and its relatives.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ') {
        return Cow::Borrowed(text);
    }
    let mut to = String::with_capacity(text.len() + 8);
    let (mut before, mut characters) = (None::<char>, text.chars().peekable());
    while let Some(character) = characters.next() {
        let next = characters.peek().copied();
        let is_word = |of: Option<char>| of.is_some_and(char::is_alphanumeric);
        match character {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '@' => push(&mut to, format_args!("@{BREAK}")),
            '#' if is_word(next) => push(&mut to, format_args!("#{BREAK}")),
            ':' if next == Some('/') => push(&mut to, format_args!(":{BREAK}")),
            '.' if ends_with_www(&to) => push(&mut to, format_args!("{BREAK}.")),
            // Inside of a word it is no markup.
            '_' if is_word(before) && is_word(next) => to.push('_'),
            // At the beginning, these begin a list or a heading.
            '-' | '+' | '#' if before.is_none() => push(&mut to, format_args!("\\{character}")),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => push(&mut to, format_args!("\\{character}")),
            '\n' | '\r' | '\t' => to.push(' '),
            _ => to.push(character),
        }
        before = Some(character);
    }
    Cow::Owned(to)
}

/// Whether text ends with `www`, which begins a link before a dot.
fn ends_with_www(text: &str) -> bool {
    let end = text.len().checked_sub(3).and_then(|begin| text.get(begin..));
    end.is_some_and(|end| end.eq_ignore_ascii_case("www"))
}

/// Returns a block of code that no line of `text` can end.
fn code_block(language: &str, text: &str) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{text}\n{fence}\n")
}

fn push(to: &mut String, what: std::fmt::Arguments<'_>) {
    let _infallible: std::fmt::Result = to.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_markup_remains() {
        for (text, expected) in [
            ("plain words 7", "plain words 7"),
            ("a|b", r"a\|b"),
            ("`x`", r"\`x\`"),
            ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
            ("@team a@b.example", "@<!-- -->team a@<!-- -->b.example"),
            ("fixes o/r#1", "fixes o/r#<!-- -->1"),
            ("# a", r"\# a"),
            ("[a](http://b)", r"\[a\](http:<!-- -->//b)"),
            ("https://b.example", "https:<!-- -->//b.example"),
            ("WWW.b.example", "WWW<!-- -->.b.example"),
            ("&lt;", "&amp;lt;"),
            ("**b** _i_ ~~s~~ $x$", r"\*\*b\*\* \_i\_ \~\~s\~\~ \$x\$"),
            ("CLOSE_WAIT", "CLOSE_WAIT"),
            ("a\nb", "a b"),
            ("- a", r"\- a"),
            ("22:47:15 :8080", "22:47:15 :8080"),
            (r"a\b", r"a\\b"),
        ] {
            assert_eq!(escaped(text), expected, "{text}");
        }
    }

    #[test]
    fn code_cannot_end_its_block() {
        assert_eq!(code_block("sh", "a ```` b"), "`````sh\na ```` b\n`````\n");
        assert_eq!(code_block("sh", "ls"), "```sh\nls\n```\n");
    }
}
