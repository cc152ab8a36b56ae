//! Pages of the commands, from clap's definition: the same text as `--help`.

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::page::{ManPage, PROGRAM};
use crate::cli::{Cli, SOCKET};

/// Beginning of a paragraph with exit codes.
const EXIT_CODES: &str = "Exit codes";

/// Returns the pages of the program and of all its subcommands.
pub(super) fn pages() -> Vec<ManPage> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let commands = with_subcommands(&root);
    let mut pages: Vec<_> = commands.iter().map(|command| page(command, &root)).collect();
    let names: Vec<_> = pages.iter().map(ManPage::reference).collect();
    for (command, page) in commands.iter().zip(&mut pages) {
        let own = page.reference();
        let prefix = own.trim_end_matches("(1)").to_owned() + "-";
        let related = |name: &&str| is_root(command) || name.starts_with(&prefix) || *name == "closewait(1)";
        let related = names.iter().map(String::as_str).filter(|name| *name != own).filter(related);
        page.see_also(related.chain(["closewait.toml(5)", "closewait-events(7)"]));
    }
    pages
}

/// Returns a command and its visible subcommands, each before its own.
fn with_subcommands(command: &Command) -> Vec<Command> {
    let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    std::iter::once(command.clone()).chain(visible.flat_map(with_subcommands)).collect()
}

fn is_root(command: &Command) -> bool {
    command.get_name() == PROGRAM
}

fn page(command: &Command, root: &Command) -> ManPage {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = ManPage::new(name, 1, &about);
    // The generator's own synopsis names all options, but not their values.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let man = Man::new(command.clone().override_usage(usage));
    let mut add = |render: &dyn Fn(&Man, &mut Vec<u8>) -> std::io::Result<()>| {
        let mut rendered = Vec::new();
        render(&man, &mut rendered).expect("memory");
        page.rendered(&String::from_utf8(rendered).expect("UTF-8"));
    };
    add(&|man, to| man.render_synopsis_section(to));
    add(&|man, to| man.render_description_section(to));
    add(&|man, to| man.render_options_section(to));
    if command.get_subcommands().any(|subcommand| !subcommand.is_hide_set()) {
        add(&|man, to| man.render_subcommands_section(to));
    }
    let notes = paragraphs(command).into_iter().filter(|text| !text.starts_with(EXIT_CODES)).collect::<Vec<_>>();
    if !notes.is_empty() {
        page.heading("NOTES");
        notes.iter().for_each(|text| page.markdown(text));
    }
    page.heading("EXIT STATUS");
    let of = |command| paragraphs(command).into_iter().find(|text| text.starts_with(EXIT_CODES));
    let codes = of(command).or_else(|| of(root)).expect("exit codes of the program");
    let codes = codes.strip_prefix(EXIT_CODES).and_then(|text| text.strip_prefix(": ")).unwrap_or(&codes);
    codes.lines().for_each(|line| page.paragraph(line));
    if is_root(command) {
        environment(&mut page);
    }
    page
}

/// Returns the paragraphs below the options in the help.
fn paragraphs(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    text.split("\n\n").filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn environment(page: &mut ManPage) {
    page.heading("ENVIRONMENT");
    page.item(
        "`CLOSEWAIT_LOG`",
        "Level of the log on standard error: `off`, `error`, `warn`, `info`, `debug`, `trace`, or TARGET=LEVEL.",
    );
    page.item("`CLOSEWAIT_CONFIG`", "Configuration file, instead of those in /etc/closewait.");
    page.item("`CLOSEWAIT_*`", "Settings of `closewait run`; closewait.toml(5) has their names.");
    page.item("`NO_COLOR`", "If set and not empty, no color.");
    page.item("`COLUMNS`", "Width of text in columns, instead of that of the terminal.");
    page.heading("FILES");
    page.item("`/etc/closewait/closewait.toml`", "Configuration of `closewait run`: closewait.toml(5).");
    page.item("`/etc/closewait/conf.d/*.toml`", "More configuration, in the order of the names.");
    page.item(&format!("`{SOCKET}`"), "Control socket of the agent.");
}
