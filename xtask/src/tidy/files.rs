//! What every text file of the repository must keep to.

use super::{Files, Problem};

/// Source files longer than this have more than one job.
const MAX_LINES: usize = 500;

/// Something that no line may contain. Written in two parts, so that this table passes its own check.
struct Banned {
    text: &'static str,
    /// Only where the text starts a path: not after a letter, digit or dot.
    at_path_start: bool,
    what: &'static str,
    why: &'static str,
    instead: &'static str,
}

const HOST_WHY: &str = "a mirror or a proxy may stand in for it";
const HOST_INSTEAD: &str = "leave the address to the configuration of cargo, rustup or apt on the machine";
const PATH_WHY: &str = "it exists on one machine";
const PATH_INSTEAD: &str = "use a path relative to the workspace or to the target folder";

const BANNED: [Banned; 8] = [
    host(concat!("crates", ".io")),
    host(concat!("static.rust-lang", ".org")),
    host(concat!("deb.debian", ".org")),
    host(concat!("security.debian", ".org")),
    host(concat!("archive.ubuntu", ".com")),
    host(concat!("registry.npmjs", ".org")),
    path(concat!("/ro", "ot/")),
    path(concat!("/wo", "rk/")),
];

/// Cargo writes the registry's name into it.
const EXEMPT: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

/// Checks every file.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| !EXEMPT.contains(&file.as_str())) {
        problems.extend(check_size(file, text));
        for (line, content) in (1..).zip(text.lines()) {
            for banned in BANNED.iter().filter(|banned| banned.is_in(content)) {
                problems.push(Problem {
                    file: file.clone(),
                    line,
                    what: format!("{} `{}`", banned.what, banned.text),
                    why: banned.why,
                    instead: banned.instead,
                });
            }
        }
    }
    problems
}

fn check_size(file: &str, text: &str) -> Option<Problem> {
    let (package, rest) = file.split_once('/')?;
    let lines = text.lines().count();
    let too_long = package.starts_with("closewait-") && rest.starts_with("src/") && lines > MAX_LINES;
    too_long.then(|| Problem {
        file: file.to_owned(),
        line: MAX_LINES + 1,
        what: format!("{lines} lines are more than {MAX_LINES}"),
        why: "a file that long has more than one job",
        instead: "move one of them into a file of its own",
    })
}

const fn host(text: &'static str) -> Banned {
    Banned { text, at_path_start: false, what: "a registry's host", why: HOST_WHY, instead: HOST_INSTEAD }
}

const fn path(text: &'static str) -> Banned {
    Banned { text, at_path_start: true, what: "an absolute path under", why: PATH_WHY, instead: PATH_INSTEAD }
}

impl Banned {
    fn is_in(&self, line: &str) -> bool {
        line.match_indices(self.text).any(|(at, _text)| {
            let before = line[..at].chars().next_back();
            // `target/...`, `~/...` and `$DIR/...` go on; a blank, a quote or `=` starts anew.
            !self.at_path_start || !before.is_some_and(|c| c.is_alphanumeric() || "._-~)}".contains(c))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(&Files::from([(file.to_owned(), text.to_owned())])).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn everything_banned_is_caught_with_its_line() {
        for banned in &BANNED {
            assert_eq!(lines("README.md", &format!("fine\nsee {}x\n", banned.text)), [2], "{}", banned.text);
        }
    }

    #[test]
    fn a_relative_path_with_the_same_folder_passes() {
        let folder = concat!("/wo", "rk/");
        assert_eq!(lines("a.sh", &format!("cd target{folder}x ~{folder} ${{A}}{folder}")), [0; 0]);
        assert_eq!(lines("a.sh", &format!("DIR=\"{folder}x\"")), [1]);
    }

    #[test]
    fn the_lock_file_may_name_the_registry() {
        assert_eq!(lines("Cargo.lock", concat!("crates", ".io")), [0; 0]);
    }

    #[test]
    fn a_long_source_file_is_caught() {
        let text = "\n".repeat(MAX_LINES + 1);
        assert_eq!(lines("closewait-engine/src/mod.rs", &text), [MAX_LINES + 1]);
        assert_eq!(lines("closewait-engine/src/mod.rs", &text[1..]), [0; 0]);
        assert_eq!(lines("closewait-agent/tests/cli.rs", &text), [0; 0]);
    }
}
