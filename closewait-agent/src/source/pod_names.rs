//! Names of pods and containers for workloads, of which a path of a cgroup has only uid and id.

use std::{path::Path, time::Duration};

use crate::{
    clock,
    host::{
        deadline::{self, Patience, Subject},
        pods::{self, Pods},
    },
};
use closewait_engine::{time::BootTime, workload::Workload};

/// Names that the last read of the folders found. A uid and an id always have the same names.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    pods: Pods,
    /// Start of the last read.
    read_at: Option<BootTime>,
}

impl PodNames {
    /// Adds the names to workloads in pods. Reads the folders again if a name is missing, unless the last read began less than
    /// `interval` ago.
    pub(super) fn add<'w>(
        &mut self,
        workloads: impl Iterator<Item = &'w mut Workload>,
        interval: Duration,
        patience: &mut Patience,
    ) {
        let mut workloads: Vec<_> = workloads.filter(|workload| workload.pod.is_some()).collect();
        workloads.retain_mut(|workload| !add_names(workload, &self.pods));
        let now = clock::now();
        let is_recent = || self.read_at.is_some_and(|read_at| now.since(read_at) < interval);
        if workloads.is_empty() || is_recent() {
            return;
        }
        self.read_at = Some(now);
        if let Some(pods) = read(patience) {
            self.pods = pods;
            for workload in workloads {
                let _is_complete = add_names(workload, &self.pods);
            }
        }
    }
}

/// Reads the folders; `None` if they do not answer.
fn read(patience: &mut Patience) -> Option<Pods> {
    let logs = Path::new(pods::LOGS);
    let pods = match deadline::run(Subject::Path(logs.to_owned()), pods::LOGS, patience, || Pods::read(logs)) {
        Ok(pods) => pods,
        Err(why) => {
            log::debug!("the names of pods are unknown: {why}");
            return None;
        }
    };
    if let Some(error) = &pods.unreadable {
        log::debug!("the names of pods are unknown: {error}");
    }
    if !pods.complete {
        log::debug!("{} has more entries than are read; the names of some pods are unknown", pods::LOGS);
    }
    Some(pods)
}

/// Adds the names of a workload in a pod. Returns whether no name is missing.
fn add_names(workload: &mut Workload, pods: &Pods) -> bool {
    let Some(pod) = &mut workload.pod else { return true };
    if let Some(known) = pods.pod(&pod.uid) {
        pod.name = Some(known.name.clone());
        pod.namespace = Some(known.namespace.clone());
    }
    // The monitor of a container is in its pod, and in no container.
    let Some(container) = &workload.container else { return pod.name.is_some() };
    if let Some(known) = pods.container(&container.id) {
        pod.name = Some(known.pod.clone());
        pod.namespace = Some(known.namespace.clone());
    }
    pod.container_name = pods.container_name(&pod.uid, &container.id).map(str::to_owned);
    pod.name.is_some() && pod.container_name.is_some()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::host::testing::Fixture;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const STATIC_UID: &str = "00112233445566778899aabbccddeeff";

    fn id(first: char) -> String {
        format!("{first}{}", "0123456789abcdef".repeat(4).split_at(1).1)
    }

    /// Engine under the kubelet.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Engine {
        Containerd,
        CriO,
        /// With cri-dockerd.
        Docker,
    }

    /// Lays out the folders of logs of one pod with two containers, as the kubelet and its engine do: with docker, the log file
    /// of a container is a link, too.
    fn lay_out(node: &Fixture, engine: Engine, uid: &str, [namespace, pod]: [&str; 2], containers: [(&str, &str); 2]) {
        let links = node.path().join("containers");
        fs::create_dir_all(&links).unwrap();
        for (name, id) in containers {
            let log = format!("pods/{namespace}_{pod}_{uid}/{name}/0.log");
            match engine {
                Engine::Containerd | Engine::CriO => node.file(&log, b"2026-01-01T00:00:00Z stdout F ready\n"),
                Engine::Docker => {
                    fs::create_dir_all(node.path().join(&log).parent().unwrap()).unwrap();
                    symlink(format!("/var/lib/docker/containers/{id}/{id}-json.log"), node.path().join(&log)).unwrap();
                }
            }
            let link = links.join(format!("{pod}_{namespace}_{name}-{id}.log"));
            symlink(format!("/var/log/{log}"), link).unwrap();
        }
    }

    /// Returns namespace, name and container of the pod of a process in this cgroup.
    fn names(pods: &Pods, cgroup: &str) -> [Option<String>; 3] {
        let mut workload = Workload::parse(cgroup);
        let _is_complete = add_names(&mut workload, pods);
        let pod = workload.pod.unwrap_or_else(|| panic!("no pod in {cgroup}"));
        [pod.namespace, pod.name, pod.container_name]
    }

    /// The paths that a process of a container has, relative to what `nested` stands for.
    fn cgroups(engine: Engine, uid: &str, id: &str) -> Vec<String> {
        let underscored = uid.replace('-', "_");
        let (scope, folder) = match engine {
            Engine::Containerd => (format!("cri-containerd-{id}.scope"), id.to_owned()),
            Engine::CriO => (format!("crio-{id}.scope"), format!("crio-{id}")),
            Engine::Docker => (format!("docker-{id}.scope"), id.to_owned()),
        };
        let mut paths = Vec::new();
        for quality in ["", "-burstable", "-besteffort"] {
            let within = if quality.is_empty() { String::new() } else { format!("kubepods{quality}.slice/") };
            // The driver `systemd`, on cgroup v2 and v1.
            paths.push(format!("/kubepods.slice/{within}kubepods{quality}-pod{underscored}.slice/{scope}"));
            // The driver `cgroupfs`.
            let class = quality.trim_start_matches('-');
            paths.push(format!("/kubepods/{class}/pod{uid}/{folder}").replace("//", "/"));
            // kind with either driver: the node is a container itself, with or without a cgroup namespace.
            let slices = format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods{quality}.slice")
                .replace("kubelet-kubepods.slice/kubelet-kubepods.slice", "kubelet-kubepods.slice");
            let in_kind = format!("{slices}/kubelet-kubepods{quality}-pod{underscored}.slice/{scope}");
            paths.push(format!("/{in_kind}"));
            paths.push(format!("/docker/{}/{in_kind}", "e".repeat(64)));
            paths.push(format!("/system.slice/docker-{}.scope/{in_kind}", "e".repeat(64)));
            paths.push(format!("/kubelet/kubepods/{class}/pod{uid}/{folder}").replace("//", "/"));
        }
        // A cgroup root of the kubelet, and the path as an agent in another pod with its own cgroup namespace sees it.
        paths.push(format!("/node.slice/node-kubepods.slice/node-kubepods-pod{underscored}.slice/{scope}"));
        paths.push(format!("/../../kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/{scope}"));
        paths.push(format!("/../../../burstable/pod{uid}/{folder}"));
        // crun makes a folder below that of the container; systemd in a container makes units.
        paths.push(format!("/kubepods.slice/kubepods-pod{underscored}.slice/{scope}/container"));
        paths.push(format!("/kubepods/pod{uid}/{folder}/system.slice/app.service"));
        paths
    }

    #[test]
    fn pods_of_every_engine_driver_and_version_of_cgroups_are_named() {
        let (app, sidecar) = (id('a'), id('b'));
        for engine in [Engine::Containerd, Engine::CriO, Engine::Docker] {
            for (uid, name) in [(UID, ["shop", "web-7d9c-x2"]), (STATIC_UID, ["kube-system", "etcd-node-1.example"])] {
                let node = Fixture::new("pod-names");
                lay_out(&node, engine, uid, name, [("app", &app), ("side-car", &sidecar)]);
                let pods = Pods::read(node.path());
                assert!(pods.complete && pods.unreadable.is_none());
                for (id, container) in [(&app, "app"), (&sidecar, "side-car")] {
                    for cgroup in cgroups(engine, uid, id) {
                        let expected = [name[0], name[1], container].map(|name| Some(name.to_owned()));
                        assert_eq!(names(&pods, &cgroup), expected, "{engine:?}: {cgroup}");
                    }
                }
            }
        }
    }

    #[test]
    fn monitors_and_unknown_containers_of_a_pod_get_no_container() {
        let node = Fixture::new("pod-names");
        lay_out(&node, Engine::CriO, UID, ["shop", "web"], [("app", &id('a')), ("db", &id('b'))]);
        let pods = Pods::read(node.path());
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_"));
        for name in [format!("crio-conmon-{}.scope", id('a')), format!("crio-{}.scope", id('c'))] {
            let found = names(&pods, &format!("{slice}/{name}"));
            assert_eq!(found, [Some("shop".to_owned()), Some("web".to_owned()), None], "{name}");
        }
    }

    #[test]
    fn the_only_container_is_named_without_the_links_and_its_monitor_is_not() {
        let node = Fixture::new("pod-names");
        node.file(&format!("pods/shop_web_{UID}/app/0.log"), b"");
        let pods = Pods::read(node.path());
        let container = names(&pods, &format!("/kubepods/pod{UID}/{}", id('a')));
        assert_eq!(container[2].as_deref(), Some("app"));
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_"));
        assert_eq!(names(&pods, &format!("{slice}/crio-conmon-{}.scope", id('a')))[2], None);
    }

    #[test]
    fn names_are_read_again_for_a_new_pod_only_and_not_too_often() {
        let (interval, mut names) = (Duration::from_secs(3600), PodNames::default());
        let mut unit = Workload::parse("/system.slice/orders.service");
        names.add([&mut unit].into_iter(), interval, &mut Patience::default());
        assert_eq!(names.read_at, None, "nothing is in a pod");
        let mut workload = Workload::parse(&format!("/kubepods/pod{UID}/{}", id('a')));
        names.add([&mut workload].into_iter(), interval, &mut Patience::default());
        let first = names.read_at.unwrap();
        names.add([&mut workload].into_iter(), interval, &mut Patience::default());
        assert_eq!(names.read_at, Some(first));
        names.add([&mut workload].into_iter(), Duration::ZERO, &mut Patience::default());
        assert!(names.read_at.unwrap() > first);
        let node = Fixture::new("pod-names");
        node.file(&format!("pods/shop_web_{UID}/app/0.log"), b"");
        (names.pods, names.read_at) = (Pods::read(node.path()), None);
        names.add([&mut workload].into_iter(), Duration::ZERO, &mut Patience::default());
        assert_eq!((names.read_at, workload.pod.unwrap().name.as_deref()), (None, Some("web")), "known already");
    }
}
