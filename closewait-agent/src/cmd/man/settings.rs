//! Page of the configuration file, from the definitions that also give its commented example.

use super::page::ManPage;
use crate::{
    cmd::settings::keys,
    config::{SettingHelp, settings},
};

const DESCRIPTION: &str = "\
`closewait run` reads its settings from these files, in TOML without sections. A key is the long name of an option, and its value is \
what the option takes: a number, a string, or `true` or `false` for an option without a value. An option that can be repeated takes an \
array, or one value. An unknown key is an error. All settings are optional.

Later sources override earlier ones: the defaults, closewait.toml, the files in conf.d in the order of their names, environment \
variables, and the command line. An environment variable separates several values by commas; an empty one counts as not set.

The files, and all folders above them, have to belong to root or to the user of the agent, and no other user may write to them. A file \
has at most 64 KiB.

Check the settings, show each of them with its source, and print a file with all of them as comments:

    closewait config check
    closewait config show
    closewait config example

On SIGHUP the agent reads the settings again, and names those that need a restart.";

/// Returns the page.
pub(super) fn page() -> ManPage {
    let mut page = ManPage::new("closewait.toml", 5, "Configuration of `closewait run`");
    page.heading("SYNOPSIS");
    page.code("/etc/closewait/closewait.toml\n/etc/closewait/conf.d/*.toml");
    page.heading("DESCRIPTION");
    page.markdown(DESCRIPTION);
    page.heading("SETTINGS");
    page.paragraph("Each setting has its default, or a word in capitals if it has none, and its environment variable.");
    for SettingHelp { key, help, values, variable, sample } in settings(&keys()) {
        let value = sample.strip_prefix(key).expect("a line with the key");
        let values = if values.is_empty() { String::new() } else { format!(" One of: {}.", values.join(", ")) };
        page.item(&format!("`{key}`{value}"), &format!("{help}.{values} (`{variable}`)"));
    }
    page.heading("EXAMPLES");
    page.code(
        "stuck-after = \"30s\"\nmax-tracked = 100000\nopeners = true\nconnection-limit = [\"8080=200\", \"5432=100\"]",
    );
    page.see_also(["closewait(1)", "closewait-run(1)", "closewait-config(1)"]);
    page
}

#[test]
fn the_example_of_the_page_is_a_valid_configuration() {
    let (_, text) = page().into_file();
    let (_, example) = text.split_once(".SH \"EXAMPLES\"\n").unwrap();
    let lines = example.lines().skip_while(|line| *line != ".nf").skip(1).take_while(|line| *line != ".fi");
    let text: String = lines.map(|line| line.replace("\\-", "-") + "\n").collect();
    let text = crate::config::ConfigText::from_bytes("example.toml".into(), text.into_bytes()).unwrap();
    assert_eq!(crate::config::parse(&text, &keys()).unwrap().len(), 4);
}
