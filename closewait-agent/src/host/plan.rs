//! Choice of the kernel programs to attach on a host, from [`HostFacts`] alone. Pure.

use closewait_common::config::{Abilities, Layout, MISSING, TraceLayout};

use super::{
    btf::{self, BtfError},
    caps::{Capabilities, Capability},
    facts::{Attachable, HostFacts},
    tracefs::TracefsError,
};

/// Kernel tracepoint that reports state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracepoint {
    /// `tp_btf/inet_sock_set_state`: attached by name, reads the socket itself.
    Btf,
    /// `tracepoint/sock/inet_sock_set_state`: attached by the number in tracefs, works without type information.
    Classic,
}

impl Tracepoint {
    /// Returns the type of program, as in the kernel's documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Btf => "tp_btf",
            Self::Classic => "tracepoint",
        }
    }
}

/// Hook that the user requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// The best hook that works.
    #[default]
    Auto,
    /// Only [`Tracepoint::Btf`].
    Btf,
    /// Only [`Tracepoint::Classic`].
    Classic,
}

/// Programs to load and attach, and their settings.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tracepoint to attach to.
    pub hook: Tracepoint,
    /// Offsets for the kernel program; [`Layout::NONE`] without type information.
    pub layout: Layout,
    /// Offsets for the kernel program; [`TraceLayout::NONE`] unless the hook is the classic tracepoint.
    pub trace_layout: TraceLayout,
    /// Abilities for the kernel program.
    pub abilities: Abilities,
    /// Whether the iterator over the open files of all processes can be loaded.
    pub iterate_files: bool,
    /// Whether this is the pid namespace of the host, as far as is known.
    pub sees_all_processes: bool,
    /// Whether programs can store the task that opened a socket with the socket itself.
    pub openers: bool,
    /// Whether the kernel can refuse system calls of the agent, as far as is known.
    pub seccomp: bool,
    /// Types that programs attach to.
    pub attachable: Vec<Attachable>,
    /// Features that work less well on this host.
    pub degraded: Vec<Degraded>,
}

/// Facility that this host lacks, and that the agent can run without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Degraded feature, in a word or two.
    pub what: &'static str,
    /// Missing facility and its consequence.
    pub why: String,
    /// Action for the user.
    pub fix: Option<String>,
}

/// Reason why no kernel program can be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartRefusal {
    /// The kernel lacks support.
    #[error("this kernel{} cannot run closewait: {why}\nhint: {fix}", release.as_ref().map(|release| format!(" ({release})")).unwrap_or_default())]
    Kernel {
        /// Kernel release, if known.
        release: Option<String>,
        /// Missing facility.
        why: String,
        /// Action for the user.
        fix: String,
    },
    /// A file system of the kernel is not mounted.
    #[error("{why}\nhint: {fix}")]
    Unmounted {
        /// File system, and what closewait reads there.
        why: String,
        /// Action for the user.
        fix: &'static str,
    },
    /// The process lacks a privilege.
    #[error("missing {capability}: {why}\nhint: {fix}")]
    Privilege {
        /// Name of the capability.
        capability: &'static str,
        /// Purpose of the capability.
        why: String,
        /// Way to grant it.
        fix: String,
    },
}

impl StartRefusal {
    /// Returns the exit code of the process: 69 for the host (`EX_UNAVAILABLE`), 77 for privileges (`EX_NOPERM`).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Kernel { .. } | Self::Unmounted { .. } => 69,
            Self::Privilege { .. } => 77,
        }
    }
}

/// Way to grant the capabilities that `run` uses.
pub const GRANT: &str = "run as root, or `setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep \
    <path to closewait>`, or name them in AmbientCapabilities= of the systemd unit";

/// Decides what to attach.
///
/// Only capabilities count, not the user: root in a container often lacks them. Unknown facts count as satisfied; the
/// kernel reports an error soon enough.
///
/// # Errors
///
/// If this kernel or these privileges allow no hook.
pub fn plan(facts: &HostFacts, choice: HookChoice) -> Result<Plan, StartRefusal> {
    check_procfs(facts)?;
    if facts.ring_buffer == Some(false) {
        return Err(kernel(facts, "it has no BPF ring buffer".to_owned(), "Linux 5.10 or newer is needed"));
    }
    load_privilege(facts)?;
    let hook = match choice {
        HookChoice::Auto => match btf_hook(facts) {
            Ok(()) => Tracepoint::Btf,
            Err(no_btf) => {
                classic_hook(facts).map_err(|no_classic| both(facts, &no_btf, no_classic))?;
                Tracepoint::Classic
            }
        },
        HookChoice::Btf => btf_hook(facts)
            .map(|()| Tracepoint::Btf)
            .map_err(|why| kernel(facts, why, &format!("use the classic tracepoint, or {}", btf_fix(facts))))?,
        HookChoice::Classic => classic_hook(facts).map(|()| Tracepoint::Classic)?,
    };
    let types = facts.types.as_ref().ok();
    let tracefs = if hook == Tracepoint::Classic { facts.tracefs().as_ref().ok() } else { None };
    let tick_ns = u32::try_from(facts.tick.as_nanos()).unwrap_or(0);
    let mut plan = Plan {
        hook,
        layout: types.map_or(Layout::NONE, |types| types.layout),
        trace_layout: tracefs.map_or(TraceLayout::NONE, |tracefs| tracefs.layout),
        abilities: types.map_or(Abilities::NONE, |types| Abilities { tick_ns, ..types.abilities }),
        iterate_files: types.is_some_and(|types| types.iter_files),
        sees_all_processes: facts.initial_pid_namespace != Some(false),
        openers: types.is_some_and(|types| types.sk_storage),
        seccomp: facts.seccomp != Some(false),
        attachable: types.map_or_else(Vec::new, |types| types.attachable.clone()),
        degraded: Vec::new(),
    };
    plan.degraded = degraded(facts, choice, &plan);
    Ok(plan)
}

/// Action for the user of a host without `/proc`.
pub const MOUNT_PROCFS: &str = "mount it: mount -t proc proc /proc";

/// Checks that there is a `/proc`. Without it no process is seen, and no network namespace: nothing can be said, not even
/// that there are no sockets.
///
/// # Errors
///
/// If `/proc` is known to be something else.
pub fn check_procfs(facts: &HostFacts) -> Result<(), StartRefusal> {
    if facts.procfs == Some(false) {
        return Err(StartRefusal::Unmounted {
            why: "no proc file system is mounted at /proc, where closewait finds processes".to_owned(),
            fix: MOUNT_PROCFS,
        });
    }
    Ok(())
}

/// Limit of a pid namespace: network namespaces are found through their processes (`netns::find`), and files by a
/// scan over the processes of this pid namespace (`task_seq_get_next` in kernel/bpf/task_iter.c, v5.11).
const UNSEEN: &str =
    "sockets of other network namespaces are not seen, as closewait runs in a pid namespace of its own";

/// Options of Docker and fields of Kubernetes.
const HOST_NAMESPACES: &str =
    "run the container in the host's namespaces (--pid=host --net=host; hostPID: true, hostNetwork: true)";

/// Returns the reason why closewait may miss sockets that are older than the agent, with a hint, if there is one.
pub fn unseen_sockets(facts: &HostFacts) -> Option<String> {
    (facts.initial_pid_namespace == Some(false)).then(|| format!("{UNSEEN}\nhint: {HOST_NAMESPACES}"))
}

/// Locked memory that suffices for maps of the default sizes, bytes: 20 MiB for times of entry, 4 MiB for the ring
/// buffer.
const LOCKED_BYTES_FOR_MAPS: u64 = 32 << 20;

/// Checks that programs can be loaded at all.
fn load_privilege(facts: &HostFacts) -> Result<(), StartRefusal> {
    if facts.initial_user_namespace == Some(false) {
        return Err(StartRefusal::Privilege {
            capability: Capability::Bpf.name(),
            why: "this process is in a user namespace, and capabilities there do not count for BPF".to_owned(),
            fix: "run closewait in the user namespace of the host, without rootless or userns options".to_owned(),
        });
    }
    let denied = |capability, why: &str| {
        let missing = facts.capabilities.is_some_and(|capabilities| !capabilities.has(capability));
        let name = capability.name();
        let refusal = || StartRefusal::Privilege { capability: name, why: why.to_owned(), fix: GRANT.to_owned() };
        if missing { Err(refusal()) } else { Ok(()) }
    };
    denied(Capability::Bpf, "without it no program can be loaded into the kernel")?;
    denied(Capability::Perfmon, "without it no kernel program can read sockets")?;
    check_locked_memory(facts)
}

/// Checks the limit of locked memory: before Linux 5.11 maps count against it (`bpf_charge_memlock` in
/// kernel/bpf/syscall.c, v5.10).
fn check_locked_memory(facts: &HostFacts) -> Result<(), StartRefusal> {
    let counted = facts.version.is_some_and(|version| version < (5, 11));
    let may_raise = facts.capabilities.is_none_or(|capabilities| capabilities.has(Capability::SysResource));
    match facts.locked_memory {
        Some(bytes) if counted && !may_raise && bytes < LOCKED_BYTES_FOR_MAPS => Err(StartRefusal::Privilege {
            capability: Capability::SysResource.name(),
            why: format!(
                "before Linux 5.11 maps count against the limit of locked memory, which is {} KiB",
                bytes >> 10
            ),
            fix: "run as root, grant cap_sys_resource too, or set the limit to infinity (`ulimit -Hl \
                  unlimited`, LimitMEMLOCK= of the systemd unit)"
                .to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Checks that the hook that needs type information works.
fn btf_hook(facts: &HostFacts) -> Result<(), String> {
    let types = facts.types.as_ref().map_err(ToString::to_string)?;
    if !types.tracepoint {
        return Err("its type information has no btf_trace_inet_sock_set_state".to_owned());
    }
    let layout = &types.layout;
    // Without these, a record would not identify its connection.
    let needed = [
        ("__sk_common.skc_family", layout.sock_family),
        ("inet_sock.inet_sport", layout.inet_sport),
        ("__sk_common.skc_dport", layout.sock_dport),
        ("sk_protocol", layout.sock_protocol),
    ];
    match needed.into_iter().find(|&(_, offset)| offset == MISSING) {
        Some((member, _)) => Err(format!("its type information has no {member}")),
        None => Ok(()),
    }
}

/// Returns what to do so that the hook that needs type information works.
pub fn btf_fix(facts: &HostFacts) -> &'static str {
    facts.types.as_ref().err().map_or(btf::KERNEL_WITH_BTF, BtfError::fix)
}

/// Checks that the hook that needs tracefs works.
fn classic_hook(facts: &HostFacts) -> Result<(), StartRefusal> {
    let Err(error) = facts.tracefs() else { return Ok(()) };
    let privilege = |capability: Capability, fix: &str| StartRefusal::Privilege {
        capability: capability.name(),
        why: format!("the classic tracepoint needs tracefs ({error})"),
        fix: fix.to_owned(),
    };
    Err(match error {
        TracefsError::MountDenied { .. } => {
            privilege(Capability::SysAdmin, "mount tracefs at /sys/kernel/tracing for good, or run as root")
        }
        TracefsError::FormatDenied { .. } => privilege(Capability::DacReadSearch, GRANT),
        TracefsError::Mount { .. }
        | TracefsError::Thread { .. }
        | TracefsError::Format { .. }
        | TracefsError::Field { .. } => kernel(
            facts,
            format!("the classic tracepoint needs tracefs ({error})"),
            "use a kernel with CONFIG_FTRACE=y",
        ),
    })
}

/// Returns the refusal if neither hook works: a missing privilege comes before all else.
fn both(facts: &HostFacts, no_btf: &str, no_classic: StartRefusal) -> StartRefusal {
    // Neither tracefs can be mounted then.
    if let Err(error @ BtfError::NoSysfs) = &facts.types {
        let why = format!("{error}, where closewait reads the kernel's types");
        return StartRefusal::Unmounted { why, fix: error.fix() };
    }
    match no_classic {
        StartRefusal::Privilege { capability, why, fix } => {
            StartRefusal::Privilege { capability, why: format!("tp_btf does not work ({no_btf}), and {why}"), fix }
        }
        StartRefusal::Kernel { why, fix, .. } => kernel(
            facts,
            format!("tp_btf does not work ({no_btf}), and {why}"),
            &format!("{}, or {fix}", btf_fix(facts)),
        ),
        other @ StartRefusal::Unmounted { .. } => other,
    }
}

fn kernel(facts: &HostFacts, why: String, fix: &str) -> StartRefusal {
    StartRefusal::Kernel { release: facts.release.clone(), why, fix: fix.to_owned() }
}

/// Returns the features that degrade under this plan.
fn degraded(facts: &HostFacts, choice: HookChoice, plan: &Plan) -> Vec<Degraded> {
    let mut list = Vec::new();
    let mut add = |what, why: &str, fix: Option<&str>| {
        list.push(Degraded { what, why: why.to_owned(), fix: fix.map(str::to_owned) });
    };
    if facts.version.is_some_and(|version| version < (5, 10)) {
        add("kernel", "it is older than 5.10, and closewait is not tested there", Some("use Linux 5.10 or newer"));
    }
    if plan.hook == Tracepoint::Classic && choice == HookChoice::Auto {
        let why = btf_hook(facts).err().unwrap_or_default();
        add("hook", &format!("the classic tracepoint is used: {why}"), Some(btf_fix(facts)));
    }
    let types = facts.types.is_ok();
    if !types {
        add(
            "sockets",
            "without type information neither queues, cgroups nor errors of a socket can be read, and the ages of those \
             older than the agent are unknown",
            Some(btf_fix(facts)),
        );
    }
    if types && !plan.iterate_files {
        add(
            "owners",
            "the kernel cannot iterate over the open files of all processes, so the agent searches for owners in /proc, which \
             takes longer and needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            Some("use Linux 5.10 or newer"),
        );
        add(
            "existing sockets",
            "those that are older than the agent, in a network namespace in which no process lives, are not seen",
            Some("use Linux 5.10 or newer"),
        );
    }
    if types && !plan.openers {
        add(
            "openers",
            "programs cannot keep data with a socket, so the task that connected one is unknown",
            Some("use Linux 5.11 or newer"),
        );
    }
    if types && plan.abilities.socket_cookie == 0 {
        add(
            "cookies",
            "programs cannot ask for a socket's cookie; a socket has one only if something else asked before",
            Some("use Linux 5.12 or newer"),
        );
    }
    if types && plan.layout.sock_cgroup == MISSING {
        add("cgroups", "a socket does not point to its cgroup, so none is shown", Some("use Linux 5.15 or newer"));
    }
    if !plan.seccomp {
        add(
            "system call filter",
            "the kernel has no seccomp filters, so what the agent never does (running programs, tracing, mounting) is refused \
             by its lack of capabilities alone",
            Some("use a kernel with CONFIG_SECCOMP_FILTER=y"),
        );
    }
    let listed = plan.iterate_files;
    list.extend(facts.capabilities.into_iter().flat_map(|capabilities| without_capability(capabilities, listed)));
    if facts.initial_pid_namespace == Some(false) {
        list.push(Degraded {
            what: "owners",
            why: "this is not the pid namespace of the host: most processes have no number here".to_owned(),
            fix: Some(HOST_NAMESPACES.to_owned()),
        });
        list.push(Degraded {
            what: "existing sockets",
            why: format!("those that are older than the agent are missing where it cannot look: {UNSEEN}"),
            fix: Some(HOST_NAMESPACES.to_owned()),
        });
    }
    list
}

/// Returns the features that degrade because of a missing capability that loading programs does not need. `listed`
/// says that the kernel lists open files, so that in other namespaces only sockets without a descriptor are hidden.
fn without_capability(capabilities: Capabilities, listed: bool) -> impl Iterator<Item = Degraded> {
    let hidden = if listed { " and unaccepted ones" } else { "" };
    [
        (
            Capability::SysPtrace,
            "processes",
            format!(
                "what other users' processes do cannot be seen (threads, system calls, executables, limits), nor the \
                 network namespaces that they are in, so sockets there that are older than the agent{hidden} are not \
                 seen"
            ),
            GRANT,
        ),
        (
            Capability::DacReadSearch,
            "system calls",
            "in which system calls threads of other users' processes wait cannot be read (the kernel's function that they \
             sleep in is shown in its place), nor where a socket is that no process holds".to_owned(),
            GRANT,
        ),
        (
            Capability::SysAdmin,
            "network namespaces",
            format!(
                "others than the own cannot be entered, so sockets there that are older than the agent{hidden} are \
                 not seen, nor how long connection tracking keeps the others"
            ),
            "run as root, or grant cap_sys_admin too",
        ),
    ]
    .into_iter()
    .filter(move |&(capability, ..)| !capabilities.has(capability))
    .map(|(capability, what, why, fix)| Degraded {
        what,
        why: format!("missing {}: {why}", capability.name()),
        fix: Some(fix.to_owned()),
    })
}

#[cfg(test)]
pub(crate) mod tests;
