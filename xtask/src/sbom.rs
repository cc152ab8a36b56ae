//! The list of what a static binary contains, as CycloneDX 1.5 in JSON.
//!
//! It comes from cargo's own answer, with the checksums of Cargo.lock. The crates that write this format have 60 others, which the
//! first `cargo xtask run` on a machine would build, too.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::dist::Arch;
use crate::prelude::*;

/// Version of the format.
const SPECIFICATION: &str = "1.5";
/// The package of the binary, and of the kernel program inside of it, which no dependency names: a build script compiles it.
const PROGRAMS: [&str; 2] = ["closewait-agent", "closewait-ebpf"];

/// Returns the document for the binary of `arch`.
pub(crate) fn document(workspace: &Workspace, arch: Arch) -> Result<String> {
    let mut command = workspace.cargo("metadata");
    let metadata = exec::json(command.args(["--format-version", "1", "--filter-platform", arch.target()]))?;
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock"))?;
    let document = describe(&metadata, &checksums(&lock))?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

/// A package by name and version, which are unique in Cargo.lock but for packages of several sources.
type NameVersion = (String, String);

/// Checksums of the packages of a registry.
fn checksums(lock: &str) -> BTreeMap<NameVersion, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let package = |block: &str| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?));
    lock.split("[[package]]").filter_map(package).collect()
}

/// Describes the programs of `metadata`, the output of `cargo metadata`, and what they are linked with.
fn describe(metadata: &Value, checksums: &BTreeMap<NameVersion, String>) -> Result<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package, "id"), package)).collect();
    let linked: BTreeMap<String, BTreeSet<String>> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(node, "id"), linked_with(node))).collect();
    let find = |name: &str| {
        let found = packages.iter().find(|(_id, package)| package["name"] == name && package["source"].is_null());
        found.map(|(id, _package)| id.clone()).with_context(|| format!("`cargo metadata` names no package {name}"))
    };
    let programs = [find(PROGRAMS[0])?, find(PROGRAMS[1])?];
    let mut reached = BTreeSet::new();
    let mut open = programs.to_vec();
    while let Some(id) = open.pop() {
        if reached.insert(id.clone()) {
            open.extend(linked.get(&id).into_iter().flatten().cloned());
        }
    }
    let reference = |id: &str| -> Result<String> {
        let package = packages.get(id).with_context(|| format!("`cargo metadata` does not describe {id}"))?;
        Ok(format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version")))
    };
    let component = |id: &String| -> Result<Value> {
        let package = &packages[id];
        let name_version = (text(package, "name"), text(package, "version"));
        let mut component = json!({
            "type": if *id == programs[0] { "application" } else { "library" },
            "bom-ref": reference(id)?,
            "name": name_version.0,
            "version": name_version.1,
            "purl": reference(id)?,
            "licenses": [{ "expression": text(package, "license") }],
        });
        if let Some(checksum) = checksums.get(&name_version) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        Ok(component)
    };
    let dependencies = reached.iter().map(|id| -> Result<Value> {
        let mut on: BTreeSet<_> =
            linked.get(id).into_iter().flatten().map(|id| reference(id)).collect::<Result<_>>()?;
        if *id == programs[0] {
            on.insert(reference(&programs[1])?);
        }
        Ok(json!({ "ref": reference(id)?, "dependsOn": on }))
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": { "component": component(&programs[0])? },
        "components": reached.iter().filter(|id| **id != programs[0]).map(component).collect::<Result<Vec<_>>>()?,
        "dependencies": dependencies.collect::<Result<Vec<_>>>()?,
    }))
}

/// Identifiers of the packages that a package is linked with: not those of its build script and of its tests. Macros are among
/// them, though they only run in the compiler: cargo does not tell them apart here.
fn linked_with(node: &Value) -> BTreeSet<String> {
    let dependencies = node["deps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    dependencies
        .iter()
        .filter(is_linked)
        .filter_map(|dependency| dependency["pkg"].as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_described_with_its_checksum_and_what_only_builds_is_not() {
        let package = |name: &str, source: Value| json!({ "id": name, "name": name, "version": "1.0.0", "source": source, "license": "MIT" });
        let dependency = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let registry = || json!("registry+x");
        let metadata = json!({
            "packages": [
                package("closewait-agent", Value::Null), package("closewait-ebpf", Value::Null),
                package("aya", registry()), package("aya-ebpf", registry()), package("cc", registry()), package("far", registry()),
            ],
            "resolve": { "nodes": [
                { "id": "closewait-agent", "deps": [dependency("aya", Value::Null), dependency("cc", json!("build"))] },
                { "id": "closewait-ebpf", "deps": [dependency("aya-ebpf", Value::Null)] },
                { "id": "aya", "deps": [dependency("far", Value::Null)] },
            ] },
        });
        let lock =
            "version = 4\n\n[[package]]\nname = \"far\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"ab\"\n";
        let document = describe(&metadata, &checksums(lock)).unwrap();
        assert_eq!(document["metadata"]["component"]["name"], "closewait-agent");
        let components = document["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["aya", "aya-ebpf", "closewait-ebpf", "far"]);
        assert_eq!(components[3]["hashes"][0]["content"], "ab");
        assert!(components[0].get("hashes").is_none());
        let agent = json!({
            "ref": "pkg:cargo/closewait-agent@1.0.0",
            "dependsOn": ["pkg:cargo/aya@1.0.0", "pkg:cargo/closewait-ebpf@1.0.0"],
        });
        assert!(document["dependencies"].as_array().unwrap().contains(&agent), "{document}");
    }

    #[test]
    fn an_answer_without_the_programs_is_an_error() {
        let error = describe(&json!({ "packages": [] }), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("closewait-agent"), "{error}");
    }
}
