//! Each test removes one facility from a host that has everything.

use std::{cell::OnceCell, io, path::PathBuf, time::Duration};

use closewait_common::config::TraceLayout;

use super::*;
use crate::host::{
    btf::BtfError,
    facts::{Tracefs, Types},
};

/// Returns a host where everything works.
pub(crate) fn capable_host() -> HostFacts {
    HostFacts {
        host: closewait_engine::model::Host::default(),
        release: Some("6.18.0".to_owned()),
        version: Some((6, 18)),
        procfs: Some(true),
        types: Ok(Types {
            layout: some_layout(),
            abilities: Abilities {
                socket_cookie: 1,
                keepopen_bit: 3,
                done_bit: 1,
                socket_of_file: 1,
                ..Abilities::NONE
            },
            tracepoint: true,
            iter_files: true,
            sk_storage: true,
            attachable: Vec::new(),
            ring_buffer: true,
        }),
        ring_buffer: Some(true),
        tracefs: OnceCell::from(Ok(Tracefs { mounted: true, layout: TraceLayout::NONE })),
        capabilities: Some(Capabilities::from_bits(u64::MAX)),
        seccomp: Some(true),
        locked_memory: Some(64 << 10),
        initial_user_namespace: Some(true),
        initial_pid_namespace: Some(true),
        tick: Duration::from_millis(4),
        port_range: Some((32768, 60999)),
    }
}

/// Returns the error of a kernel without type information.
pub(crate) fn no_types() -> BtfError {
    let error = io::Error::from_raw_os_error(libc::ENOENT);
    BtfError::Read { path: PathBuf::from("/sys/kernel/btf/vmlinux"), error }
}

/// Returns a layout with the members that the plan checks.
fn some_layout() -> Layout {
    Layout { sock_family: 16, inet_sport: 14, sock_dport: 12, sock_protocol: 514, sock_cgroup: 600, ..Layout::NONE }
}

fn denied(errno: i32) -> TracefsError {
    TracefsError::MountDenied { call: "unshare", error: io::Error::from_raw_os_error(errno) }
}

fn no_tracefs() -> TracefsError {
    TracefsError::Mount { call: "mount", error: io::Error::from_raw_os_error(libc::ENODEV) }
}

fn lacks(capability: Capability) -> HostFacts {
    let all = Capabilities::from_bits(u64::MAX);
    HostFacts { capabilities: Some(all.without(capability)), ..capable_host() }
}

#[test]
fn a_capable_host_lacks_nothing() {
    let plan = plan(&capable_host(), HookChoice::Auto).unwrap();
    assert_eq!(plan.hook, Tracepoint::Btf);
    assert!(plan.iterate_files);
    assert_eq!(plan.degraded, []);
    assert_eq!(unseen_sockets(&capable_host()), None);
}

#[test]
fn without_types_the_classic_hook_is_used() {
    let facts = HostFacts { types: Err(no_types()), ..capable_host() };
    let plan = plan(&facts, HookChoice::Auto).unwrap();
    assert_eq!((plan.hook, plan.layout), (Tracepoint::Classic, Layout::NONE));
    assert!(!plan.iterate_files);
    assert_eq!(plan.degraded.iter().map(|one| one.what).collect::<Vec<_>>(), ["hook", "sockets"]);
}

#[test]
fn without_the_tracepoint_among_the_types_the_classic_hook_reads_sockets_still() {
    let mut facts = capable_host();
    facts.types.as_mut().unwrap().tracepoint = false;
    let plan = plan(&facts, HookChoice::Auto).unwrap();
    assert_eq!((plan.hook, plan.layout), (Tracepoint::Classic, some_layout()));
    assert!(plan.iterate_files);
}

#[test]
fn a_struct_sock_without_a_needed_member_is_not_read_by_the_btf_hook() {
    let mut facts = capable_host();
    facts.types.as_mut().unwrap().layout.sock_protocol = MISSING;
    assert_eq!(plan(&facts, HookChoice::Auto).unwrap().hook, Tracepoint::Classic);
}

#[test]
fn without_types_and_tracefs_the_kernel_is_refused() {
    let facts = HostFacts { types: Err(no_types()), tracefs: Err(no_tracefs()).into(), ..capable_host() };
    let refusal = plan(&facts, HookChoice::Auto).unwrap_err();
    assert_eq!(refusal.exit_code(), 69);
    let text = refusal.to_string();
    assert!(text.contains("tracefs") && text.contains("btf/vmlinux") && text.contains("6.18.0"), "{text}");
}

#[test]
fn a_file_system_that_is_not_mounted_is_named_and_the_kernel_is_not_blamed() {
    let no_proc = HostFacts { procfs: Some(false), ..capable_host() };
    let no_sys = HostFacts { types: Err(BtfError::NoSysfs), tracefs: Err(no_tracefs()).into(), ..capable_host() };
    for (facts, mount) in [(no_proc, "mount -t proc"), (no_sys, "mount -t sysfs")] {
        let refusal = plan(&facts, HookChoice::Auto).unwrap_err();
        assert_eq!(refusal.exit_code(), 69);
        let text = refusal.to_string();
        assert!(text.contains(mount) && !text.contains("kernel with"), "{text}");
    }
    assert!(plan(&HostFacts { procfs: None, ..capable_host() }, HookChoice::Auto).is_ok());
}

#[test]
fn without_types_a_tracefs_that_could_be_mounted_with_more_privilege_is_a_matter_of_privilege() {
    let facts = HostFacts { types: Err(no_types()), tracefs: Err(denied(libc::EPERM)).into(), ..capable_host() };
    let refusal = plan(&facts, HookChoice::Auto).unwrap_err();
    assert_eq!(refusal.exit_code(), 77);
    assert!(refusal.to_string().contains("CAP_SYS_ADMIN"), "{refusal}");
}

#[test]
fn without_tracefs_the_btf_hook_still_works() {
    let facts = HostFacts { tracefs: Err(denied(libc::EPERM)).into(), ..capable_host() };
    assert_eq!(plan(&facts, HookChoice::Auto).unwrap().degraded, []);
    assert_eq!(plan(&facts, HookChoice::Btf).unwrap().hook, Tracepoint::Btf);
    assert_eq!(plan(&facts, HookChoice::Classic).unwrap_err().exit_code(), 77);
}

#[test]
fn a_hook_that_was_asked_for_is_not_replaced() {
    let facts = HostFacts { types: Err(no_types()), ..capable_host() };
    assert_eq!(plan(&facts, HookChoice::Btf).unwrap_err().exit_code(), 69);
    let plan = plan(&capable_host(), HookChoice::Classic).unwrap();
    assert_eq!((plan.hook, plan.degraded), (Tracepoint::Classic, vec![]));
}

#[test]
fn without_the_ring_buffer_the_kernel_is_refused() {
    let facts = HostFacts { ring_buffer: Some(false), ..capable_host() };
    let refusal = plan(&facts, HookChoice::Auto).unwrap_err();
    assert_eq!(refusal.exit_code(), 69);
    assert!(refusal.to_string().contains("5.10"), "{refusal}");
}

#[test]
fn the_capabilities_to_load_programs_are_needed_and_named() {
    for (capability, name) in [(Capability::Bpf, "CAP_BPF"), (Capability::Perfmon, "CAP_PERFMON")] {
        let refusal = plan(&lacks(capability), HookChoice::Auto).unwrap_err();
        assert_eq!(refusal.exit_code(), 77);
        let text = refusal.to_string();
        assert!(text.starts_with(&format!("missing {name}: ")) && text.contains("setcap cap_bpf"), "{text}");
    }
}

#[test]
fn other_capabilities_can_be_done_without() {
    for (capability, what) in [
        (Capability::SysPtrace, "processes"),
        (Capability::DacReadSearch, "system calls"),
        (Capability::SysAdmin, "network namespaces"),
    ] {
        let plan = plan(&lacks(capability), HookChoice::Auto).unwrap();
        assert_eq!(plan.degraded.iter().map(|one| one.what).collect::<Vec<_>>(), [what]);
        assert!(plan.degraded[0].why.contains(capability.name()) && plan.degraded[0].fix.is_some());
    }
}

#[test]
fn every_capability_taken_away_is_refused_or_said_once() {
    for capability in Capability::ALL {
        match plan(&HostFacts { version: Some((5, 10)), ..lacks(capability) }, HookChoice::Auto) {
            Ok(plan) => {
                let named = plan.degraded.iter().filter(|one| one.why.contains(capability.name())).count();
                assert_eq!(named, 1, "{capability:?}: {:?}", plan.degraded);
            }
            Err(refusal) => {
                assert_eq!(refusal.exit_code(), 77);
                assert!(refusal.to_string().contains(capability.name()), "{refusal}");
            }
        }
    }
}

#[test]
fn a_kernel_that_filters_no_system_calls_is_reported() {
    let plan = plan(&HostFacts { seccomp: Some(false), ..capable_host() }, HookChoice::Auto).unwrap();
    assert!(!plan.seccomp);
    assert_eq!(plan.degraded.iter().map(|one| one.what).collect::<Vec<_>>(), ["system call filter"]);
}

#[test]
fn capabilities_in_a_user_namespace_do_not_count() {
    let facts = HostFacts { initial_user_namespace: Some(false), ..capable_host() };
    let refusal = plan(&facts, HookChoice::Auto).unwrap_err();
    assert_eq!(refusal.exit_code(), 77);
    assert!(refusal.to_string().contains("user namespace"), "{refusal}");
}

#[test]
fn a_kernel_of_5_10_lacks_what_came_later() {
    let mut facts = HostFacts { version: Some((5, 10)), ..capable_host() };
    let types = facts.types.as_mut().unwrap();
    types.abilities.socket_cookie = 0;
    types.layout.sock_cgroup = MISSING;
    let plan = plan(&facts, HookChoice::Auto).unwrap();
    assert!(plan.iterate_files);
    assert_eq!(plan.degraded.iter().map(|one| one.what).collect::<Vec<_>>(), ["cookies", "cgroups"]);
    assert!(plan.degraded.iter().all(|one| one.fix.is_some()));
}

#[test]
fn a_pid_namespace_of_a_container_hides_owners_and_sockets() {
    let facts = HostFacts { initial_pid_namespace: Some(false), ..capable_host() };
    let plan = plan(&facts, HookChoice::Auto).unwrap();
    let fixes = plan.degraded.iter().map(|one| one.fix.as_deref().unwrap());
    assert!(
        fixes.clone().count() == 2 && fixes.clone().all(|fix| fix.contains("hostPID") && fix.contains("--net=host"))
    );
    assert_eq!(plan.degraded.iter().map(|one| one.what).collect::<Vec<_>>(), ["owners", "existing sockets"]);
    assert!(unseen_sockets(&facts).unwrap().contains("other network namespaces are not seen"));
}

#[test]
fn what_is_not_known_is_no_reason_to_refuse() {
    let facts = HostFacts {
        release: None,
        version: None,
        ring_buffer: None,
        capabilities: None,
        seccomp: None,
        initial_user_namespace: None,
        initial_pid_namespace: None,
        ..capable_host()
    };
    assert_eq!(plan(&facts, HookChoice::Auto).unwrap().degraded, []);
}

#[test]
fn before_5_11_the_limit_of_locked_memory_has_to_have_room_or_to_be_raised() {
    let before = |facts: HostFacts| HostFacts { version: Some((5, 10)), ..facts };
    let lacking = || lacks(Capability::SysResource);
    let refusal = plan(&before(lacking()), HookChoice::Auto).unwrap_err();
    assert_eq!(refusal.exit_code(), 77);
    let text = refusal.to_string();
    assert!(text.contains("CAP_SYS_RESOURCE") && text.contains("64 KiB") && text.contains("LimitMEMLOCK"), "{text}");
    for enough in [
        before(capable_host()),
        before(HostFacts { locked_memory: Some(u64::MAX), ..lacking() }),
        before(HostFacts { locked_memory: None, ..lacking() }),
        HostFacts { version: Some((5, 11)), ..lacking() },
    ] {
        assert!(plan(&enough, HookChoice::Auto).is_ok());
    }
}

#[test]
fn without_a_list_of_open_files_more_is_hidden() {
    let why = |iter_files: bool| {
        let mut facts = lacks(Capability::SysAdmin);
        facts.types.as_mut().unwrap().iter_files = iter_files;
        let degraded = plan(&facts, HookChoice::Auto).unwrap().degraded;
        degraded.into_iter().find(|one| one.what == "network namespaces").unwrap().why
    };
    assert!(why(true).contains("unaccepted"));
    assert!(!why(false).contains("accepted"));
}
