//! `closewait completions`: scripts for shells, generated from the definition of the command line.

use clap::{Arg, Command, CommandFactory as _, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Generator, aot, generate};

use super::print;
use crate::{
    cli::{Cli, CompletionsArgs, EXPLAINED, ShellArg},
    sink::explain::Topics,
};
use closewait_engine::model::Class;

/// Name of the program that the scripts complete.
const NAME: &str = "closewait";
/// Call in the script of zsh that parses a command line, the first time with the options of the program itself.
const ZSH_OPTIONS: &str = "_arguments \"${_arguments_options[@]}\"";

/// Writes the script of a shell to standard output.
///
/// # Errors
///
/// If standard output cannot be written.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    print(script(args.shell).as_bytes())
}

/// Returns the script of a shell.
fn script(shell: ShellArg) -> String {
    let mut command = with_values_everywhere(visible(&Cli::command()));
    match shell {
        ShellArg::Bash => script_of(aot::Bash, &mut command),
        ShellArg::Zsh => {
            // Without `-A` the options of `closewait` itself hide those of a subcommand with the same name: `report --output`
            // would have no `html`.
            let script = script_of(aot::Zsh, &mut command);
            script.replacen(ZSH_OPTIONS, &format!("{ZSH_OPTIONS} -A \"-*\""), 1)
        }
        ShellArg::Fish => script_of(aot::Fish, &mut command) + &fish_arguments(&command),
    }
}

fn script_of(generator: impl Generator, command: &mut Command) -> String {
    let mut script = Vec::new();
    generate(generator, command, NAME, &mut script);
    // The parts are strings of Rust.
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns the lines of fish for arguments that have certain values. The generator knows only options.
fn fish_arguments(command: &Command) -> String {
    let mut lines = String::new();
    for subcommand in command.get_subcommands() {
        for arg in subcommand.get_positionals().filter(|arg| !arg.get_possible_values().is_empty()) {
            let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let (name, values) = (subcommand.get_name(), values.join(" "));
            lines += &format!("complete -c {NAME} -n \"__fish_{NAME}_using_subcommand {name}\" -f -a \"{values}\"\n");
        }
    }
    lines
}

/// Returns the command without its hidden subcommands, which the scripts would list.
fn visible(command: &Command) -> Command {
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(subcommands.cloned())
}

fn with_values_everywhere(command: Command) -> Command {
    command.mut_args(with_values).mut_subcommands(with_values_everywhere)
}

/// Adds the values of an option that its own parser does not list. Without any, shells would offer files for a number.
fn with_values(arg: Arg) -> Arg {
    match arg.get_value_names() {
        Some([name]) if name == "CLASS" => arg.value_parser(PossibleValuesParser::new(Class::ALL.map(Class::name))),
        Some([name]) if name == EXPLAINED => {
            let mut names: Vec<_> = Topics::names().collect();
            names.sort_unstable();
            names.dedup();
            arg.value_parser(PossibleValuesParser::new(names))
        }
        _ if !arg.get_action().takes_values() => arg,
        _ if arg.get_value_hint() == ValueHint::Unknown && arg.get_possible_values().is_empty() => {
            arg.value_hint(ValueHint::Other)
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use tests_support::generated;

    use super::*;

    /// Packages take the scripts from there, also those for an architecture that cannot run here.
    #[test]
    fn the_scripts_match_the_definitions() {
        for (shell, name) in [
            (ShellArg::Bash, aot::Bash.file_name(NAME)),
            (ShellArg::Zsh, aot::Zsh.file_name(NAME)),
            (ShellArg::Fish, aot::Fish.file_name(NAME)),
        ] {
            let path = format!("contrib/completions/{name}");
            assert!(
                generated::is_current(&path, &script(shell)),
                "{path} does not match the definitions; run `cargo xtask docs` and commit the result"
            );
        }
    }

    #[test]
    fn scripts_have_the_name_and_the_options_of_the_program() {
        let (own, completed) = (Cli::command(), visible(&Cli::command()));
        assert_eq!(own.get_name(), completed.get_name());
        let options = |command: &Command| command.get_arguments().map(|arg| arg.get_id().clone()).collect::<Vec<_>>();
        assert_eq!(options(&own), options(&completed));
    }
}
