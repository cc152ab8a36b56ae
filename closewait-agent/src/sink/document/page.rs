//! `docs/schema/README.md`: the members of all documents, as tables.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::Document;

const HEAD: &str = "\
<!-- Generated from the types that are written, by `cargo xtask docs`; change their doc comments in closewait-agent/src/sink/. -->

# JSON

This page describes every member of the JSON that closewait prints. The files beside it have the same as JSON Schema (draft 2020-12),
one file per document. `--output json` prints one object per line. [events.md](../events.md) has the source of each number.

| file | a line is | printed by |
|---|---|---|
";

/// Rules for consumers, in Markdown.
pub(crate) const RULES: &str = "\
`schema_version` is 1 in every object.

- Within one `schema_version`, members are added. None is removed or renamed, and none gets another type, unit or meaning. Accept
  members that you do not know. The schemas do so too: they have no `additionalProperties: false`.
- A new version of closewait can add types of events, and values to a fixed set of values. Treat an unknown value as you treat
  `unknown`. To validate strictly, use the schemas of the version that prints the objects.
- Texts for people (`text`, `next`, `summary`, `activity`, `unseen`, ...) can change at any time. Do not parse them.
- Any other change raises `schema_version`.

`null` means that the value is unknown or does not exist; 0 is a number that was counted. Durations are in seconds, as `*_seconds`.
Times are RFC 3339, in UTC with nanoseconds. A member marked *optional* can be absent; every other one is always there.
";

/// Returns the page.
pub(crate) fn page(documents: &[Document]) -> String {
    let mut page = HEAD.to_owned();
    for Document { name, printed_by, schema } in documents {
        put(&mut page, &format!("| [{name}.json]({name}.json) | {} | {printed_by} |", text(&schema["title"])));
    }
    put(&mut page, &format!("\n## What may change\n\n{RULES}"));
    for Document { name, schema, .. } in documents {
        put(&mut page, &format!("## {name}.json\n"));
        match lines(schema) {
            None => members(&mut page, schema),
            Some(lines) => {
                put(&mut page, "A line is one of these:\n");
                for line in lines {
                    put(&mut page, &format!("### Line {}\n\n{}\n", tag(line), text(&line["description"])));
                    members(&mut page, line);
                }
            }
        }
    }
    put(
        &mut page,
        "## Parts\n\nObjects and sets of values that are members of the objects above, in alphabetical order.\n",
    );
    for (name, part) in parts(documents) {
        put(&mut page, &format!("### {name}\n\n{}\n", text(&part["description"])));
        if part.get("enum").is_some() {
            meanings(&mut page, part);
        } else {
            members(&mut page, part);
        }
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// Returns the objects that a line can be, if there are several.
pub(crate) fn lines(schema: &Value) -> Option<impl Iterator<Item = &Value>> {
    Some(schema["oneOf"].as_array()?.iter().map(|line| &schema["$defs"][part_name(&line["$ref"])]))
}

/// Returns the constant that identifies a line, or else the name of its first own member.
pub(crate) fn tag(line: &Value) -> String {
    let constant = super::tag(line);
    let first = || line["required"].as_array()?.get(1)?.as_str().map(str::to_owned);
    format!("`{}`", constant.or_else(first).expect("a member"))
}

/// Returns the definitions that are no lines, by name.
///
/// # Panics
///
/// If two documents have different definitions with the same name.
pub(crate) fn parts(documents: &[Document]) -> BTreeMap<&str, &Value> {
    let mut all = BTreeMap::new();
    for Document { name: document, schema, .. } in documents {
        let lines: Vec<_> = lines(schema).into_iter().flatten().collect();
        for (name, part) in schema["$defs"].as_object().expect("definitions") {
            if !lines.contains(&part) {
                let other = all.insert(name.as_str(), part);
                assert!(other.is_none_or(|other| other == part), "{document}.json has another {name}");
            }
        }
    }
    all
}

/// Adds the table of an object's members.
fn members(page: &mut String, object: &Value) {
    put(page, "| member | type | meaning |\n|---|---|---|");
    for DescribedMember { name, kind, meaning } in described(object) {
        put(page, &format!("| `{name}` | {kind} | {meaning} |"));
    }
    page.push('\n');
}

/// Member of an object, in Markdown.
pub(crate) struct DescribedMember<'s> {
    /// Name.
    pub(crate) name: &'s str,
    /// Type, and whether it is optional.
    pub(crate) kind: String,
    /// Description.
    pub(crate) meaning: &'s str,
}

/// Returns an object's members: those that are always there in their order, then the optional ones.
pub(crate) fn described(object: &Value) -> impl Iterator<Item = DescribedMember<'_>> {
    let members = object["properties"].as_object().expect("members");
    let required = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let required: Vec<&str> = required.collect();
    let optional: Vec<&str> = members.keys().map(String::as_str).filter(|name| !required.contains(name)).collect();
    let count = required.len();
    required.into_iter().chain(optional).enumerate().map(move |(at, name)| {
        let note = if at < count { "" } else { ", *optional*" };
        DescribedMember { name, kind: kind(&members[name]) + note, meaning: text(&members[name]["description"]) }
    })
}

/// Adds the table of the values of a set.
fn meanings(page: &mut String, part: &Value) {
    put(page, "| value | meaning |\n|---|---|");
    for (value, meaning) in constants(part) {
        put(page, &format!("| `{value}` | {meaning} |"));
    }
    page.push('\n');
}

/// Returns the values of a set and their meanings; none for an object.
pub(crate) fn constants(part: &Value) -> impl Iterator<Item = (&str, &str)> {
    let list = |keyword: &str| part[keyword].as_array().into_iter().flatten().map(text);
    list("enum").zip(list("enumDescriptions"))
}

/// Returns the type of a member.
fn kind(schema: &Value) -> String {
    if !schema["$ref"].is_null() {
        let name = part_name(&schema["$ref"]);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let any = |schemas: &[Value]| schemas.iter().map(kind).collect::<Vec<_>>().join(" or ");
    match (&schema["const"], &schema["anyOf"], &schema["type"]) {
        (Value::Null, Value::Null, Value::Array(types)) => {
            let one = |of: &Value| {
                let mut one = schema.clone();
                one["type"] = of.clone();
                one
            };
            any(&types.iter().map(one).collect::<Vec<_>>())
        }
        (Value::Null, Value::Array(schemas), _) => any(schemas),
        (Value::Null, _, Value::String(kind)) => match (kind.as_str(), schema["format"].as_str()) {
            ("null", _) => "`null`".to_owned(),
            ("array", _) => format!("list of {}", self::kind(&schema["items"])),
            ("string", Some("date-time")) => "time".to_owned(),
            ("string", Some("ip")) => "IP address".to_owned(),
            (kind, _) => kind.to_owned(),
        },
        (constant, ..) => format!("`{constant}`"),
    }
}

fn part_name(reference: &Value) -> &str {
    text(reference).trim_start_matches("#/$defs/")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn put(page: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _infallible: std::fmt::Result = writeln!(page, "{line}");
}
