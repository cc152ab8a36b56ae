//! Command line with the settings of files and the environment below it.
//!
//! Settings become arguments in front of those of the user, so that clap parses, limits and relates all of them in one way.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use crate::{
    cli::{Cli, Command, NOT_KEYS, RunArgs, SHARED_KEYS},
    config::{
        ConfigEntry, ConfigError, ConfigFiles, ConfigProblem, Keys, Layers, SettingOrigin, VARIABLE_PREFIX,
        variable_name,
    },
    hooks::HookProgramError,
    host::error_text::problem_and_hints,
};
use closewait_engine::text::{harmless, harmless_path};

/// Folder of the configuration.
const FOLDER: &str = "/etc/closewait";
/// Commands that query an agent, and so take [`SHARED_KEYS`] from the configuration.
const ASKING: [&str; 7] = ["status", "top", "list", "tail", "report", "kill", "check"];

/// Minimum similarity of an environment variable's name to a setting that it is probably meant to be. One wrong letter of a
/// short name has 0.9.
const MISSPELLED: f64 = 0.9;

/// Reason why there is no command to execute.
#[derive(Debug)]
pub enum ParseError {
    /// The command line is invalid, or asks for help or the version.
    Usage(clap::Error),
    /// A file or an environment variable is invalid.
    Config(ConfigError),
}

/// Arguments, files and environment of `closewait run`.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Arguments of the user, with the name of the program.
    arguments: Vec<OsString>,
    files: ConfigFiles,
    variables: BTreeMap<String, OsString>,
    /// Settings of the agent that runs.
    pub(super) in_use: Vec<ConfigEntry>,
}

/// `closewait run` with all settings, and their sources.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Settings as the agent uses them.
    pub(super) run: RunArgs,
    /// Settings as text, in the order of the help; without values for an option that is not set and has no default.
    pub(super) settings: Vec<ConfigEntry>,
}

/// Parses arguments in the order of [`crate::cli::options_behind_command`]. Returns the command, and for `run` its configuration.
///
/// # Errors
///
/// If the arguments are invalid; for `run` also if a file or an environment variable is. Other commands warn about that.
pub fn parse(arguments: Vec<OsString>) -> Result<(Command, Option<Configuration>), ParseError> {
    // Files may set an option that another one needs, so the arguments alone may be incomplete.
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(&arguments).map_err(ParseError::Usage)?;
    match matches.subcommand() {
        Some(("run", run)) => {
            let file = run.try_get_one::<PathBuf>("config").ok().flatten().cloned();
            let configuration = Configuration::new(arguments, file);
            let Resolved { run, settings } = configuration.resolve()?;
            Ok((Command::Run(run), Some(Configuration { in_use: settings, ..configuration })))
        }
        Some((asking, _)) if ASKING.contains(&asking) => Ok((parse_asking(arguments, 2)?, None)),
        None => Ok((parse_asking(arguments, 1)?, None)),
        Some(_) => Ok((Cli::try_parse_from(arguments).map_err(ParseError::Usage)?.into_command(), None)),
    }
}

/// Parses a command that queries an agent. `options` is the index of its first option.
fn parse_asking(arguments: Vec<OsString>, options: usize) -> Result<Command, ParseError> {
    let alone = Cli::try_parse_from(&arguments).map_err(ParseError::Usage)?;
    let configuration = Configuration::new(arguments, None);
    let keys = keys();
    let mut layers = match configuration.layers(&keys) {
        Ok(layers) => layers,
        Err(ConfigError(problems)) => {
            // Ordinary users need no right to read the agent's settings.
            for problem in problems.iter().filter(|problem| !problem.denied) {
                log::warn!("settings are ignored: {problem}");
            }
            return Ok(alone.into_command());
        }
    };
    layers.retain(&SHARED_KEYS);
    let with_settings = configuration.with(&layers.arguments(&keys, |_| false), options);
    // An option of the user may exclude this one, or be the same.
    Ok(Cli::try_parse_from(with_settings).unwrap_or(alone).into_command())
}

/// Returns the options of `closewait run` that are keys.
pub(super) fn keys() -> Keys {
    let run = Cli::command().find_subcommand("run").cloned();
    Keys::new(run.unwrap_or_default(), &NOT_KEYS)
}

impl Configuration {
    /// Creates the configuration of these arguments, with the environment of this process, and a file of the user.
    pub(super) fn new(arguments: Vec<OsString>, file: Option<PathBuf>) -> Self {
        let own = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::of(arguments, file, own.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect())
    }

    fn of(arguments: Vec<OsString>, file: Option<PathBuf>, variables: BTreeMap<String, OsString>) -> Self {
        let named = || variables.get(&variable_name("config")).filter(|path| !path.is_empty()).map(PathBuf::from);
        let files = file.or_else(named).map_or_else(|| ConfigFiles::Folder(FOLDER.into()), ConfigFiles::One);
        Self { arguments, files, variables, in_use: Vec::new() }
    }

    /// Reads the files, and merges them with the environment.
    ///
    /// # Errors
    ///
    /// All problems of all files, if a file cannot be read, else those of all files and variables.
    pub(super) fn layers(&self, keys: &Keys) -> Result<Layers, ConfigError> {
        Layers::merge(keys, &self.files.read()?, |name| self.variables.get(name).cloned())
    }

    /// Returns `closewait run` with all settings.
    ///
    /// # Errors
    ///
    /// If the arguments, a file or an environment variable are invalid.
    pub(super) fn resolve(&self) -> Result<Resolved, ParseError> {
        let keys = keys();
        for (name, meant) in self.misspelled(&keys) {
            log::warn!("the environment variable {name} is no setting\nhint: {meant} is one");
        }
        let alone = Cli::try_parse_from(&self.arguments);
        let layers = self.layers(&keys).map_err(|error| match &alone {
            Err(usage) if usage.kind() != ErrorKind::MissingRequiredArgument => self.usage(),
            Ok(_) | Err(_) => ParseError::Config(error),
        })?;
        let lenient = Cli::command().ignore_errors(true).try_get_matches_from(&self.arguments);
        let lenient = lenient.map_err(ParseError::Usage)?;
        let given = |key: &str| lenient.subcommand().is_some_and(|(_, run)| is_given(run, &keys, key));
        let arguments = self.with(&layers.arguments(&keys, given), 2);
        let matches = match Cli::command().try_get_matches_from(arguments) {
            Ok(matches) => matches,
            Err(error) if alone.is_ok() => {
                return Err(ParseError::Config(self.contradictions(&error, &keys, &layers, given)));
            }
            Err(_) => return Err(self.usage()),
        };
        let run = matches.subcommand().map(|(_, run)| run);
        let settings = run.map(|run| settings(run, &keys, &layers, given)).unwrap_or_default();
        match Cli::from_arg_matches(&matches).map(Cli::into_command) {
            Ok(Command::Run(run)) => match contradiction(&run) {
                Some(found) => Err(found.into_error(&settings)),
                None => Ok(Resolved { run, settings }),
            },
            Ok(_) => Err(self.usage()),
            Err(error) => Err(ParseError::Usage(error)),
        }
    }

    /// Returns variables of the environment that are almost settings, each with the name of that setting. Others are not for
    /// closewait: Kubernetes, for example, sets some for each service (`closewait` has `CLOSEWAIT_SERVICE_HOST`, and
    /// `CLOSEWAIT_PORT_9753_TCP`).
    fn misspelled(&self, keys: &Keys) -> Vec<(String, String)> {
        let known = |name: &str| keys.names().chain(NOT_KEYS).any(|key| variable_name(key) == name);
        let unknown = self.variables.keys().filter(|name| !known(name));
        let nearest = |name: &str| keys.nearest(name.strip_prefix(VARIABLE_PREFIX)?, MISSPELLED).map(variable_name);
        unknown.filter_map(|name| Some((harmless(name.as_bytes()), nearest(name)?))).collect()
    }

    /// Returns the file or folder, for messages.
    pub(super) fn place(&self) -> String {
        harmless_path(self.files.path().as_os_str().as_encoded_bytes())
    }

    /// Returns the arguments of the user, with others before the first option.
    fn with(&self, settings: &[OsString], options: usize) -> Vec<OsString> {
        let (command, rest) = self.arguments.split_at(options.min(self.arguments.len()));
        [command, settings, rest].concat()
    }

    /// Returns the error of the user's arguments alone.
    fn usage(&self) -> ParseError {
        let error = Cli::try_parse_from(&self.arguments).err();
        ParseError::Usage(error.unwrap_or_else(|| clap::Error::new(ErrorKind::InvalidSubcommand)))
    }

    /// Returns the problems of settings that do not go together, each at the place of a setting.
    fn contradictions(
        &self,
        error: &clap::Error,
        keys: &Keys,
        layers: &Layers,
        given: impl Fn(&str) -> bool,
    ) -> ConfigError {
        let of_files = || layers.entries().filter(|entry| !given(&entry.key));
        let mut problems = Vec::new();
        if error.kind() == ErrorKind::MissingRequiredArgument {
            let missing = option_names(error, ContextKind::InvalidArg);
            for entry in of_files() {
                // clap names what is missing, and not what needs it.
                let alone = self.with(&layers.arguments(keys, |key| key != entry.key), 2);
                let needs = Cli::command().try_get_matches_from(alone).err();
                let mut needs = needs.map(|error| option_names(&error, ContextKind::InvalidArg)).unwrap_or_default();
                needs.retain(|name| missing.contains(name));
                if !needs.is_empty() {
                    let (key, needs) = (&entry.key, needs.join(", "));
                    let hint = format!("set {needs} too, or remove {key}");
                    problems.push(ConfigProblem::of_setting(entry, format!("{key} needs {needs}"), Some(hint)));
                }
            }
        } else if error.kind() == ErrorKind::ArgumentConflict {
            let mut names = option_names(error, ContextKind::InvalidArg);
            names.extend(option_names(error, ContextKind::PriorArg));
            if let Some(entry) = of_files().find(|entry| names.contains(&entry.key)) {
                let others = names.iter().filter(|name| **name != entry.key).map(|name| {
                    let origin = layers.get(name).filter(|_| !given(name)).map(|other| &other.origin);
                    format!("{name} ({})", origin.unwrap_or(&SettingOrigin::CommandLine))
                });
                let what = format!("{} does not go together with {}", entry.key, others.collect::<Vec<_>>().join(", "));
                problems.push(ConfigProblem::of_setting(entry, what, Some("remove one of them".to_owned())));
            }
        }
        if problems.is_empty() {
            let (place, what) = (self.place(), format!("the settings do not go together: {}", error.kind()));
            let hint = Some("remove the settings that were added last".to_owned());
            problems.push(ConfigProblem { place, position: None, what, hint, denied: false });
        }
        ConfigError(problems)
    }
}

/// Returns the long names of the options that an error of clap has under `kind`.
fn option_names(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    let name = |shown: &String| {
        let name = shown.trim_start_matches('-');
        name.split([' ', '=', '[']).next().unwrap_or(name).to_owned()
    };
    match error.get(kind) {
        Some(ContextValue::String(shown)) => vec![name(shown)],
        Some(ContextValue::Strings(shown)) => shown.iter().map(name).collect(),
        _ => Vec::new(),
    }
}

/// Returns the problems of hooks, each at the place of its setting.
pub(super) fn unusable(errors: Vec<(&str, HookProgramError)>, settings: &[ConfigEntry]) -> ConfigError {
    let problems = errors.into_iter().map(|(key, error)| {
        let (what, hints) = problem_and_hints(&error.into());
        let unknown = || ConfigEntry { key: key.to_owned(), values: Vec::new(), origin: SettingOrigin::CommandLine };
        let setting = settings.iter().find(|setting| setting.key == key).cloned().unwrap_or_else(unknown);
        ConfigProblem::of_setting(&setting, format!("{key} cannot be used: {what}"), hints.into_iter().next())
    });
    ConfigError(problems.collect())
}

/// Settings that do not go together in a way that clap does not know.
struct Contradiction {
    /// Key of the setting that has to change.
    key: &'static str,
    /// Predicate of the sentence about it.
    what: String,
    /// Advice.
    hint: &'static str,
}

fn contradiction(run: &RunArgs) -> Option<Contradiction> {
    if let Some(kind) = run.retained_twice() {
        let hint = "give one time, one size, or one of each: 1h,1GiB";
        return Some(Contradiction { key: "retain", what: format!("has two {kind}"), hint });
    }
    (run.stacks.jvm && !run.stacks.is_on()).then(|| Contradiction {
        key: "stacks-jvm",
        what: "needs stacks auto".to_owned(),
        hint: "turn the reading of stacks on as well: stacks auto",
    })
}

impl Contradiction {
    /// Returns the error, at the place of the setting.
    fn into_error(self, settings: &[ConfigEntry]) -> ParseError {
        let Self { key, what, hint } = self;
        let setting = settings.iter().find(|setting| setting.key == key);
        match setting.filter(|setting| setting.origin != SettingOrigin::CommandLine) {
            Some(setting) => {
                let problem = ConfigProblem::of_setting(setting, format!("{key} {what}"), Some(hint.to_owned()));
                ParseError::Config(ConfigError(vec![problem]))
            }
            None => {
                let mut cli = Cli::command();
                cli.build();
                let what = format!("--{key} {what}; {hint}");
                let run = cli.find_subcommand_mut("run").map(|run| run.error(ErrorKind::ValueValidation, &what));
                ParseError::Usage(run.unwrap_or_else(|| clap::Error::raw(ErrorKind::ValueValidation, what)))
            }
        }
    }
}

/// Whether the command line has the option of a key.
fn is_given(run: &ArgMatches, keys: &Keys, key: &str) -> bool {
    keys.id(key).is_some_and(|id| {
        run.try_contains_id(id).unwrap_or(false) && run.value_source(id) == Some(ValueSource::CommandLine)
    })
}

fn settings(run: &ArgMatches, keys: &Keys, layers: &Layers, given: impl Fn(&str) -> bool) -> Vec<ConfigEntry> {
    let setting = |key: &str| {
        if let Some(entry) = layers.get(key).filter(|_| !given(key)) {
            return entry.clone();
        }
        let values = keys.id(key).and_then(|id| run.try_get_raw(id).ok().flatten());
        let values = values.map(|values| values.map(OsStr::to_owned).collect()).unwrap_or_default();
        let origin = if given(key) { SettingOrigin::CommandLine } else { SettingOrigin::Default };
        ConfigEntry { key: key.to_owned(), values, origin }
    };
    keys.names().map(setting).collect()
}

#[cfg(test)]
mod tests;
