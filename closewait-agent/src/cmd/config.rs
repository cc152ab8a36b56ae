//! `closewait config`.

use std::{ffi::OsString, fmt::Write as _};

use serde::Serialize;

use super::{
    exit, print,
    run::hooks,
    settings::{Configuration, ParseError, Resolved, keys},
};
#[cfg(test)]
use crate::sink::document::*;
use crate::{
    cli::{ConfigAction, ConfigArgs, ConfigCheckArgs, ConfigShowArgs, OutputFormat},
    config::{self, ConfigEntry, ConfigError, ConfigProblem, SettingOrigin, example},
    logging,
    sink::json,
};

const SCHEMA_VERSION: u32 = 1;

/// Effective value of a setting of `closewait run`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct SettingLine {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Name of the setting: the long name of the option.
    setting: String,
    /// Values as text; none for an option that is not set and has no default. Secrets are hidden.
    values: Vec<String>,
    /// Source of the values.
    #[cfg_attr(test, schemars(with = "SettingSourceName"))]
    source: &'static str,
    /// Path of the file; `null` for other sources.
    file: Option<String>,
    /// Line in the file; `null` for other sources.
    line: Option<usize>,
    /// Name of the environment variable; `null` for other sources.
    variable: Option<String>,
}

/// Problem of the configuration.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct ProblemLine {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Problem, as text for people.
    problem: String,
    /// File, or environment variable.
    place: String,
    /// Line in the file, from 1; `null` if the problem is not about one line.
    line: Option<usize>,
    /// Column in the line, in characters from 1; `null` if the problem is not about one line.
    column: Option<usize>,
    /// Action for the user, as text; `null` if there is none.
    hint: Option<String>,
}

/// Checks or shows the configuration, or prints an example. Returns the exit code.
///
/// # Errors
///
/// If standard output cannot be written.
pub(super) fn config(args: &ConfigArgs) -> anyhow::Result<u8> {
    match &args.action {
        ConfigAction::Check(args) => check(args),
        ConfigAction::Show(args) => show(args),
        ConfigAction::Example => print(example(&keys()).as_bytes()).map(|()| 0),
    }
}

fn check(args: &ConfigCheckArgs) -> anyhow::Result<u8> {
    let arguments = ["closewait", "run"].map(OsString::from).to_vec();
    let configuration = Configuration::new(arguments, args.file.clone().or_else(|| args.config.clone()));
    match configuration.resolve() {
        Ok(Resolved { run, settings }) => {
            if let Err(error) = hooks(&run.hooks, &settings) {
                return report(ParseError::Config(error), args.shape.output);
            }
            if args.shape.output == OutputFormat::Text {
                print(b"configuration ok\n")?;
            }
            Ok(0)
        }
        Err(error) => report(error, args.shape.output),
    }
}

/// Prints the problems. Returns the exit code.
fn report(error: ParseError, output: OutputFormat) -> anyhow::Result<u8> {
    let ConfigError(problems) = match error {
        ParseError::Config(error) => error,
        ParseError::Usage(mut error) => {
            config::hide_secrets(&mut error);
            logging::print(&error.render().to_string());
            return Ok(exit::USAGE);
        }
    };
    match output {
        OutputFormat::Text => problems.iter().for_each(|problem| log::error!("{problem}")),
        OutputFormat::Json => {
            let lines = problems.into_iter().map(|problem| {
                let ConfigProblem { place, position, what, hint, .. } = problem;
                let (line, column) = (position.map(|at| at.line), position.map(|at| at.column));
                ProblemLine { schema_version: SCHEMA_VERSION, problem: what, place, line, column, hint }
            });
            print(&json_lines(lines)?)?;
        }
    }
    Ok(exit::USAGE)
}

fn show(args: &ConfigShowArgs) -> anyhow::Result<u8> {
    let arguments = ["closewait", "run"].map(OsString::from).into_iter().chain(args.options.iter().cloned());
    let configuration = Configuration::new(arguments.collect(), args.config.clone());
    let Resolved { settings, .. } = match configuration.resolve() {
        Ok(resolved) => resolved,
        Err(error) => return report(error, args.shape.output),
    };
    match args.shape.output {
        OutputFormat::Text => print(table(&settings).as_bytes())?,
        OutputFormat::Json => print(&json_lines(settings.iter().map(line))?)?,
    }
    Ok(0)
}

fn json_lines(lines: impl Iterator<Item = impl Serialize>) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    for line in lines {
        json::write_line(&line, &mut text)?;
    }
    Ok(text)
}

/// Returns the settings in columns: name, value, source.
fn table(settings: &[ConfigEntry]) -> String {
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            let values = setting.shown().join(",");
            (&setting.key, if values.is_empty() { "-".to_owned() } else { values }, setting.origin.to_string())
        })
        .collect();
    let names = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    // A long path must not push all sources to the right.
    let widest =
        rows.iter().map(|(_, values, _)| values.chars().count()).filter(|width| *width <= 40).max().unwrap_or(0);
    let mut text = String::new();
    for (key, values, origin) in rows {
        let _never = writeln!(text, "{key:names$}  {values:widest$}  {origin}");
    }
    text
}

fn line(setting: &ConfigEntry) -> SettingLine {
    let line = SettingLine {
        schema_version: SCHEMA_VERSION,
        setting: setting.key.clone(),
        values: setting.shown(),
        source: "default",
        file: None,
        line: None,
        variable: None,
    };
    match &setting.origin {
        SettingOrigin::Default => line,
        SettingOrigin::CommandLine => SettingLine { source: "command_line", ..line },
        SettingOrigin::Environment(name) => SettingLine { source: "environment", variable: Some(name.clone()), ..line },
        SettingOrigin::File { path, position } => SettingLine {
            source: "file",
            file: Some(path.to_string_lossy().into_owned()),
            line: Some(position.line),
            ..line
        },
    }
}
