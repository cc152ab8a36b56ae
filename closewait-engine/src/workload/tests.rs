use proptest::prelude::*;

use super::*;

const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
const UID_: &str = "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0";
const STATIC_UID: &str = "00112233445566778899aabbccddeeff";

/// Returns an id of 64 digits that begins with `first`.
fn id(first: char) -> String {
    format!("{first}{}", "0123456789abcdef".repeat(4).split_at(1).1)
}

/// Parses a path in which `{a}` and `{b}` stand for ids, and `{uid}`, `{uid_}` and `{static}` for uids.
fn parse(pattern: &str) -> Workload {
    let path = pattern
        .replace("{a}", &id('a'))
        .replace("{b}", &id('b'))
        .replace("{uid}", UID)
        .replace("{uid_}", UID_)
        .replace("{static}", STATIC_UID);
    let workload = Workload::parse(&path);
    assert_eq!(workload.cgroup_path, path);
    workload
}

/// Asserts the first letter of the container's id, its engine and the pod's uid; a unit is not expected.
fn assert_container(pattern: &str, first: char, engine: Option<ContainerRuntime>, uid: Option<&str>) {
    let workload = parse(pattern);
    assert_eq!(workload.container, Some(Container { id: id(first), runtime: engine }), "{pattern}");
    assert_eq!(workload.pod.map(|pod| pod.uid).as_deref(), uid, "{pattern}");
    assert_eq!(workload.unit, None, "{pattern}");
}

#[test]
fn pods_under_systemd_of_every_class_and_engine() {
    for slice in [
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice",
        "kubepods.slice/kubepods-pod{uid_}.slice",
    ] {
        for (prefix, engine) in [
            ("cri-containerd", ContainerRuntime::Containerd),
            ("crio", ContainerRuntime::CriO),
            ("docker", ContainerRuntime::Docker),
            ("libpod", ContainerRuntime::Podman),
        ] {
            assert_container(&format!("/{slice}/{prefix}-{{a}}.scope"), 'a', Some(engine), Some(UID));
        }
    }
}

#[test]
fn pods_in_plain_folders() {
    for path in ["/kubepods/burstable/pod{uid}/{a}", "/kubepods/besteffort/pod{uid}/{a}", "/kubepods/pod{uid}/{a}"] {
        assert_container(path, 'a', None, Some(UID));
    }
    assert_container("/kubepods/burstable/pod{uid}/crio-{a}", 'a', Some(ContainerRuntime::CriO), Some(UID));
}

#[test]
fn static_pods_have_a_uid_without_dashes() {
    assert_container(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{static}.slice/cri-containerd-{a}.scope",
        'a',
        Some(ContainerRuntime::Containerd),
        Some(STATIC_UID),
    );
    assert_container("/kubepods/burstable/pod{static}/{a}", 'a', None, Some(STATIC_UID));
}

#[test]
fn in_kind_the_pod_counts_and_not_the_node_s_container() {
    assert_container(
        "/docker/{b}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
         kubelet-kubepods-burstable-pod{uid_}.slice/cri-containerd-{a}.scope",
        'a',
        Some(ContainerRuntime::Containerd),
        Some(UID),
    );
    assert_container("/docker/{b}/kubelet/kubepods/besteffort/pod{uid}/{a}", 'a', None, Some(UID));
    assert_container(
        "/system.slice/docker-{b}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{uid_}.slice/\
         cri-containerd-{a}.scope",
        'a',
        Some(ContainerRuntime::Containerd),
        Some(UID),
    );
}

#[test]
fn systemd_s_notation_taken_for_a_path() {
    for path in [
        "/system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{a}",
        "/kubepods-burstable-pod{uid_}.slice:cri-containerd:{a}",
    ] {
        assert_container(path, 'a', Some(ContainerRuntime::Containerd), Some(UID));
    }
    assert_container("/system.slice:docker:{a}", 'a', Some(ContainerRuntime::Docker), None);
}

#[test]
fn containers_without_kubernetes() {
    for (path, engine) in [
        ("/docker/{a}", Some(ContainerRuntime::Docker)),
        ("/system.slice/docker-{a}.scope", Some(ContainerRuntime::Docker)),
        ("/docker/{b}/docker/{a}", Some(ContainerRuntime::Docker)),
        ("/machine.slice/libpod-{a}.scope", Some(ContainerRuntime::Podman)),
        ("/machine.slice/libpod-{a}.scope/container", Some(ContainerRuntime::Podman)),
        ("/libpod_parent/libpod-{a}", Some(ContainerRuntime::Podman)),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{a}.scope/container",
            Some(ContainerRuntime::Podman),
        ),
        ("/system.slice/nerdctl-{a}.scope", Some(ContainerRuntime::Containerd)),
        ("/default/{a}", Some(ContainerRuntime::Containerd)),
        ("/ecs/task-1/{a}", None),
        ("/../../docker/{a}", Some(ContainerRuntime::Docker)),
    ] {
        assert_container(path, 'a', engine, None);
    }
}

#[test]
fn containers_that_have_a_name_only() {
    for (path, name, engine) in [
        ("/lxc.payload.web-1/system.slice", "web-1", ContainerRuntime::Lxc),
        ("/lxc/web-1", "web-1", ContainerRuntime::Lxc),
        ("/machine.slice/machine-debian.scope", "debian", ContainerRuntime::Nspawn),
        ("/machine.slice/systemd-nspawn@debian.service/payload", "debian", ContainerRuntime::Nspawn),
    ] {
        let workload = parse(path);
        assert_eq!(workload.container, Some(Container { id: name.to_owned(), runtime: Some(engine) }), "{path}");
        assert_eq!(workload.unit, None, "{path}");
    }
}

#[test]
fn monitors_of_containers_are_not_in_them() {
    for path in [
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/crio-conmon-{a}.scope",
        "/machine.slice/libpod-conmon-{a}.scope",
        "/lxc.monitor.web-1",
    ] {
        assert_eq!(parse(path).container, None, "{path}");
    }
}

#[test]
fn the_innermost_unit_counts() {
    for (path, unit) in [
        ("/system.slice/nginx.service", Some("nginx.service")),
        (r"/system.slice/system-serial\x2dgetty.slice/a\x2db@1.service", Some(r"a\x2db@1.service")),
        ("/system.slice/nginx.service/worker", Some("nginx.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-web.service", Some("app-web.service")),
        ("/init.scope", Some("init.scope")),
        ("/user.slice", None),
        ("/.service", None),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(parse(path).unit.as_deref(), unit, "{path}");
    }
}

#[test]
fn a_systemd_in_a_container_has_units_of_its_own() {
    let workload = parse("/system.slice/docker-{a}.scope/system.slice/nginx.service");
    assert_eq!(workload.unit.as_deref(), Some("nginx.service"));
    assert_eq!(workload.container.map(|container| container.runtime), Some(Some(ContainerRuntime::Docker)));
}

#[test]
fn names_that_resemble_ids_are_no_ids() {
    let short = &id('a')[..63];
    for path in [
        format!("/docker/{short}"),
        format!("/docker/{}", id('A')),
        "/docker/buildkit".to_owned(),
        "/kubepods/burstable".to_owned(),
        "/kubepods/podcast".to_owned(),
        "/pod0f1e2d3c4b5a-6978-8796-a5b4-c3d2e1f0".to_owned(),
    ] {
        let workload = Workload::parse(&path);
        assert_eq!((workload.container, workload.pod), (None, None), "{path}");
    }
}

#[test]
fn a_name_that_could_act_on_a_terminal_is_made_harmless() {
    let workload = Workload::parse("/system.slice/a\x1b[2J.service");
    assert_eq!(workload.unit.as_deref(), Some("a\\u{1b}[2J.service"));
}

proptest! {
    #[test]
    fn any_path_is_parsed_and_read_back_from_a_recording(path: String) {
        let workload = Workload::parse(&path);
        let written = serde_json::to_string(&workload).unwrap();
        prop_assert_eq!(serde_json::from_str::<Workload>(&written).unwrap(), workload);
    }

    #[test]
    fn any_mixture_of_known_parts_is_parsed(
        parts in prop::collection::vec(
            prop::sample::select(&["/", "pod", "kubepods", "-pod", ".slice", ":", "docker-", "lxc", ".scope", "..", "é"][..]),
            0..12,
        ),
    ) {
        drop(Workload::parse(&parts.concat()));
    }
}
