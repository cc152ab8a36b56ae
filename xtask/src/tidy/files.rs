//! What every text file of the repository must keep to.

use super::{Files, Problem};

/// Source files longer than this have more than one job.
const MAX_LINES: usize = 500;

/// Registries. Written in two parts, like the folders below, so that this table passes its own check.
const HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("static.rust-lang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("security.debian", ".org"),
    concat!("archive.ubuntu", ".com"),
    concat!("registry.npmjs", ".org"),
];
/// Folders of one machine.
const FOLDERS: [&str; 2] = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// Cargo writes the registry's name into it.
const EXEMPT: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

/// Checks every file.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| !EXEMPT.contains(&file.as_str())) {
        problems.extend(check_size(file, text));
        for (line, content) in (1..).zip(text.lines()) {
            for host in HOSTS.iter().filter(|host| content.contains(**host)) {
                let why = "a mirror or a proxy may stand in for it";
                let instead = "leave the address to the configuration of cargo, rustup or apt on the machine";
                problems.push(Problem::new(file, line, format!("a registry's host `{host}`"), why, instead));
            }
            for folder in FOLDERS.iter().filter(|folder| has_path(content, folder)) {
                let instead = "use a path relative to the workspace or to the target folder";
                let what = format!("an absolute path under `{folder}`");
                problems.push(Problem::new(file, line, what, "it exists on one machine", instead));
            }
        }
    }
    problems
}

fn check_size(file: &str, text: &str) -> Option<Problem> {
    let (package, rest) = file.split_once('/')?;
    let lines = text.lines().count();
    let too_long = package.starts_with("closewait-") && rest.starts_with("src/") && lines > MAX_LINES;
    let what = format!("{lines} lines are more than {MAX_LINES}");
    let why = "a file that long has more than one job";
    too_long.then(|| Problem::new(file, MAX_LINES + 1, what, why, "move one of them into a file of its own"))
}

/// Returns whether a path in this line starts with the folder. `target/...`, `~/...` and `$DIR/...` are other paths.
fn has_path(line: &str, folder: &str) -> bool {
    let continues = |before: char| before.is_alphanumeric() || "._-~)}".contains(before);
    line.match_indices(folder).any(|(at, _folder)| !line[..at].ends_with(continues))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(&Files::from([(file.to_owned(), text.to_owned())])).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn everything_banned_is_caught_with_its_line() {
        for banned in HOSTS.iter().chain(&FOLDERS) {
            assert_eq!(lines("README.md", &format!("fine\nsee {banned}x\n")), [2], "{banned}");
        }
    }

    #[test]
    fn a_relative_path_with_the_same_folder_passes() {
        let folder = FOLDERS[1];
        assert_eq!(lines("a.sh", &format!("cd target{folder}x ~{folder} ${{A}}{folder}")), [0; 0]);
        assert_eq!(lines("a.sh", &format!("DIR=\"{folder}x\"")), [1]);
    }

    #[test]
    fn the_lock_file_may_name_the_registry() {
        assert_eq!(lines("Cargo.lock", HOSTS[0]), [0; 0]);
    }

    #[test]
    fn a_long_source_file_is_caught() {
        let text = "\n".repeat(MAX_LINES + 1);
        assert_eq!(lines("closewait-engine/src/mod.rs", &text), [MAX_LINES + 1]);
        assert_eq!(lines("closewait-engine/src/mod.rs", &text[1..]), [0; 0]);
        assert_eq!(lines("closewait-agent/tests/cli.rs", &text), [0; 0]);
    }
}
