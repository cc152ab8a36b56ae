//! Names of pods and of their containers, from the folders in which the kubelet keeps their logs.
//!
//! `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/` and `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`
//! (`BuildPodLogsDirectory` in pkg/kubelet/kuberuntime/helpers.go and `legacyLogSymlink` in
//! pkg/kubelet/kuberuntime/legacy.go of Kubernetes). It queries no API and needs no permission for one.
//!
//! Omits names that Kubernetes would refuse, so all names here are harmless to print.

use std::{
    collections::BTreeMap,
    fs::{self, FileType},
    io,
    path::{Path, PathBuf},
};

/// Folder with the logs of a node.
pub const LOGS: &str = "/var/log";

/// Maximum number of entries of each of the two folders. A node has some hundred pods (110 by default).
const MAX_ENTRIES: usize = 32_768;
/// Maximum number of entries of the folder of a pod.
const MAX_CONTAINERS: usize = 256;

/// Error of reading a folder.
#[derive(Debug, thiserror::Error)]
#[error("listing {path} failed: {error}; mount it read-only into the agent's container, or pods have no names", path = .path.display())]
pub struct PodsError {
    /// The folder.
    pub path: PathBuf,
    /// Error of the system.
    pub error: io::Error,
}

/// Pod, by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Names of its containers, including init containers and containers that are gone.
    pub containers: Vec<String>,
}

/// Container of a pod, by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerName {
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Name in the pod.
    pub name: String,
}

/// Pods and containers of a node.
#[derive(Debug, Default)]
pub struct Pods {
    pods: BTreeMap<String, PodName>,
    containers: BTreeMap<String, ContainerName>,
    /// Reason why names are missing. A missing folder is no reason: then the machine is no node.
    pub unreadable: Option<PodsError>,
    /// Whether every entry was read.
    pub complete: bool,
}

impl Pods {
    /// Reads the folders below `logs`, usually [`LOGS`].
    pub fn read(logs: &Path) -> Self {
        let mut found = Self { complete: true, ..Self::default() };
        let folder = logs.join("pods");
        for entry in found.names(&folder, MAX_ENTRIES, FileType::is_dir) {
            let Some((uid, mut pod)) = pod(&entry) else { continue };
            pod.containers = found.names(&folder.join(&entry), MAX_CONTAINERS, FileType::is_dir);
            pod.containers.retain(|name| is_label(name));
            pod.containers.sort_unstable();
            found.pods.insert(uid, pod);
        }
        for entry in found.names(&logs.join("containers"), MAX_ENTRIES, |_any| true) {
            found.containers.extend(container(&entry));
        }
        found
    }

    /// Returns the pod with this uid, written as in the name of its folder: with dashes, or 32 digits for a static
    /// pod.
    pub fn pod(&self, uid: &str) -> Option<&PodName> {
        self.pods.get(uid)
    }

    /// Returns the container with this id, 64 digits.
    pub fn container(&self, id: &str) -> Option<&ContainerName> {
        self.containers.get(id)
    }

    /// Whether there are no pods: most likely the machine is no node of Kubernetes.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.containers.is_empty()
    }

    /// Returns the name of a container by its id, or, if the folder of its pod has only one container, by the uid of the pod.
    /// The id is unknown without `/var/log/containers`, and where the kubelet has shortened the name of its link to 255 bytes.
    pub fn container_name(&self, uid: &str, id: &str) -> Option<&str> {
        let only = || match self.pod(uid)?.containers.as_slice() {
            [only] => Some(only.as_str()),
            _ => None,
        };
        self.container(id).map(|container| container.name.as_str()).or_else(only)
    }

    /// Returns the names of the entries of a folder that are `wanted` by their type, at most `max`. Follows no links among
    /// them, which could lead to any folder.
    fn names(&mut self, folder: &Path, max: usize, wanted: impl Fn(&FileType) -> bool) -> Vec<String> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && self.unreadable.is_none() {
                    self.unreadable = Some(PodsError { path: folder.to_owned(), error });
                }
                return Vec::new();
            }
        };
        let mut names = Vec::new();
        for (read, entry) in entries.flatten().enumerate() {
            if read == max {
                self.complete = false;
                break;
            }
            if entry.file_type().is_ok_and(|kind| wanted(&kind)) {
                names.extend(entry.file_name().into_string());
            }
        }
        names
    }
}

/// Parses `NAMESPACE_POD_UID`.
fn pod(folder: &str) -> Option<(String, PodName)> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_uid = (1..=64).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_pod = parts.next().is_none() && is_label(namespace) && is_subdomain(name) && is_uid;
    let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned(), containers: Vec::new() };
    is_pod.then(|| (uid.to_owned(), pod))
}

/// Parses `POD_NAMESPACE_CONTAINER-ID.log`.
fn container(file: &str) -> Option<(String, ContainerName)> {
    let mut parts = file.strip_suffix(".log")?.split('_');
    let (pod, namespace, last) = (parts.next()?, parts.next()?, parts.next()?);
    let (name, id) = last.rsplit_once('-')?;
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_container = parts.next().is_none() && is_subdomain(pod) && is_label(namespace) && is_label(name) && is_id;
    let of = |text: &str| text.to_owned();
    is_container.then(|| (of(id), ContainerName { namespace: of(namespace), pod: of(pod), name: of(name) }))
}

/// Whether a name is an RFC 1123 label, as Kubernetes requires for namespaces and containers.
fn is_label(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    letters && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether a name is a DNS subdomain, in which dots may separate labels.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|label| is_label(label) || (label.len() > 63 && is_long_label(label)))
}

/// Whether a part of a name between dots has valid characters; it may be longer than a label.
fn is_long_label(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(fuzzing)]
pub(super) fn fuzz(name: &[u8]) {
    let name = String::from_utf8_lossy(name);
    if let Some((uid, PodName { namespace, name, .. })) = pod(&name) {
        assert!([uid, namespace, name].concat().bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Some((id, ContainerName { namespace, pod, name })) = container(&name) {
        assert!([id, namespace, pod, name].concat().bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::{super::testing::Fixture, *};

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const STATIC_UID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn reads_names_of_pods_and_containers() {
        let fixture = Fixture::new("pods");
        let id = "0123456789abcdef".repeat(4);
        fixture.file(&format!("pods/shop_web-7d9-x2.a_{UID}/app/0.log"), b"");
        fixture.file(&format!("pods/shop_web-7d9-x2.a_{UID}/init/0.log"), b"");
        fixture.file(&format!("pods/kube-system_etcd-node_{STATIC_UID}/etcd/0.log"), b"");
        fs::create_dir(fixture.path().join("containers")).unwrap();
        let link = fixture.path().join(format!("containers/web-7d9-x2.a_shop_my-app-{id}.log"));
        symlink("/nonexistent", link).unwrap();
        let pods = Pods::read(fixture.path());
        let pod = pods.pod(UID).unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "web-7d9-x2.a"));
        assert_eq!(pod.containers, ["app", "init"]);
        assert_eq!(pods.pod(STATIC_UID).unwrap().name, "etcd-node");
        let container = pods.container(&id).unwrap();
        assert_eq!((container.pod.as_str(), container.name.as_str()), ("web-7d9-x2.a", "my-app"));
        assert!(pods.complete && !pods.is_empty() && pods.unreadable.is_none());
    }

    #[test]
    fn names_that_kubernetes_would_refuse_are_left_out() {
        for name in [
            "",
            "shop_web",
            "shop_web_xyz",
            "Shop_web_00",
            "shop_we\u{202e}b_00",
            "shop_web_00_1",
            "-a_web_00",
            "shop_.web_00",
        ] {
            assert_eq!(pod(name), None, "{name}");
        }
        let id = "0".repeat(64);
        for name in
            [format!("a_b_{id}.log"), format!("a_b_c-{id}"), "a_b_c-00.log".to_owned(), format!("a_b_\n-{id}.log")]
        {
            assert_eq!(container(&name), None, "{name}");
        }
    }

    #[test]
    fn links_and_control_characters_among_pods_are_left_out() {
        let fixture = Fixture::new("pods");
        let elsewhere = Fixture::new("pods");
        elsewhere.file("secret/0.log", b"");
        fixture.file(&format!("pods/a_b_{UID}/app/0.log"), b"");
        fixture.file("pods/a_\u{1b}[31mb_00/app/0.log", b"");
        fixture.file("pods/a_file_01", b"");
        symlink(elsewhere.path(), fixture.path().join("pods/a_link_02")).unwrap();
        symlink(elsewhere.path(), fixture.path().join(format!("pods/a_b_{UID}/link"))).unwrap();
        let pods = Pods::read(fixture.path());
        assert_eq!(pods.pods.keys().collect::<Vec<_>>(), [UID]);
        assert_eq!(pods.pod(UID).unwrap().containers, ["app"]);
    }

    #[test]
    fn one_folder_with_many_entries_does_not_hide_the_others() {
        let fixture = Fixture::new("pods");
        let id = "0123456789abcdef".repeat(4);
        for container in 0..MAX_CONTAINERS + 50 {
            fs::create_dir_all(fixture.path().join(format!("pods/a_many_00/c{container}"))).unwrap();
        }
        fixture.file(&format!("pods/a_b_{UID}/app/0.log"), b"");
        fixture.file(&format!("containers/b_a_app-{id}.log"), b"");
        let pods = Pods::read(fixture.path());
        assert!(!pods.complete);
        assert_eq!(pods.pod("00").unwrap().containers.len(), MAX_CONTAINERS);
        assert_eq!((pods.pod(UID).unwrap().name.as_str(), pods.container(&id).unwrap().pod.as_str()), ("b", "b"));
    }

    #[test]
    fn the_only_container_of_a_pod_needs_no_id() {
        let fixture = Fixture::new("pods");
        let id = "0123456789abcdef".repeat(4);
        fixture.file(&format!("pods/a_b_{UID}/app/0.log"), b"");
        // As the kubelet writes a name that would have more than 255 bytes.
        let long = "b".repeat(250);
        fixture.file(&format!("containers/{}.log", &format!("{long}_a_app-{id}")[..251]), b"");
        let pods = Pods::read(fixture.path());
        assert_eq!(pods.container_name(UID, &id), Some("app"));
        fixture.file(&format!("pods/a_b_{UID}/init/0.log"), b"");
        assert_eq!(Pods::read(fixture.path()).container_name(UID, &id), None, "one of two");
        fixture.file(&format!("containers/b_a_app-{id}.log"), b"");
        assert_eq!(Pods::read(fixture.path()).container_name(UID, &id), Some("app"));
        assert_eq!(pods.container_name(STATIC_UID, &id), None);
    }

    #[test]
    fn a_machine_that_is_no_node_has_none() {
        let fixture = Fixture::new("pods");
        let pods = Pods::read(fixture.path());
        assert!(pods.is_empty() && pods.complete && pods.unreadable.is_none());
        let _on_this_machine = Pods::read(Path::new(LOGS));
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_reported() {
        let fixture = Fixture::new("pods");
        fixture.file("pods", b"");
        assert!(Pods::read(fixture.path()).unreadable.unwrap().to_string().contains("pods"));
    }

    proptest! {
        #[test]
        fn any_name_is_refused_or_harmless(name: String) {
            drop(container(&name));
            if let Some((uid, pod)) = pod(&name) {
                prop_assert!([uid, pod.namespace, pod.name].concat().is_ascii());
            }
        }
    }
}
