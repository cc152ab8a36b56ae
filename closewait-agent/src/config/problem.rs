//! Problems of settings, each with its place and a hint.

use std::{fmt, path::Path};

use super::{ConfigEntry, SettingOrigin};
use closewait_engine::text::harmless_path;

/// Place in a text. The first line and the first column are 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPosition {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl TextPosition {
    /// Returns the position of a byte of the text; its end, if there is no such byte.
    pub(super) fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

/// Problem of a setting or a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// File, environment variable, or the command line.
    pub place: String,
    /// Position in the file; `None` if the problem is not about one.
    pub position: Option<TextPosition>,
    /// Problem.
    pub what: String,
    /// Action for the user.
    pub hint: Option<String>,
    /// Whether this user may not read the file.
    pub denied: bool,
}

impl ConfigProblem {
    /// Creates a problem of a whole file.
    pub(super) fn of_file(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        let place = harmless_path(path.as_os_str().as_encoded_bytes());
        Self { place, position: None, what: what.into(), hint: Some(hint.into()), denied: false }
    }

    /// Creates a problem of a place in a file.
    pub(super) fn in_file(path: &Path, position: TextPosition, wrong: WrongValue) -> Self {
        let WrongValue { what, hint } = wrong;
        let place = harmless_path(path.as_os_str().as_encoded_bytes());
        Self { place, position: Some(position), what, hint, denied: false }
    }

    /// Creates a problem of a setting, at the place where it is set.
    pub fn of_setting(setting: &ConfigEntry, what: impl Into<String>, hint: Option<String>) -> Self {
        let wrong = WrongValue { what: what.into(), hint };
        match &setting.origin {
            SettingOrigin::File { path, position } => Self::in_file(path, *position, wrong),
            SettingOrigin::Environment(name) => Self::in_variable(name, wrong),
            origin @ (SettingOrigin::Default | SettingOrigin::CommandLine) => {
                let WrongValue { what, hint } = wrong;
                Self { place: origin.to_string(), position: None, what, hint, denied: false }
            }
        }
    }

    /// Creates a problem of an environment variable.
    pub(super) fn in_variable(name: &str, wrong: WrongValue) -> Self {
        let WrongValue { what, hint } = wrong;
        Self { place: format!("environment variable {name}"), position: None, what, hint, denied: false }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(TextPosition { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

/// Reason why a key or a value is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrongValue {
    /// Problem.
    pub(super) what: String,
    /// Action for the user.
    pub(super) hint: Option<String>,
}

impl WrongValue {
    /// Creates a reason with a hint.
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: Some(hint.into()) }
    }
}

/// Problems of a configuration: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
