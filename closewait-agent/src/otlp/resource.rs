//! Resource and values that metrics and logs share.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

/// Files with the identifier of a host (semantic conventions of OpenTelemetry, `host.id` of hosts outside of clouds).
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Length of the identifier, hexadecimal digits (machine-id(5)).
const MACHINE_ID_DIGITS: usize = 32;

/// Returns the resource of everything that the agent exports. The user's attributes replace those of the agent.
pub(super) fn resource(host: Option<&str>, machine_id: Option<&str>, users: &[(String, String)]) -> Resource {
    let own = [
        ("service.name", Some("closewait")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("host.name", host),
        ("host.id", machine_id),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut attributes: Vec<KeyValue> = Vec::new();
    for (name, value) in own.chain(users.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        let attribute = text(name, value);
        match attributes.iter_mut().find(|one| one.key == name) {
            Some(one) => *one = attribute,
            None => attributes.push(attribute),
        }
    }
    Resource { attributes, ..Resource::default() }
}

/// Reads the identifier of this host; `None` if there is none, or it is malformed.
pub(super) fn machine_id() -> Option<String> {
    let read = |path| {
        let text = fs::read_to_string(path).ok()?;
        let id = text.trim();
        let is_id = id.len() == MACHINE_ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id.to_owned())
    };
    MACHINE_IDS.into_iter().find_map(read)
}

/// Returns the scope of everything that the agent exports.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "closewait".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

/// Returns a time as messages have it: nanoseconds since 1970.
pub(super) fn nanos(at: SystemTime) -> u64 {
    closewait_engine::time::nanos(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_attributes_replace_those_of_the_agent() {
        let users = [("service.name", "cw"), ("deployment.environment.name", "prod")];
        let users = users.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let Resource { attributes, .. } = resource(Some("web-1"), None, &users);
        let expected = [
            text("service.name", "cw"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", "web-1"),
            text("deployment.environment.name", "prod"),
        ];
        assert_eq!(attributes, expected);
    }
}
