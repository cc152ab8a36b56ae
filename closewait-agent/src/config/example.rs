//! Commented example of a configuration file, generated from the options.

use super::{Keys, keys::sample, variable_name};

/// Width of comments, columns.
const WIDTH: usize = 100;

/// Returns a configuration file in which every key is a comment with its default, or with the kind of its value.
pub fn example(keys: &Keys) -> String {
    let mut text = String::from(
        "# Configuration of `closewait run`: /etc/closewait/closewait.toml. All settings are optional; the values here are the\n\
         # defaults, or words in capitals for values without a default.\n\
         #\n\
         # Files in /etc/closewait/conf.d/*.toml override this one, in the order of their names; environment variables override\n\
         # files, and the command line overrides all. Check and show the result:\n\
         #\n\
         #     closewait config check\n\
         #     closewait config show\n",
    );
    for SettingHelp { help, values, variable, sample, .. } in settings(keys) {
        let values = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
        text.push('\n');
        for line in textwrap::wrap(&format!("{help}{values} ({variable})"), WIDTH) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{sample}\n"));
    }
    text
}

/// Description of a key.
pub(crate) struct SettingHelp<'k> {
    /// Key: the long name of the option.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the manual page needs it alone"))]
    pub(crate) key: &'k str,
    /// Text of the option's help.
    pub(crate) help: String,
    /// Values that the option takes; none if it takes any, or is a flag.
    pub(crate) values: Vec<String>,
    /// Environment variable.
    pub(crate) variable: String,
    /// Line of a file with the default, or with the kind of the value.
    pub(crate) sample: String,
}

/// Returns the descriptions of all keys, in the order of the help.
pub(crate) fn settings(keys: &Keys) -> impl Iterator<Item = SettingHelp<'_>> {
    keys.options().map(|(key, option)| {
        let values = if keys.is_flag(key) { Vec::new() } else { option.get_possible_values() };
        SettingHelp {
            key,
            help: option.get_help().map(ToString::to_string).unwrap_or_default(),
            values: values.iter().map(|value| value.get_name().to_owned()).collect(),
            variable: variable_name(key),
            sample: sample(key, option),
        }
    })
}
