//! The list of what a static binary contains: as CycloneDX 1.5 beside it, and in a section of its own.
//!
//! It comes from cargo's own answer, with the checksums of Cargo.lock. The crates that write this format have 60 others, which the
//! first `cargo xtask run` on a machine would build, too.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use flate2::{Compression, write::ZlibEncoder};
use serde_json::json;

use crate::dist::Arch;
use crate::prelude::*;

/// Version of the format.
const SPECIFICATION: &str = "1.5";
/// Word of the format for the default registry, and part of that registry's name in cargo's answer. No address: in two parts for the
/// rule against those.
const PUBLIC_REGISTRY: &str = concat!("crates", ".io");
/// The package of the binary, and of the kernel program inside of it, which no dependency names: a build script compiles it.
const PROGRAMS: [&str; 2] = ["closewait-agent", "closewait-ebpf"];

/// What a static binary contains, in the two forms of which each has its readers.
pub(crate) struct Contents {
    /// CycloneDX.
    pub(crate) document: String,
    /// Content of the section `.dep-v0`.
    pub(crate) section: Vec<u8>,
}

/// Describes the binary of `arch`.
pub(crate) fn contents(workspace: &Workspace, arch: Arch) -> Result<Contents> {
    let mut command = workspace.cargo("metadata");
    let metadata = exec::json(command.args(["--format-version", "1", "--filter-platform", arch.target()]))?;
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock"))?;
    let linked = Linked::read(&metadata)?;
    let document = serde_json::to_string_pretty(&linked.cyclonedx(&checksums(&lock)))?;
    let mut compressor = ZlibEncoder::new(Vec::new(), Compression::best());
    serde_json::to_writer(&mut compressor, &linked.auditable())?;
    Ok(Contents { document: format!("{document}\n"), section: compressor.finish()? })
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

/// The packages in a binary, sorted by name and version, the agent's own first.
struct Linked(Vec<Package>);

/// A package in a binary.
struct Package {
    name: String,
    version: String,
    license: String,
    /// `None`: a package of this repository.
    source: Option<String>,
    /// Positions of the packages that it is linked with.
    dependencies: BTreeSet<usize>,
}

impl Linked {
    /// Finds what the programs of `metadata`, the output of `cargo metadata`, are linked with.
    fn read(metadata: &Value) -> Result<Self> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let packages: BTreeMap<String, Value> =
            list(&metadata["packages"]).into_iter().map(|package| (text(&package, "id"), package)).collect();
        let nodes: BTreeMap<String, Value> =
            list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node, "id"), node)).collect();
        let find = |name: &str| {
            let found = packages.iter().find(|(_id, package)| package["name"] == name && package["source"].is_null());
            found.map(|(id, _package)| id.clone()).with_context(|| format!("`cargo metadata` names no package {name}"))
        };
        let [agent, kernel_program] = [find(PROGRAMS[0])?, find(PROGRAMS[1])?];
        let linked = |id: &String| {
            let mut ids = nodes.get(id).map(linked_with).unwrap_or_default();
            ids.retain(|id| !packages.get(id).is_some_and(is_macro));
            if *id == agent {
                ids.insert(kernel_program.clone());
            }
            ids
        };
        let (mut reached, mut open) = (BTreeMap::new(), vec![agent.clone()]);
        while let Some(id) = open.pop() {
            if let Entry::Vacant(new) = reached.entry(id) {
                let dependencies = linked(new.key());
                open.extend(dependencies.iter().cloned());
                new.insert(dependencies);
            }
        }
        // Not by identifiers, which have the paths of this machine.
        let mut order = Vec::new();
        for id in reached.keys() {
            let package = packages.get(id).with_context(|| format!("`cargo metadata` does not describe {id}"))?;
            order.push((*id != agent, text(package, "name"), text(package, "version"), id));
        }
        order.sort();
        let positions: BTreeMap<_, _> = order.iter().zip(0_usize..).map(|((.., id), at)| (*id, at)).collect();
        let package = |(_, name, version, id): &(bool, String, String, &String)| Package {
            name: name.clone(),
            version: version.clone(),
            license: text(&packages[*id], "license"),
            source: packages[*id]["source"].as_str().map(str::to_owned),
            dependencies: reached[*id].iter().map(|id| positions[id]).collect(),
        };
        Ok(Self(order.iter().map(package).collect()))
    }

    fn cyclonedx(&self, checksums: &BTreeMap<NameVersion, String>) -> Value {
        let reference = |package: &Package| format!("pkg:cargo/{}@{}", package.name, package.version);
        let component = |(at, package): (usize, &Package)| {
            let mut component = json!({
                "type": if at == 0 { "application" } else { "library" },
                "bom-ref": reference(package),
                "name": package.name,
                "version": package.version,
                "purl": reference(package),
                "licenses": [{ "expression": package.license }],
            });
            if let Some(checksum) = checksums.get(&(package.name.clone(), package.version.clone())) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
            }
            component
        };
        let dependency = |package: &Package| {
            let on: Vec<_> = package.dependencies.iter().map(|at| reference(&self.0[*at])).collect();
            json!({ "ref": reference(package), "dependsOn": on })
        };
        let mut components = self.0.iter().enumerate().map(component);
        json!({
            "bomFormat": "CycloneDX",
            "specVersion": SPECIFICATION,
            "version": 1,
            "metadata": { "component": components.next() },
            "components": components.collect::<Vec<_>>(),
            "dependencies": self.0.iter().map(dependency).collect::<Vec<_>>(),
        })
    }

    /// The list that cargo-auditable writes into a binary, where scanners for known vulnerabilities look for it (its PARSING.md, 0.7.7).
    /// The program itself is of no use here: cargo hashes the path of a compiler's wrapper into every name of a symbol, so that
    /// each clone would have another binary.
    fn auditable(&self) -> Value {
        let package = |(at, package): (usize, &Package)| {
            let source = match package.source.as_deref() {
                None => "local",
                Some(source) if source.contains(PUBLIC_REGISTRY) => PUBLIC_REGISTRY,
                Some(source) if source.starts_with("git+") => "git",
                Some(_other) => "registry",
            };
            let mut described = json!({ "name": package.name, "version": package.version, "source": source });
            if !package.dependencies.is_empty() {
                described["dependencies"] = json!(package.dependencies);
            }
            if at == 0 {
                described["root"] = json!(true);
            }
            described
        };
        json!({ "packages": self.0.iter().enumerate().map(package).collect::<Vec<_>>() })
    }
}

/// Whether a package only runs in the compiler.
fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    targets
        .iter()
        .any(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "proc-macro")))
}

/// Identifiers of the packages that a package is linked with: not those of its build script and of its tests.
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
        let package = |name: &str, source: Value, kind: &str| {
            let targets = json!([{ "kind": [kind] }]);
            json!({ "id": format!("file:///home/{name}"), "name": name, "version": "1.0.0", "source": source, "license": "MIT", "targets": targets })
        };
        let dependency =
            |name: &str, kind: Value| json!({ "pkg": format!("file:///home/{name}"), "dep_kinds": [{ "kind": kind }] });
        let registry = || json!(format!("registry+https://github.com/rust-lang/{PUBLIC_REGISTRY}-index"));
        let metadata = json!({
            "packages": [
                package("closewait-agent", Value::Null, "lib"), package("closewait-ebpf", Value::Null, "bin"),
                package("aya", registry(), "lib"), package("aya-ebpf", registry(), "lib"), package("cc", registry(), "lib"),
                package("derive", registry(), "proc-macro"), package("far", json!("git+https://x"), "lib"),
            ],
            "resolve": { "nodes": [
                {
                    "id": "file:///home/closewait-agent",
                    "deps": [dependency("aya", Value::Null), dependency("cc", json!("build")), dependency("derive", Value::Null)],
                },
                { "id": "file:///home/closewait-ebpf", "deps": [dependency("aya-ebpf", Value::Null)] },
                { "id": "file:///home/aya", "deps": [dependency("far", Value::Null)] },
            ] },
        });
        let lock =
            "version = 4\n\n[[package]]\nname = \"far\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"ab\"\n";
        let linked = Linked::read(&metadata).unwrap();
        let document = linked.cyclonedx(&checksums(lock));
        assert_eq!(document["metadata"]["component"]["name"], "closewait-agent");
        let components = document["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["aya", "aya-ebpf", "closewait-ebpf", "far"]);
        assert_eq!(components[3]["hashes"][0]["content"], "ab");
        assert!(components[0].get("hashes").is_none());
        let on = json!(["pkg:cargo/aya@1.0.0", "pkg:cargo/closewait-ebpf@1.0.0"]);
        assert_eq!(document["dependencies"][0], json!({ "ref": "pkg:cargo/closewait-agent@1.0.0", "dependsOn": on }));
        assert!(!document.to_string().contains("/home/"), "{document}");
        let packages = json!([
            { "name": "closewait-agent", "version": "1.0.0", "source": "local", "dependencies": [1, 3], "root": true },
            { "name": "aya", "version": "1.0.0", "source": PUBLIC_REGISTRY, "dependencies": [4] },
            { "name": "aya-ebpf", "version": "1.0.0", "source": PUBLIC_REGISTRY },
            { "name": "closewait-ebpf", "version": "1.0.0", "source": "local", "dependencies": [2] },
            { "name": "far", "version": "1.0.0", "source": "git" },
        ]);
        assert_eq!(linked.auditable(), json!({ "packages": packages }));
    }

    #[test]
    fn an_answer_without_the_programs_is_an_error() {
        let error = Linked::read(&json!({ "packages": [] })).err().unwrap();
        assert!(error.to_string().contains("closewait-agent"), "{error}");
    }
}
