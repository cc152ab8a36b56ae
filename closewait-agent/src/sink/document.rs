//! JSON Schema of everything that closewait prints as JSON: `docs/schema/`, generated from the types that are written.
//!
//! Only tests contain this module. `cargo xtask docs` writes the files, and `cargo xtask docs --check` compares them.

mod names;
pub(crate) mod page;

pub(crate) use self::{names::*, page::page};
pub(crate) use schemars::JsonSchema;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// Ends of type names that say nothing to a reader of a schema.
const SUFFIXES: [&str; 3] = ["Object", "Members", "Name"];
/// Sentence in each description: what a consumer has to accept.
const OPEN: &str = "Later versions add members, so accept members that are not described here.";

/// JSON document of a command, one per line of its output.
pub(crate) struct Document {
    /// Name of the file, without its extension.
    pub(crate) name: &'static str,
    /// Commands that print the document.
    pub(crate) printed_by: &'static str,
    /// Schema.
    pub(crate) schema: Value,
}

/// Returns the schema of a type, whose parts become definitions of the generator.
pub(crate) type Root = fn(&mut SchemaGenerator) -> String;

/// Returns the name of a type's definition, after it was added to the generator.
pub(crate) fn root<T: JsonSchema>(generator: &mut SchemaGenerator) -> String {
    let _reference = generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

impl Document {
    /// Creates the schema of a document that has one of these types.
    pub(crate) fn new(name: &'static str, printed_by: &'static str, what: &str, roots: &[Root]) -> Self {
        let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let roots: Vec<String> = roots.iter().map(|root| root(&mut generator)).collect();
        let mut parts = generator.take_definitions(true);
        let mut variants = Vec::new();
        for root in roots {
            let schema = parts.remove(&root).expect("the generator has the type");
            variants.extend(split(&root, schema, &parts));
        }
        let mut schema = Map::new();
        if let [(_name, only)] = variants.as_mut_slice() {
            schema.append(only.as_object_mut().expect("an object"));
        } else {
            let reference = |(name, _): &(String, Value)| json!({ "$ref": format!("#/$defs/{name}") });
            schema.insert("oneOf".to_owned(), variants.iter().map(reference).collect());
            parts.extend(variants);
        }
        let address = format!("{}/raw/main/docs/schema/{name}.json", env!("CARGO_PKG_REPOSITORY"));
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("$id".to_owned(), address.into());
        schema.insert("title".to_owned(), what.into());
        schema.insert("description".to_owned(), format!("{what}, printed by {printed_by}. {OPEN}").into());
        let mut schema = Value::Object(schema);
        let used = reachable(&schema, &parts);
        parts.retain(|name, _| used.contains(name));
        schema["$defs"] = Value::Object(parts);
        polish(&mut schema);
        Self { name, printed_by, schema }
    }

    /// Returns the text of the file.
    pub(crate) fn file(&self) -> String {
        format!("{:#}\n", self.schema)
    }
}

/// Splits the schema of an object with common and alternative members into one whole schema per alternative, each with its
/// name.
fn split(name: &str, mut schema: Value, parts: &Map<String, Value>) -> Vec<(String, Value)> {
    let common = schema.as_object_mut().expect("an object");
    let Some(Value::Array(variants)) = common.remove("oneOf").or_else(|| common.remove("anyOf")) else {
        return vec![(line_name(name, tag(&schema)), schema)];
    };
    let whole = |variant: Value| {
        let mut whole = schema.clone();
        let inner = variant["$ref"].as_str().and_then(|path| parts.get(path.strip_prefix("#/$defs/")?));
        for variant in inner.into_iter().chain([&variant]) {
            for (keyword, value) in variant.as_object().expect("an object") {
                match (whole.get_mut(keyword), value) {
                    (Some(Value::Object(all)), Value::Object(more)) => all.extend(more.clone()),
                    (Some(Value::Array(all)), Value::Array(more)) => all.extend(more.clone()),
                    _ if keyword == "$ref" => {}
                    _ => whole[keyword] = value.clone(),
                }
            }
        }
        let members = whole["properties"].as_object_mut().expect("members");
        if let Some(tag) = members.values_mut().find(|member| member["const"].is_string()) {
            tag["description"] = format!("Type of the line: {}.", tag["const"]).replace('"', "`").into();
        } else {
            // The value of one member is the name of another one.
            let named = ["process", "listener", "peer", "cgroup"].into_iter().find(|name| members.contains_key(*name));
            members["by"]["const"] = named.expect("a member of this name").into();
            members["by"].as_object_mut().expect("a schema").remove("$ref");
        }
        (line_name(name, tag(&whole)), whole)
    };
    variants.into_iter().map(whole).collect()
}

/// Returns the name of a line's definition: that of its tag, if it has one, else that of its type.
fn line_name(name: &str, tag: Option<String>) -> String {
    let words = tag.as_deref().unwrap_or(name).split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.collect::<String>().trim_end_matches("Line").to_owned() + "Line"
}

/// Returns the constant of the member that has one.
fn tag(schema: &Value) -> Option<String> {
    let mut members = schema["properties"].as_object()?.values();
    members.find_map(|member| member["const"].as_str().map(str::to_owned))
}

/// Returns the names of the parts that a schema needs.
fn reachable(schema: &Value, parts: &Map<String, Value>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut next = vec![schema];
    while let Some(value) = next.pop() {
        match value {
            Value::Object(members) => next.extend(members.values()),
            Value::Array(items) => next.extend(items),
            Value::String(text) => {
                let name = text.strip_prefix("#/$defs/").filter(|name| !found.iter().any(|found| found == name));
                if let Some((name, part)) = name.and_then(|name| parts.get_key_value(name)) {
                    found.push(name.clone());
                    next.push(part);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

/// Makes a schema readable: names for people, descriptions of one line, and no negative durations.
fn polish(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::String(description)) = keywords.get_mut("description") {
                *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            if let Some(Value::String(path)) = keywords.get_mut("$ref") {
                *path = short(path).to_owned();
            }
            if let Some(Value::Object(parts)) = keywords.get_mut("$defs") {
                let count = parts.len();
                let named = std::mem::take(parts).into_iter().map(|(name, part)| (short(&name).to_owned(), part));
                *parts = named.collect();
                assert_eq!(parts.len(), count, "two parts have the same short name");
            }
            // An `enum` has a schema for each variant.
            if let Some(values) = keywords.get("oneOf").and_then(constants) {
                keywords.remove("oneOf");
                keywords.extend(values);
            }
            if let Some(Value::Object(members)) = keywords.get_mut("properties") {
                for (_, member) in members.iter_mut().filter(|(name, _)| is_duration(name)) {
                    member["minimum"] = 0.into();
                }
            }
            keywords.values_mut().for_each(polish);
        }
        Value::Array(items) => items.iter_mut().for_each(polish),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the values and their meanings, if every alternative is a constant.
fn constants(alternatives: &Value) -> Option<Map<String, Value>> {
    let alternatives = alternatives.as_array()?.iter();
    let list = |keyword: &str| {
        let texts = alternatives.clone().map(|value| Some(value.get(keyword)?.as_str()?.trim_end_matches('.')));
        texts.map(|text| Some(Value::from(text?))).collect::<Option<Value>>()
    };
    let mut values = Map::new();
    values.insert("enum".to_owned(), list("const")?);
    values.insert("enumDescriptions".to_owned(), list("description")?);
    values.insert("type".to_owned(), "string".into());
    Some(values)
}

fn short(name: &str) -> &str {
    SUFFIXES.into_iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn is_duration(member: &str) -> bool {
    member.ends_with("_seconds") || member == "seconds_ago"
}

/// Returns the documents that sinks write.
pub(crate) fn documents() -> Vec<Document> {
    use super::{check, explain, kill, report, schema, stacks, status, stream};

    let stream = "`run`, `tail` and `replay`, and read by hooks on standard input";
    vec![
        Document::new("events", stream, "Event", &[root::<schema::EventLine<'_>>, root::<stream::MissedObject>]),
        Document::new("status", "`status`", "Overview of all groups", &[root::<status::json::StatusObject<'_>>]),
        Document::new("list", "`list`", "Socket", &[root::<schema::ListedObject<'_>>]),
        Document::new(
            "list-by",
            "`list --by`",
            "Group of sockets",
            &[root::<schema::GroupObject<'_>>, root::<status::json::ListedGroupObject<'_>>],
        ),
        Document::new("report", "`report`", "Incident report", &[root::<report::json::ReportObject<'_>>]),
        Document::new(
            "stacks",
            "`stacks`",
            "Stacks of the threads of a process",
            &[root::<stacks::ProcessStacksLine<'_>>],
        ),
        Document::new("explain", "`explain`", "Class or rule of verdicts", &[root::<explain::TopicLine>]),
        Document::new("check", "`check`", "Result of a check", &[root::<check::ProbeObject<'_>>]),
        Document::new(
            "check-command",
            "`check -- CMD` on standard error",
            "Result for a command",
            &[root::<check::left_behind::ResultObject<'_>>],
        ),
        Document::new(
            "kill",
            "`kill`",
            "Matching socket, its plan and its outcome",
            &[root::<kill::PlannedObject<'_>>],
        ),
    ]
}
