//! Settings of a file: TOML, with the place of every problem.

use std::ffi::OsString;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigEntry, ConfigText, Keys, SettingOrigin,
    problem::{ConfigProblem, TextPosition, WrongValue},
};
use closewait_engine::text::harmless;

/// Maximum number of problems of a file that are reported.
const MAX_PROBLEMS: usize = 20;

/// Returns the settings of a file, in the order of its lines.
///
/// # Errors
///
/// The problems of the file, in the order of its lines, at most 20. Texts of the file are quoted only in part: a line may contain
/// a secret.
pub fn parse(file: &ConfigText, keys: &Keys) -> Result<Vec<ConfigEntry>, Vec<ConfigProblem>> {
    let ConfigText { path, text } = file;
    let problem = |byte, wrong| ConfigProblem::in_file(path, TextPosition::of(text, byte), wrong);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problems = errors.iter().take(MAX_PROBLEMS).map(|error| {
            let wrong = WrongValue::new(
                error.message(),
                "see https://toml.io; a line looks like this:\n    stuck-after = \"60s\"",
            );
            problem(error.span().map_or(0, |span| span.start), wrong)
        });
        return Err(problems.collect());
    }
    let mut lines: Vec<_> = table.get_ref().iter().collect();
    lines.sort_by_key(|(key, _)| key.span().start);
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (key, value) in lines {
        let name = key.get_ref();
        let read = if matches!(value.get_ref(), DeValue::Table(_)) {
            let shown = harmless(name.as_bytes());
            Err((key.span().start, WrongValue::new(format!("{shown} is a section"), "write all keys without sections")))
        } else if keys.names().any(|known| known == name) {
            values(keys, name, value)
        } else {
            Err((key.span().start, keys.unknown(name)))
        };
        match read {
            Ok(values) => {
                let position = TextPosition::of(text, key.span().start);
                let origin = SettingOrigin::File { path: path.clone(), position };
                entries.push(ConfigEntry { key: name.to_string(), values, origin });
            }
            Err((byte, wrong)) => problems.push(problem(byte, wrong)),
        }
    }
    problems.truncate(MAX_PROBLEMS);
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// Invalid part of a file, by its first byte.
type WrongPart = (usize, WrongValue);

/// Returns the values of a key.
fn values(keys: &Keys, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, WrongPart> {
    let at = |start: usize| move |wrong| (start, wrong);
    let start = value.span().start;
    if let DeValue::Boolean(flag) = value.get_ref() {
        return keys.of_flag(key, *flag).map_err(at(start));
    }
    let DeValue::Array(items) = value.get_ref() else {
        let one = scalar(key, value.get_ref()).map_err(at(start))?;
        return keys.of_values(key, vec![one]).map_err(at(start));
    };
    if !keys.is_list(key) {
        return Err(at(start)(keys.not_one_value(key)));
    }
    let mut all = Vec::new();
    for item in items {
        let start = item.span().start;
        let one = scalar(key, item.get_ref()).map_err(at(start))?;
        all.extend(keys.of_values(key, vec![one]).map_err(at(start))?);
    }
    Ok(all)
}

/// Returns a value as the text of a command line.
fn scalar(key: &str, value: &DeValue<'_>) -> Result<OsString, WrongValue> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().into()),
        DeValue::Float(number) => Ok(number.as_str().into()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(number.to_string().into()),
            Err(_too_large) => {
                Err(WrongValue::new(format!("the number of {key} is too large"), "write a smaller number"))
            }
        },
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Err(WrongValue::new(
            format!("{key} cannot have a value of this type: {}", value.type_str()),
            "write a text in quotes, or a number",
        )),
    }
}
