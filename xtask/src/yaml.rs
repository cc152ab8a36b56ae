//! Documents of YAML as JSON values.

use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::Map;

use crate::prelude::*;

/// Returns the documents of a text in YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let parsed = Yaml::load_from_str(text).context("it is no YAML")?;
    parsed.iter().map(value).collect()
}

fn value(yaml: &Yaml<'_>) -> Result<Value> {
    Ok(match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => Value::from(*value),
        Yaml::Value(Scalar::Integer(value)) => Value::from(*value),
        Yaml::Value(Scalar::FloatingPoint(value)) => Value::from(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => Value::from(value.as_ref()),
        Yaml::Sequence(items) => items.iter().map(value).collect::<Result<Vec<_>>>()?.into(),
        Yaml::Mapping(members) => {
            let mut object = Map::new();
            for (key, member) in members {
                object.insert(key.as_str().context("a key is no text")?.to_owned(), value(member)?);
            }
            object.into()
        }
        Yaml::Tagged(_, tagged) => value(tagged)?,
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => bail!("{yaml:?} has no value in JSON"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_becomes_json() {
        let text = "a: [1, \"1\", true, null]\nb:\n  c: |\n    x\n    y\n---\n- d\n";
        let expected = [serde_json::json!({"a": [1, "1", true, null], "b": {"c": "x\ny\n"}}), serde_json::json!(["d"])];
        assert_eq!(documents(text).unwrap(), expected);
        assert!(documents("a: *b").is_err() && documents("1: 2").is_err() && documents("{").is_err());
    }
}
