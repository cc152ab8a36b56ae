//! Order of a command line: options may stand in front of their command.

use std::ffi::{OsStr, OsString};

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Returns the arguments of this process with the options in front of a command behind its name: `closewait --socket S list` as
/// `closewait list --socket S`. The help of the program offers them in front, where they are those of `status`.
///
/// Arguments that the program itself does not know stay, and everything behind them.
pub fn options_behind_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let root = Cli::command();
    let mut name = 1;
    while let Some(option) = arguments.get(name).and_then(|argument| own_option(&root, argument)) {
        name += option;
    }
    // Options of `config check` stand behind `check`.
    let (mut command, mut end) = (&root, name);
    while let Some(subcommand) = arguments.get(end).and_then(|name| command.find_subcommand(name)) {
        (command, end) = (subcommand, end + 1);
    }
    if let Some(whole) = arguments.get_mut(1..end.max(1)) {
        whole.rotate_left(name - 1);
    }
    arguments
}

/// Returns the number of arguments that an option of the program itself has, if `argument` is its name; a value behind `=` is part of
/// that argument.
fn own_option(root: &Command, argument: &OsStr) -> Option<usize> {
    let bytes = argument.as_encoded_bytes();
    // A path behind `=` may have any bytes.
    let name = bytes.split(|byte| *byte == b'=').next()?;
    let name = str::from_utf8(name).ok()?.strip_prefix("--")?;
    let option = root.get_arguments().find(|option| option.get_long() == Some(name))?;
    let is_whole = !option.get_action().takes_values() || bytes.contains(&b'=');
    Some(if is_whole { 1 } else { 2 })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use clap::{Parser as _, error::ErrorKind};

    use super::*;

    fn line(arguments: &[OsString]) -> String {
        arguments.join(OsStr::new(" ")).into_string().unwrap()
    }

    fn ordered(text: &str) -> String {
        line(&options_behind_command(text.split(' ').map(OsString::from).collect()))
    }

    #[test]
    fn options_in_front_of_a_command_are_those_of_the_command() {
        for (given, meant) in [
            ("closewait --socket /s list --port 80", "closewait list --socket /s --port 80"),
            ("closewait --socket=/s --alone list", "closewait list --socket=/s --alone"),
            ("closewait --socket list", "closewait --socket list"),
            ("closewait --socket list list", "closewait list --socket list"),
            ("closewait --output json config check FILE", "closewait config check --output json FILE"),
            ("closewait --color never check -- list", "closewait check --color never -- list"),
            ("closewait list --socket /s", "closewait list --socket /s"),
            ("closewait --port 80 list", "closewait --port 80 list"),
            ("closewait -- list", "closewait -- list"),
            ("closewait --socket", "closewait --socket"),
            ("closewait --socket /s nonsense", "closewait --socket /s nonsense"),
            ("closewait", "closewait"),
        ] {
            assert_eq!(ordered(given), meant);
        }
        assert_eq!(options_behind_command(Vec::new()), Vec::<OsString>::new());
    }

    #[test]
    fn a_path_in_front_may_have_any_bytes() {
        let path = OsString::from_vec(b"/\xff".to_vec());
        let joined = OsString::from_vec(b"--socket=/\xff".to_vec());
        let given = ["closewait".into(), joined.clone(), "--socket".into(), path.clone(), "list".into()];
        let meant = vec!["closewait".into(), "list".into(), joined, "--socket".into(), path];
        assert_eq!(options_behind_command(given.to_vec()), meant);
    }

    /// Each command takes an option of the program in front of its name exactly if it takes it behind.
    #[test]
    fn every_command_takes_its_options_on_both_sides_of_its_name() {
        let mut taken = Vec::new();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let required = match name {
                "replay" => " FILE",
                "stacks" => " 1",
                "completions" => " bash",
                "kill" => " --port 80",
                "config" => " example",
                _ => "",
            };
            for option in ["--socket /s", "--alone", "--redact", "--output json", "--color never"] {
                let parse = |text: String| Cli::try_parse_from(text.split(' ')).map(|cli| format!("{cli:?}"));
                let after = parse(format!("closewait {name} {option}{required}"));
                let in_front = parse(ordered(&format!("closewait {option} {name}{required}")));
                match (after, in_front) {
                    (Ok(after), Ok(in_front)) => {
                        assert_eq!(after, in_front);
                        taken.push(format!("{name} {option}"));
                    }
                    (Err(_), Err(error)) => assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{name}: {error}"),
                    (after, in_front) => panic!("{name} {option}: {after:?} {in_front:?}"),
                }
            }
        }
        for name in ["status", "run", "top", "list", "tail", "kill", "report", "check"] {
            assert!(taken.contains(&format!("{name} --socket /s")), "{name}: {taken:?}");
        }
        assert!(!taken.iter().any(|taken| taken.starts_with("doctor --socket")), "{taken:?}");
    }
}
