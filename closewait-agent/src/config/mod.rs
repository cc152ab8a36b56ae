//! Settings from files and the environment, below the command line.
//!
//! There is no second list of options: a key is the long name of an option, found in clap's own definition of the command, and
//! its value is text that clap's parser of this option accepts. So a new option is a key at once, with the same limits.
//!
//! ```text
//! files ([`file`]: read with limits) -> entries ([`parse`]: TOML, keys, values) -> one entry per key ([`Layers`]) -> arguments for clap
//! ```
//!
//! Later sources replace earlier ones, also lists: defaults < file < conf.d < environment < command line.

mod example;
mod file;
mod keys;
mod parse;
mod problem;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
};

#[cfg(test)]
pub(crate) use self::example::{SettingHelp, settings};
pub use self::{
    example::example,
    file::{ConfigFiles, ConfigText},
    keys::{Keys, hide_secrets},
    parse::parse,
    problem::{ConfigError, ConfigProblem, TextPosition},
};
use closewait_engine::text::harmless_path;

/// Beginning of the names of environment variables for settings.
pub const VARIABLE_PREFIX: &str = "CLOSEWAIT_";

/// Source of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// Default of the option.
    Default,
    /// Configuration file.
    File {
        /// Path as it was found.
        path: PathBuf,
        /// Position of the key.
        position: TextPosition,
    },
    /// Environment variable of this name.
    Environment(String),
    /// Command line.
    CommandLine,
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, position } => {
                write!(f, "{}:{}", harmless_path(path.as_os_str().as_encoded_bytes()), position.line)
            }
            Self::Environment(name) => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Values of one key in one source, as text that the parser of the option accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Long name of the option.
    pub key: String,
    /// Values; more than one only for an option that can be repeated.
    pub values: Vec<OsString>,
    /// Source.
    pub origin: SettingOrigin,
}

impl ConfigEntry {
    /// Returns the values as users may see them: secrets are hidden.
    pub fn shown(&self) -> Vec<String> {
        self.values.iter().map(|value| keys::shown(&self.key, value)).collect()
    }
}

/// Settings of the files and the environment: for each key the entry that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers(BTreeMap<String, ConfigEntry>);

impl Layers {
    /// Merges files, in the order of their precedence, and the environment. `variable` returns the value of an environment
    /// variable; an empty one counts as not set.
    ///
    /// # Errors
    ///
    /// All problems of all files and variables.
    pub fn merge(
        keys: &Keys,
        files: &[ConfigText],
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let (mut layers, mut problems) = (Self::default(), Vec::new());
        for file in files {
            match parse(file, keys) {
                Ok(entries) => entries.into_iter().for_each(|entry| layers.set(entry)),
                Err(found) => problems.extend(found),
            }
        }
        for key in keys.names() {
            let name = variable_name(key);
            let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
            match keys.of_variable(key, &value) {
                Ok(values) => {
                    let origin = SettingOrigin::Environment(name);
                    layers.set(ConfigEntry { key: key.to_owned(), values, origin });
                }
                Err(wrong) => problems.push(ConfigProblem::in_variable(&name, wrong)),
            }
        }
        if problems.is_empty() { Ok(layers) } else { Err(ConfigError(problems)) }
    }

    fn set(&mut self, entry: ConfigEntry) {
        self.0.insert(entry.key.clone(), entry);
    }

    /// Returns the entry of a key, if a source has one.
    pub fn get(&self, key: &str) -> Option<&ConfigEntry> {
        self.0.get(key)
    }

    /// Returns the entries of all keys, in alphabetical order.
    pub fn entries(&self) -> impl Iterator<Item = &ConfigEntry> {
        self.0.values()
    }

    /// Removes all keys but these.
    pub fn retain(&mut self, keys: &[&str]) {
        self.0.retain(|key, _| keys.contains(&key.as_str()));
    }

    /// Returns the arguments that have the effect of these settings, except for keys that the command line itself has.
    pub fn arguments(&self, keys: &Keys, on_command_line: impl Fn(&str) -> bool) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for entry in self.0.values().filter(|entry| !on_command_line(&entry.key)) {
            let name = OsString::from(format!("--{}", entry.key));
            if !keys.is_flag(&entry.key) {
                arguments.extend(entry.values.iter().map(|value| [&*name, value].join(OsStr::new("="))));
            } else if entry.values.iter().any(|value| value == keys::TRUE) {
                arguments.push(name);
            }
        }
        arguments
    }
}

/// Returns the environment variable of a key.
pub fn variable_name(key: &str) -> String {
    VARIABLE_PREFIX.to_owned() + &key.to_ascii_uppercase().replace('-', "_")
}

/// Parses text as a file with the keys of a made-up command, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(text: &[u8], command: clap::Command) {
    let keys = Keys::new(command, &[]);
    if let Ok(text) = ConfigText::from_bytes("fuzz.toml".into(), text.to_vec()) {
        match parse(&text, &keys) {
            Ok(entries) => assert!(entries.iter().all(|entry| keys.names().any(|key| key == entry.key))),
            Err(problems) => assert!(!problems.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests;
