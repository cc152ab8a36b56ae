//! The JSON Schema files of `docs/schema/`, as part of the test program, which may run where there is no repository.

use std::{collections::BTreeMap, sync::OnceLock};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

const FILES: [(&str, &str); 12] = [
    ("check", include_str!("../../../docs/schema/check.json")),
    ("check-command", include_str!("../../../docs/schema/check-command.json")),
    ("config", include_str!("../../../docs/schema/config.json")),
    ("doctor", include_str!("../../../docs/schema/doctor.json")),
    ("events", include_str!("../../../docs/schema/events.json")),
    ("explain", include_str!("../../../docs/schema/explain.json")),
    ("kill", include_str!("../../../docs/schema/kill.json")),
    ("list", include_str!("../../../docs/schema/list.json")),
    ("list-by", include_str!("../../../docs/schema/list-by.json")),
    ("report", include_str!("../../../docs/schema/report.json")),
    ("stacks", include_str!("../../../docs/schema/stacks.json")),
    ("status", include_str!("../../../docs/schema/status.json")),
];

/// Returns the schema of a document, as users get it.
///
/// # Panics
///
/// If there is no file with this name.
pub fn schema(document: &str) -> Value {
    let (_, text) = FILES.iter().find(|(name, _)| *name == document).expect("a schema with this name");
    serde_json::from_str(text).expect("JSON")
}

/// Fails the test if the object does not have the schema of this document, or a member that the schema does not describe.
///
/// # Panics
///
/// If the object does not conform, with each difference.
pub fn conforms(document: &str, object: &Value) {
    static VALIDATORS: OnceLock<BTreeMap<&str, Validator>> = OnceLock::new();
    let validators = VALIDATORS.get_or_init(|| FILES.iter().map(|(name, _)| (*name, closed(name))).collect());
    let validator = validators.get(document).expect("a schema with this name");
    let differences: Vec<String> = validator.iter_errors(object).map(|error| describe(&error)).collect();
    let hint = "after a change of the types, run `cargo xtask docs`";
    assert!(differences.is_empty(), "not as in docs/schema/{document}.json ({hint}): {differences:#?} in {object}");
}

/// Returns a validator that refuses members without a description.
fn closed(document: &str) -> Validator {
    let mut schema = schema(document);
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// Refuses further members in each schema with members. That is correct because no object has the members of two schemas.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            if keywords.contains_key("properties") && keywords.get("type").is_some_and(|kind| kind == "object") {
                keywords.insert("additionalProperties".to_owned(), false.into());
            }
            keywords.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Describes a difference. Of alternatives, that is the one with the fewest differences.
fn describe(error: &ValidationError<'_>) -> String {
    if let ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } = error.kind()
        && let Some(nearest) = context.iter().min_by_key(|differences| differences.len())
    {
        return nearest.iter().map(describe).collect::<Vec<_>>().join("; ");
    }
    format!("{}: {}", error.instance_path(), error.masked())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn missed() -> Value {
        json!({ "schema_version": 1, "event": "missed", "time": "2026-11-26T18:46:26.262000000Z", "count": 3 })
    }

    fn is_refused(event: Value) -> bool {
        std::panic::catch_unwind(|| conforms("events", &event)).is_err()
    }

    #[test]
    fn a_wrong_event_is_refused() {
        conforms("events", &missed());
        let with = |member: &str, value: Value| {
            let mut event = missed();
            event[member] = value;
            is_refused(event)
        };
        assert!(with("schema_version", 2.into()) && with("count", Value::Null) && with("count", (-1).into()));
        assert!(with("time", "2026-11-26 18:46".into()) && with("event", "unheard_of".into()));
        let mut event = missed();
        event.as_object_mut().unwrap().remove("count");
        assert!(is_refused(event));
    }

    #[test]
    fn consumers_accept_new_members_and_these_tests_do_not() {
        let mut event = missed();
        event["new"] = 1.into();
        assert!(jsonschema::validator_for(&schema("events")).unwrap().is_valid(&event));
        assert!(is_refused(event));
    }

    #[test]
    fn every_file_is_a_schema() {
        for (name, _) in FILES {
            jsonschema::meta::validate(&schema(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
