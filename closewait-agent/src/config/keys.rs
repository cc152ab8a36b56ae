//! Keys of the configuration: the options of a command, as clap defines them.

use std::{
    error::Error as _,
    ffi::{OsStr, OsString},
};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::problem::WrongValue;
use closewait_engine::text::harmless;

/// Value of a flag that is set.
pub(super) const TRUE: &str = "true";
/// Value of a flag that is not set.
const FALSE: &str = "false";
/// Minimum similarity of a key that a hint names. It is the one of clap, for subcommands and flags.
const SIMILAR: f64 = 0.7;
/// Parts of the names of options whose values are not printed: passwords, and headers that contain them.
const SECRET: [&str; 6] = ["auth", "headers", "password", "passphrase", "secret", "token"];

/// Options of a command that are keys of its configuration.
#[derive(Clone, Debug)]
pub struct Keys {
    command: Command,
    excluded: &'static [&'static str],
}

impl Keys {
    /// Creates the keys of a command: the long names of its options, except those that make no sense in a file.
    pub fn new(command: Command, excluded: &'static [&'static str]) -> Self {
        Self { command: command.no_binary_name(true), excluded }
    }

    /// Returns the options that are keys, in the order of the help.
    pub(super) fn options(&self) -> impl Iterator<Item = (&str, &Arg)> {
        let named = self.command.get_arguments().filter_map(|option| Some((option.get_long()?, option)));
        named.filter(|(name, _)| !self.excluded.contains(name) && !["help", "version"].contains(name))
    }

    /// Returns the keys, in the order of the help.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.options().map(|(name, _)| name)
    }

    /// Returns the id of a key's option in clap's matches.
    pub fn id(&self, key: &str) -> Option<&str> {
        self.option(key).map(|option| option.get_id().as_str())
    }

    fn option(&self, key: &str) -> Option<&Arg> {
        self.options().find(|(name, _)| *name == key).map(|(_, option)| option)
    }

    /// Whether the option of a key has no value.
    pub fn is_flag(&self, key: &str) -> bool {
        self.option(key).is_some_and(is_flag)
    }

    /// Whether the option of a key can be repeated.
    pub fn is_list(&self, key: &str) -> bool {
        self.option(key).is_some_and(|option| matches!(option.get_action(), ArgAction::Append))
    }

    /// Returns why a name is no key.
    pub(super) fn unknown(&self, name: &str) -> WrongValue {
        let shown = harmless(name.as_bytes());
        if self.excluded.contains(&name) {
            let hint = format!("remove it, or give it on the command line: --{name}");
            return WrongValue::new(format!("{shown} cannot be set in a file"), hint);
        }
        let hint = match self.nearest(name, SIMILAR) {
            Some(nearest) => format!("the nearest key is {nearest}"),
            None => "list all keys:\n    closewait config example".to_owned(),
        };
        WrongValue::new(format!("unknown key {shown}"), hint)
    }

    /// Returns the key that is most similar to a name, from 0 to 1, if one is more similar than this.
    pub fn nearest(&self, name: &str, similar_by: f64) -> Option<&str> {
        // Many people write keys of TOML with underscores, and variables have them.
        let written = name.replace('_', "-").to_ascii_lowercase();
        let similar = self.names().map(|key| (strsim::jaro_winkler(&written, key), key));
        let nearest = similar.filter(|(similarity, _)| *similarity > similar_by);
        nearest.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, key)| key)
    }

    /// Returns the value of a flag.
    pub(super) fn of_flag(&self, key: &str, value: bool) -> Result<Vec<OsString>, WrongValue> {
        if self.is_flag(key) {
            return Ok(vec![if value { TRUE } else { FALSE }.into()]);
        }
        Err(WrongValue::new(format!("{key} needs a value, not true or false"), self.sample(key)))
    }

    /// Returns the values of an option, each checked by its parser.
    pub(super) fn of_values(&self, key: &str, values: Vec<OsString>) -> Result<Vec<OsString>, WrongValue> {
        if self.is_flag(key) {
            return Err(WrongValue::new(
                format!("{key} is true or false"),
                format!("write it like this:\n    {key} = true"),
            ));
        }
        for value in &values {
            self.check(key, value)?;
        }
        Ok(values)
    }

    /// Returns why an option cannot have an array.
    pub(super) fn not_one_value(&self, key: &str) -> WrongValue {
        WrongValue::new(format!("{key} has one value, not an array"), self.sample(key))
    }

    /// Returns the values of an option in an environment variable.
    pub(super) fn of_variable(&self, key: &str, value: &OsStr) -> Result<Vec<OsString>, WrongValue> {
        if !self.is_flag(key) {
            return self.of_values(key, vec![value.to_owned()]);
        }
        match value.to_str() {
            Some("true" | "1") => self.of_flag(key, true),
            Some("false" | "0") => self.of_flag(key, false),
            _ => Err(WrongValue::new(format!("{key} is true or false"), "set it to true or false")),
        }
    }

    /// Lets the parser of an option check a value.
    fn check(&self, key: &str, value: &OsStr) -> Result<(), WrongValue> {
        if value.as_encoded_bytes().contains(&0) {
            return Err(WrongValue::new(format!("the value of {key} contains a zero byte"), self.sample(key)));
        }
        let argument = [OsStr::new(&format!("--{key}")), value].join(OsStr::new("="));
        let Err(error) = self.command.clone().try_get_matches_from([argument]) else { return Ok(()) };
        // The relations of options are checked when all of them are known.
        if matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict) {
            return Ok(());
        }
        Err(self.refused(key, value, &error))
    }

    fn refused(&self, key: &str, value: &OsStr, error: &clap::Error) -> WrongValue {
        if is_secret(key) {
            return WrongValue::new(
                format!("the value of {key} is invalid"),
                "its text is not printed, because it may be a secret",
            );
        }
        let value = shown(key, value);
        let (cause, hint) = error.source().map(|cause| cause_and_hint(&cause.to_string())).unwrap_or_default();
        let what = match cause {
            Some(cause) => format!("invalid value {value} for {key}: {cause}"),
            None => format!("invalid value {value} for {key}"),
        };
        match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                WrongValue::new(what, format!("use one of {}", valid.join(", ")))
            }
            _ => WrongValue { what, hint },
        }
    }

    /// Returns a hint with the form of a setting.
    fn sample(&self, key: &str) -> String {
        format!("write it like this:\n    {}", self.option(key).map(|option| sample(key, option)).unwrap_or_default())
    }
}

/// Splits the reason of a parser into the cause and what to do. On the command line they are one sentence: `CAUSE; DO THIS`, or
/// one of both.
fn cause_and_hint(reason: &str) -> (Option<String>, Option<String>) {
    let text = |part: &str| Some(part.to_owned());
    if let Some((_, range)) = reason.rsplit_once(" is not in ")
        && let Some((least, most)) = range.split_once("..=")
    {
        return (text(reason), Some(format!("use a number from {least} to {most}")));
    }
    if reason.starts_with("write ") || reason.starts_with("it must be ") {
        return (None, text(reason));
    }
    if let Some((cause, hint)) = reason.rsplit_once("; ") {
        return (text(cause), text(hint));
    }
    let is_number = matches!(reason, "invalid digit found in string" | "cannot parse integer from empty string");
    (text(reason), is_number.then(|| "write a whole number".to_owned()))
}

fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// Returns a setting as a line of TOML: with the default of the option, or else the name of its value.
pub(super) fn sample(key: &str, option: &Arg) -> String {
    if is_flag(option) {
        return format!("{key} = false");
    }
    let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let name = option.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
    let value = if defaults.is_empty() { name.to_owned() } else { defaults.join(",") };
    if !matches!(option.get_action(), ArgAction::Append) {
        return format!("{key} = {}", quoted(&value));
    }
    let delimiter = option.get_value_delimiter().filter(|_| !defaults.is_empty());
    let values: Vec<_> = match delimiter {
        Some(delimiter) => value.split(delimiter).map(quoted).collect(),
        None => vec![quoted(&value)],
    };
    format!("{key} = [{}]", values.join(", "))
}

/// Returns a number as it is, and other text as a string of TOML. It is visible text without quotes.
fn quoted(value: &str) -> String {
    if value.parse::<i64>().is_ok() { value.to_owned() } else { format!("{value:?}") }
}

/// Whether the values of a key are not printed.
fn is_secret(key: &str) -> bool {
    key.split('-').any(|word| SECRET.contains(&word))
}

/// Hides the secrets in an error about the value of an option.
pub fn hide_secrets(error: &mut clap::Error) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (Some(option), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else { return };
    let key = option.trim_start_matches('-').split(' ').next().unwrap_or_default();
    error.insert(ContextKind::InvalidValue, ContextValue::String(shown(key, value.as_ref())));
}

/// Returns a value for people: harmless, and without secrets. Those of a URL may be in its user, path, query or fragment.
pub(super) fn shown(key: &str, value: &OsStr) -> String {
    const HIDDEN: &str = "[hidden]";
    if is_secret(key) {
        return HIDDEN.to_owned();
    }
    let text = harmless(value.as_encoded_bytes());
    let Some((scheme, rest)) = text.split_once("://") else {
        // Perhaps a URL without its scheme, with a password.
        return if key.contains("endpoint") && text.contains('@') { HIDDEN.to_owned() } else { text };
    };
    if text.contains('\\') {
        return HIDDEN.to_owned();
    }
    // A password may contain a slash.
    let user_end = rest.rfind('@').unwrap_or(0);
    let end = rest.get(user_end..).and_then(|tail| tail.find(['/', '?', '#'])).map_or(rest.len(), |at| user_end + at);
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => (format!("{HIDDEN}@"), host),
        None => (String::new(), authority),
    };
    let path = if path.len() > 1 { format!("/{HIDDEN}") } else { path.to_owned() };
    format!("{scheme}://{user}{host}{path}")
}
