//! Markdown pages: relative links lead to a file and a heading of the repository, and README.md stays one short page.

use super::{Files, Problem};

/// Size of README.md in bytes; everything else has a page of its own in docs/.
const MAX_README: usize = 10 * 1024;

/// Checks the links of every page, and the size of README.md.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let (why, instead) = ("it leads nowhere", "link to a file of the repository and one of its headings");
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| file.ends_with(".md")) {
        for (line, content) in prose(text) {
            for target in content.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
                if !target.contains("://") && !is_found(files, file, target) {
                    problems.push(Problem::new(file, line, format!("the link `{target}`"), why, instead));
                }
            }
        }
        if file == "README.md" && text.len() > MAX_README {
            let what = format!("{} bytes are more than {MAX_README}", text.len());
            problems.push(Problem::new(file, 1, what, "it is read in a minute", "move details to a page in docs/"));
        }
    }
    problems
}

/// Returns the lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_line, content)| {
        let is_fence = content.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// Returns whether a relative link leads to a file or folder, and to a heading of it.
fn is_found(files: &Files, from: &str, target: &str) -> bool {
    let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let folder = from.rsplit_once('/').map_or("", |(folder, _name)| folder);
    let mut parts: Vec<&str> = if path.is_empty() { vec![from] } else { folder.split('/').collect() };
    for part in path.split('/') {
        match part {
            ".." => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    let path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    match (files.get(&path), heading) {
        (Some(text), Some(heading)) => prose(text).any(|(_line, content)| anchor(content).as_deref() == Some(heading)),
        (found, _) => found.is_some() || files.keys().any(|file| file.starts_with(&format!("{path}/"))),
    }
}

/// Returns the anchor that the hosting platform gives a heading; `None` if the line is no heading.
fn anchor(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    Some(heading.replace(|c: char| !c.is_alphanumeric() && !" -_".contains(c), "").replace(' ', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(readme: &str) -> Vec<usize> {
        let page = "# A page\n## Why not `ss`?\n```\n# no heading\n```\n[up](../README.md)\n";
        let files = [("README.md", readme), ("docs/a.md", page)].map(|(file, text)| (file.to_owned(), text.to_owned()));
        check(&Files::from(files)).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn links_to_files_folders_and_headings_pass() {
        let links = "# Top\n[a](docs/a.md) [b](docs/a.md#why-not-ss) [c](docs) [d](#top) [e](https://e.org/x)\n";
        assert_eq!(problems(links), [0; 0]);
    }

    #[test]
    fn each_broken_link_is_found_with_its_line() {
        for broken in ["docs/b.md", "docs/a.md#no-heading", "b.md", "#below", "doc"] {
            assert_eq!(problems(&format!("# Top\n[a]({broken})\n")), [2], "{broken}");
        }
    }

    #[test]
    fn a_readme_over_the_limit_is_found() {
        assert_eq!(problems(&"x\n".repeat(MAX_README / 2)), [0; 0]);
        assert_eq!(problems(&"x\n".repeat(MAX_README / 2 + 1)), [1]);
    }
}
