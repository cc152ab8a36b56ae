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
    for (key, option) in keys.options() {
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<_> = option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let values =
            if values.is_empty() || keys.is_flag(key) { String::new() } else { format!(" [{}]", values.join(", ")) };
        let comment = format!("{help}{values} ({})", variable_name(key));
        text.push('\n');
        for line in textwrap::wrap(&comment, WIDTH) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{}\n", sample(key, option)));
    }
    text
}
