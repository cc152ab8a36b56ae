//! Markdown pages: relative links lead to a file and a heading of the repository, and README.md stays one short page.

use super::{Files, Problem};

/// Size of README.md in bytes; everything else has a page of its own in docs/.
const MAX_README: usize = 10 * 1024;
/// Columns of a line in a code block of README.md: wider ones have to be scrolled.
const MAX_COLUMNS: usize = 100;

/// Checks the links of every page, and the size of README.md.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| file.ends_with(".md")) {
        let (why, instead) = ("a reader ends nowhere", "link to a file of the repository and one of its headings");
        for (line, content, _code) in lines(text).filter(|(_line, _content, code)| !code) {
            for target in
                content.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _rest)| target)
            {
                if !target.contains("://") && !is_found(files, file, target) {
                    problems.push(Problem::new(file, line, format!("a broken link `{target}`"), why, instead));
                }
            }
        }
    }
    let Some(text) = files.get("README.md") else { return problems };
    let why = "the README is read in a minute, on any screen";
    for (line, _content, _code) in
        lines(text).filter(|(_, content, code)| *code && content.chars().count() > MAX_COLUMNS)
    {
        let what = format!("more than {MAX_COLUMNS} columns in a code block");
        problems.push(Problem::new("README.md", line, what, why, "run the program on a narrower terminal"));
    }
    if text.len() > MAX_README {
        let what = format!("{} bytes are more than {MAX_README}", text.len());
        problems.push(Problem::new("README.md", text.lines().count(), what, why, "move details to a page in docs/"));
    }
    problems
}

/// Returns each line with its number, and whether it is in a code block.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    (1..).zip(text.lines()).scan(false, |code, (line, content)| {
        let is_fence = content.trim_start().starts_with("```");
        *code ^= is_fence;
        Some((line, content, *code || is_fence))
    })
}

/// Returns whether a relative link leads to a file or folder, and to a heading of it.
fn is_found(files: &Files, from: &str, target: &str) -> bool {
    let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let mut parts: Vec<&str> = from.split('/').collect();
    if !path.is_empty() {
        parts.pop();
    }
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part != ".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            return false;
        }
    }
    let path = parts.join("/");
    match (files.get(&path), heading) {
        (Some(text), Some(heading)) => {
            lines(text).any(|(_line, content, code)| !code && anchor(content).as_deref() == Some(heading))
        }
        (found, heading) => {
            heading.is_none() && (found.is_some() || files.keys().any(|file| file.starts_with(&format!("{path}/"))))
        }
    }
}

/// Returns the anchor that the hosting platform gives a heading; `None` if the line is no heading.
fn anchor(line: &str) -> Option<String> {
    let (_marks, heading) = line.split_once("# ").filter(|(marks, _heading)| marks.chars().all(|mark| mark == '#'))?;
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(readme: &str) -> Vec<usize> {
        let page = "# A page\n## Why not `ss`?\n```\n# no heading\n```\n[up](../README.md)\n";
        let files =
            Files::from([("README.md".to_owned(), readme.to_owned()), ("docs/a.md".to_owned(), page.to_owned())]);
        check(&files).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn links_to_files_folders_and_headings_pass() {
        let links = "# Top\n[a](docs/a.md) [b](docs/a.md#why-not-ss) [c](docs) [d](#top) [e](https://e.org/x)\n";
        assert_eq!(problems(links), [0; 0]);
    }

    #[test]
    fn each_broken_link_is_found_with_its_line() {
        for broken in ["docs/b.md", "docs/a.md#no-heading", "../README.md", "#below", "doc"] {
            assert_eq!(problems(&format!("# Top\n[a]({broken})\n")), [2], "{broken}");
        }
    }

    #[test]
    fn a_long_readme_and_a_wide_code_block_are_found() {
        let wide = "x".repeat(MAX_COLUMNS + 1);
        assert_eq!(problems(&format!("{wide}\n```text\n{wide}\n```\n")), [3]);
        assert_eq!(problems(&"x\n".repeat(MAX_README / 2 + 1)), [MAX_README / 2 + 1]);
    }
}
