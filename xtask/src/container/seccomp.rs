//! The default seccomp profile of container engines, as a part of a runtime's configuration.
//!
//! Debian's skopeo brings that of Podman and CRI-O. Those of containerd (since containerd/containerd#7301) and of Docker (since
//! moby/moby#43987) differ from it in what counts here: they allow bpf() to CAP_BPF, and perf_event_open() to CAP_PERFMON.

use serde_json::json;

use crate::prelude::*;

/// Where skopeo's dependencies install the profile.
const PROFILE: &str = "/usr/share/containers/seccomp.json";
/// Calls that containerd and Docker allow to a capability.
const BY_CAPABILITY: [(&str, &str); 2] = [("CAP_BPF", "bpf"), ("CAP_PERFMON", "perf_event_open")];

/// Returns the profile for a process with these capabilities on x86_64 or aarch64.
pub(super) fn runtime_default(capabilities: &[String]) -> Result<Value> {
    let profile: Value = serde_json::from_str(&fs::read_to_string(PROFILE)?).context("it is no JSON")?;
    Ok(of(&profile, capabilities))
}

fn of(profile: &Value, capabilities: &[String]) -> Value {
    let allowed: Vec<_> = BY_CAPABILITY
        .iter()
        .filter(|(capability, _call)| capabilities.iter().any(|own| own == capability))
        .map(|(_capability, call)| *call)
        .collect();
    let mut rules = Vec::new();
    for rule in profile["syscalls"].as_array().into_iter().flatten() {
        if !applies(&rule["includes"], true, capabilities) || !applies(&rule["excludes"], false, capabilities) {
            continue;
        }
        let mut rule = rule.clone();
        let names = rule["names"].as_array().cloned().unwrap_or_default();
        // A refusal would come before a permission.
        let rest = names.into_iter().filter(|name| !allowed.iter().any(|call| name == call)).collect::<Vec<_>>();
        if rest.is_empty() {
            continue;
        }
        rule["names"] = rest.into();
        if let Some(members) = rule.as_object_mut() {
            members.retain(|name, value| {
                ["names", "action", "args", "errnoRet"].contains(&name.as_str()) && !value.is_null()
            });
        }
        rules.push(rule);
    }
    if !allowed.is_empty() {
        rules.push(json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    }
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    })
}

/// Whether a process meets a filter: for `includes` all of its capabilities, for `excludes` none.
fn applies(filter: &Value, includes: bool, capabilities: &[String]) -> bool {
    let names = |member: &str| filter[member].as_array().cloned().unwrap_or_default();
    let has = |name: &Value| capabilities.iter().any(|own| name == own.as_str());
    let is_here = |name: &Value| name == if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let (capabilities, architectures) = (names("caps"), names("arches"));
    if includes {
        capabilities.iter().all(has) && (architectures.is_empty() || architectures.iter().any(is_here))
    } else {
        !capabilities.iter().any(has) && !architectures.iter().any(is_here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_allowed_with_its_capability_only() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {} },
                { "names": ["bpf", "setns"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["bpf", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["sync_file_range2"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["ppc64le"] } },
            ],
        });
        let rules = |capabilities: &[&str]| {
            let capabilities: Vec<_> = capabilities.iter().map(|name| (*name).to_owned()).collect();
            of(&profile, &capabilities)["syscalls"].clone()
        };
        let read = json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW" });
        let refused = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1 });
        assert_eq!(rules(&[]), json!([read, refused(&["bpf", "setns"])]));
        let bpf = json!({ "names": ["bpf"], "action": "SCMP_ACT_ALLOW" });
        assert_eq!(rules(&["CAP_BPF"]), json!([read, refused(&["setns"]), bpf]));
        let admin = json!({ "names": ["bpf", "setns"], "action": "SCMP_ACT_ALLOW" });
        assert_eq!(rules(&["CAP_SYS_ADMIN"]), json!([read, admin]));
    }
}
