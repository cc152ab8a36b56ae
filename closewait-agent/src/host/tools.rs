//! Search for programs on this host, in the folders where a root shell finds them.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Folders to search in addition to `PATH`: a service has fewer there than a root shell.
const FOLDERS: [&str; 7] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/snap/bin"];
/// Folders of a home in which pip and dotnet install programs.
const HOME_FOLDERS: [&str; 2] = [".local/bin", ".dotnet/tools"];
/// Maximum number of folders of `PATH` to search.
const MAX_FOLDERS: usize = 64;

/// Returns those of `names` that are programs in one of the folders. Can wait for the file systems of the folders.
pub fn existing<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    let (path, home) = (env::var_os("PATH"), env::var_os("HOME"));
    existing_in(&folders(path.as_deref().unwrap_or_default(), home.as_deref().map(Path::new)), names)
}

/// Returns the folders of this `PATH`, then the usual ones and those of this home, each once. Skips relative ones,
/// which depend on the current folder of the shell.
fn folders(path: &OsStr, home: Option<&Path>) -> Vec<PathBuf> {
    let of_home = home.filter(|home| home.is_absolute()).into_iter();
    let of_home = of_home.flat_map(|home| HOME_FOLDERS.map(|folder| home.join(folder)));
    let of_path = env::split_paths(path).filter(|folder| folder.is_absolute()).take(MAX_FOLDERS);
    let mut folders = Vec::new();
    for folder in of_path.chain(FOLDERS.map(PathBuf::from)).chain(of_home) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn existing_in<'a>(folders: &[PathBuf], names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().filter(|name| folders.iter().any(|folder| is_program(&folder.join(name)))).collect()
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use closewait_engine::{
        process::{Process, ProgramRuntime, Tool},
        testing,
    };

    use super::{super::testing::Fixture, *};

    /// Programs that next steps run without a search: POSIX has all of them.
    const ALWAYS: [&str; 5] = ["closewait", "grep", "kill", "sleep", "echo"];

    /// Returns the names of the programs that a shell command runs.
    fn programs(command: &str) -> Vec<&str> {
        let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
        for (at, character) in command.char_indices() {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (None, '\'' | '"') => quote = Some(character),
                (None, '&' | '|' | ';' | '(' | ')') => {
                    parts.push(&command[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&command[start..]);
        let mut programs = Vec::new();
        for part in parts {
            let mut words = part.split_whitespace();
            let first = words.next();
            programs.extend(first);
            if first == Some("nsenter") {
                // After -t PID -n.
                programs.extend(words.nth(3));
            }
        }
        programs
    }

    #[test]
    fn every_command_of_a_next_step_is_valid_and_runs_only_programs_that_are_searched() {
        let mut seen = BTreeSet::new();
        let processes = ProgramRuntime::ALL.into_iter().flat_map(|runtime| {
            let of = move |tools: &[Tool], other_netns, version: &str, signals_caught| Process {
                runtime: Some(runtime),
                runtime_version: Some(version.to_owned()),
                tools: Some(tools.iter().copied().collect()),
                signals_caught,
                other_netns: Some(other_netns),
                ..testing::process("$(touch x) 'a", 42, Some((10, 1024)))
            };
            let sets = Tool::ALL.map(|tool| vec![tool]).into_iter().chain([Vec::new(), Tool::ALL.to_vec()]);
            sets.flat_map(move |tools| {
                [(false, "17", Some(u64::MAX)), (true, "21", Some(u64::MAX)), (false, "17", None)]
                    .map(|(other_netns, version, caught)| of(&tools, other_netns, version, caught))
            })
        });
        for process in processes {
            for port in [None, Some(8080)] {
                let Some(command) = process.next_step(port).command else { continue };
                let checked = Command::new("sh").args(["-n", "-c", &command]).output().unwrap();
                assert!(checked.status.success(), "{command}: {}", String::from_utf8_lossy(&checked.stderr));
                assert!(!command.contains("touch"), "{command}");
                for program in programs(&command) {
                    let is_searched = Tool::ALL.iter().any(|tool| tool.name() == program);
                    assert!(is_searched || ALWAYS.contains(&program), "{program} of {command}");
                    seen.insert(program.to_owned());
                }
            }
        }
        let never_run: Vec<_> = Tool::ALL.into_iter().map(Tool::name).filter(|name| !seen.contains(*name)).collect();
        assert_eq!(never_run, ["gdb"], "only of a busy thread");
    }

    #[test]
    fn only_programs_are_found_each_wherever_it_is() {
        let fixture = Fixture::new("tools");
        for (name, mode) in [("a/jcmd", 0o755), ("b/py-spy", 0o700), ("b/gdb", 0o644)] {
            fixture.file(name, b"#!/bin/sh\n");
            fs::set_permissions(fixture.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(fixture.path().join("a/psql")).unwrap();
        std::os::unix::fs::symlink("nowhere", fixture.path().join("a/node")).unwrap();
        let folders = [fixture.path().join("none"), fixture.path().join("a"), fixture.path().join("b")];
        let found = existing_in(&folders, &["gdb", "jcmd", "node", "psql", "py-spy", "rbspy"]);
        assert_eq!(found, BTreeSet::from(["jcmd", "py-spy"]));
    }

    #[test]
    fn the_usual_folders_come_after_those_of_the_path() {
        let folders = folders(OsStr::new("/opt/x:/usr/bin:relative::/opt/x"), Some(Path::new("/home/a")));
        assert_eq!(folders[..3], [Path::new("/opt/x"), Path::new("/usr/bin"), Path::new("/usr/local/sbin")]);
        assert_eq!(folders.last().map(PathBuf::as_path), Some(Path::new("/home/a/.dotnet/tools")));
        assert_eq!(folders.len(), 1 + FOLDERS.len() + HOME_FOLDERS.len());
        assert!(existing(&["sh"]).contains("sh"));
    }
}
