//! Unit, container and pod of a cgroup, read from its path alone.
//!
//! systemd and container engines use different forms of paths: scopes of systemd (`docker-ID.scope`) or plain folders
//! (`docker/ID`), depending on the driver. One path can contain several of them, as for a container or a systemd in a container.
//! The innermost one counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{harmless_field, still_harmless};

/// Unit, container and pod of a cgroup. All text is harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Path of the cgroup.
    #[serde(deserialize_with = "harmless_field")]
    pub cgroup_path: String,
    /// Innermost systemd unit (`*.service` or `*.scope`) of the system or of a user. In a container, only a unit of the systemd
    /// that runs there; the scope of the container itself does not count, because users do not know it.
    #[serde(default, deserialize_with = "harmless_field")]
    pub unit: Option<String>,
    /// Innermost container.
    pub container: Option<Container>,
    /// Kubernetes pod.
    pub pod: Option<Pod>,
}

/// Container of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Id of 64 hexadecimal digits, or the name for engines that have no ids (LXC, nspawn).
    #[serde(deserialize_with = "harmless_field")]
    pub id: String,
    /// Engine that runs the container; `None` if the path has only the id, as with the `cgroupfs` driver of Kubernetes.
    pub runtime: Option<ContainerRuntime>,
}

/// Engine that runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRuntime {
    /// Docker, dockershim too.
    Docker,
    /// containerd, under Kubernetes or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// LXC, LXD, Incus.
    Lxc,
    /// systemd-nspawn and others that register with systemd-machined.
    Nspawn,
}

impl ContainerRuntime {
    /// Returns the common name of the engine.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
        }
    }
}

impl fmt::Display for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Pod. A path contains only its uid; the names come from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Uid with dashes, or 32 digits without dashes for a static pod, as in the API and in the names of log folders.
    #[serde(deserialize_with = "harmless_field")]
    pub uid: String,
    /// Name of the pod.
    #[serde(default, deserialize_with = "harmless_field")]
    pub name: Option<String>,
    /// Namespace of the pod.
    #[serde(default, deserialize_with = "harmless_field")]
    pub namespace: Option<String>,
    /// Name of the container in the pod.
    #[serde(default, deserialize_with = "harmless_field")]
    pub container_name: Option<String>,
}

/// Prefixes of an id, as in `docker-ID.scope`. A prefix that begins with another one precedes it.
const PREFIXES: [(&str, Option<ContainerRuntime>); 12] = [
    ("cri-containerd-", Some(ContainerRuntime::Containerd)),
    ("containerd-", Some(ContainerRuntime::Containerd)),
    ("nerdctl-", Some(ContainerRuntime::Containerd)),
    ("docker-", Some(ContainerRuntime::Docker)),
    ("crio-", Some(ContainerRuntime::CriO)),
    ("libpod-", Some(ContainerRuntime::Podman)),
    ("libpod-payload-", Some(ContainerRuntime::Podman)),
    // `slice:prefix:ID`: the engine uses systemd's notation as a path.
    ("cri-containerd:", Some(ContainerRuntime::Containerd)),
    ("docker:", Some(ContainerRuntime::Docker)),
    ("crio:", Some(ContainerRuntime::CriO)),
    ("libpod:", Some(ContainerRuntime::Podman)),
    ("", None),
];

impl Workload {
    /// Parses the path of a cgroup, relative to the root of its hierarchy. A path in an unknown form has no workload, which is no
    /// error.
    pub fn parse(path: &str) -> Self {
        let mut found = Self { cgroup_path: still_harmless(path.to_owned()), ..Self::default() };
        let path = found.cgroup_path.clone();
        let mut parent = "";
        for component in path.split('/').filter(|component| !component.is_empty() && *component != "..") {
            found.component(parent, component);
            parent = component;
        }
        found
    }

    /// Whether the cgroup is the root of its hierarchy, which has no workload.
    pub fn is_root(&self) -> bool {
        self.cgroup_path.trim_matches('/').is_empty()
    }

    /// Evaluates the next folder of the path.
    fn component(&mut self, parent: &str, component: &str) {
        if let Some(uid) = pod_uid(component) {
            self.pod = Some(Pod { uid, name: None, namespace: None, container_name: None });
            // Outer containers and units, such as the node's container in kind, do not belong to the pod.
            (self.container, self.unit) = (None, None);
        }
        if let Some(container) = container(parent, component) {
            if self.pod.is_none() || !in_pod(container.runtime) {
                self.pod = None;
            }
            (self.container, self.unit) = (Some(container), None);
        } else if is_unit(component) {
            self.unit = Some(component.to_owned());
        }
    }
}

/// Whether an engine runs the containers of pods. Containers of other engines can only be outside of a pod or nested in it.
fn in_pod(engine: Option<ContainerRuntime>) -> bool {
    match engine {
        Some(ContainerRuntime::Lxc | ContainerRuntime::Nspawn) => false,
        Some(
            ContainerRuntime::Docker | ContainerRuntime::Containerd | ContainerRuntime::CriO | ContainerRuntime::Podman,
        )
        | None => true,
    }
}

fn is_unit(component: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| component.strip_suffix(suffix).is_some_and(|name| !name.is_empty()))
}

/// Returns the uid in `podUID`, `kubepods-burstable-podUID.slice` (with `_` for `-` under systemd), or the part before the first
/// colon of `kubepods-podUID.slice:cri-containerd:ID`.
fn pod_uid(component: &str) -> Option<String> {
    let slice = component.split(':').next()?;
    let uid = match slice.strip_suffix(".slice") {
        Some(name) if name.contains("kubepods") => name.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => slice.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let dashes = |uid: &str| uid.bytes().enumerate().all(|(at, byte)| (byte == b'-') == [8, 13, 18, 23].contains(&at));
    let is_hex = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_uid = is_hex && ((uid.len() == 36 && dashes(&uid)) || (uid.len() == 32 && !uid.contains('-')));
    is_uid.then_some(uid)
}

fn container(parent: &str, component: &str) -> Option<Container> {
    let of = |id: &str, engine| Some(Container { id: id.to_owned(), runtime: engine });
    // Machines come first, because their names are free text.
    let machine = component.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope"));
    if let Some(name) = machine.filter(|name| parent == "machine.slice" && !name.is_empty()) {
        return of(name, Some(ContainerRuntime::Nspawn));
    }
    let nspawn = component.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"));
    if let Some(name) = nspawn.filter(|name| !name.is_empty()) {
        return of(name, Some(ContainerRuntime::Nspawn));
    }
    if let Some(name) = component.strip_prefix("lxc.payload.").filter(|name| !name.is_empty()) {
        return of(name, Some(ContainerRuntime::Lxc));
    }
    if ["lxc", "lxc.payload"].contains(&parent) {
        return of(component, Some(ContainerRuntime::Lxc));
    }
    let name = component.strip_suffix(".scope").unwrap_or(component);
    // `slice:prefix:ID`
    let name = name.split_once(':').map_or(name, |(_slice, rest)| rest);
    let (id, engine) = PREFIXES.iter().find_map(|(prefix, engine)| {
        let id = name.strip_prefix(prefix).filter(|id| is_container_id(id))?;
        Some((id, *engine))
    })?;
    of(id, engine.or_else(|| engine_of_folder(parent)))
}

/// Returns the engine whose containers are in a folder of this name.
fn engine_of_folder(folder: &str) -> Option<ContainerRuntime> {
    match folder {
        "docker" => Some(ContainerRuntime::Docker),
        "libpod_parent" | "libpod" => Some(ContainerRuntime::Podman),
        // Namespaces of containerd for `ctr` and nerdctl.
        "default" | "k8s.io" | "moby" => Some(ContainerRuntime::Containerd),
        _ => None,
    }
}

/// Whether a name is a container id: 64 hexadecimal digits. `conmon-…` is the monitor of a container and runs outside of it.
fn is_container_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
