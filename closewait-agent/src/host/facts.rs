//! Facts about this kernel and the privileges of this process. The rules are in [`super::plan`].

use std::{cell::OnceCell, fs, path::Path, time::Duration};

use aya::{maps::MapType, sys::is_map_supported};
use closewait_common::{
    config::{Abilities, Layout, TraceLayout},
    names,
};

use rustix::{
    fs::statfs,
    io::Errno,
    process::{Resource, getrlimit},
    time::{ClockId, clock_getres},
};

use super::{
    btf::{self, Btf, BtfError},
    caps::Capabilities,
    tracefs::{self, TracefsError},
};
use closewait_engine::{model::Host, text::harmless};

/// Facts about this host, gathered before anything is loaded.
#[derive(Debug)]
pub struct HostFacts {
    /// Name of the host, and its boot.
    pub host: Host,
    /// Kernel release, as in `uname -r`.
    pub release: Option<String>,
    /// The first two numbers of the release.
    pub version: Option<(u32, u32)>,
    /// Whether a proc file system is mounted at `/proc`.
    pub procfs: Option<bool>,
    /// Facts from the kernel's type information, or the reason why there is none.
    pub types: Result<Types, BtfError>,
    /// Whether the kernel has the BPF ring buffer (Linux 5.8).
    pub ring_buffer: Option<bool>,
    /// Result of [`HostFacts::tracefs`], after its first call.
    pub tracefs: OnceCell<Result<Tracefs, TracefsError>>,
    /// The effective capabilities of this process.
    pub capabilities: Option<Capabilities>,
    /// Whether the kernel has filters for system calls (`CONFIG_SECCOMP_FILTER`).
    pub seccomp: Option<bool>,
    /// Bytes of memory that this process may lock; `u64::MAX` if it may raise the limit at will. Before Linux 5.11,
    /// maps count against it.
    pub locked_memory: Option<u64>,
    /// Whether this is the user namespace of the host: in another, capabilities do not count for BPF.
    pub initial_user_namespace: Option<bool>,
    /// Whether this is the pid namespace of the host: in another, most processes have no number.
    pub initial_pid_namespace: Option<bool>,
    /// Duration of a tick (`1 / CONFIG_HZ` s), the unit of the kernel's coarse times. If unknown, the longest
    /// possible one.
    pub tick: Duration,
    /// First and last port of `net.ipv4.ip_local_port_range`, in this network namespace.
    pub port_range: Option<(u16, u16)>,
}

/// Facts from the kernel's type information.
#[derive(Clone, Debug)]
pub struct Types {
    /// Offsets of struct members.
    pub layout: Layout,
    /// Helpers that programs may call, and numbers of bits.
    pub abilities: Abilities,
    /// Whether the tracepoint can be attached by name.
    pub tracepoint: bool,
    /// Whether `iter/task_file` exists (Linux 5.8, `kernel/bpf/task_iter.c`).
    pub iter_files: bool,
    /// Whether tracing programs may call `bpf_sk_storage_get` (Linux 5.11, `net/core/bpf_sk_storage.c`).
    pub sk_storage: bool,
    /// Whether the map type is in `enum bpf_map_type`.
    pub ring_buffer: bool,
    /// Types that programs attach to.
    pub attachable: Vec<Attachable>,
}

/// Type of a place where programs can be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachable {
    /// Name of the type.
    pub name: String,
    /// Kind of the type, [`btf::FUNC`] or [`btf::TYPEDEF`].
    pub kind: u32,
    /// Number of the type in the kernel.
    pub id: u32,
}

/// State of tracefs, and its description of the tracepoint.
#[derive(Clone, Copy, Debug)]
pub struct Tracefs {
    /// Whether it is mounted for all processes; else the agent mounts it for itself alone.
    pub mounted: bool,
    /// Offsets of the fields.
    pub layout: TraceLayout,
}

impl HostFacts {
    /// Gathers the facts. Loads nothing, changes nothing, and takes some milliseconds.
    pub fn gather() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let release = read("/proc/sys/kernel/osrelease");
        let version = release.as_deref().and_then(parse_version);
        // The bytes of the types, some 6 MB, are freed with `btf`.
        let types = Btf::of_kernel().map(|btf| Types::of(&btf));
        let ring_buffer = match &types {
            Ok(types) => Some(types.ring_buffer),
            Err(_) => probe_ring_buffer().or_else(|| version.map(|version| version >= (5, 8))),
        };
        let harmless = |text: String| harmless(text.as_bytes());
        let host = Host {
            name: read("/proc/sys/kernel/hostname").filter(|name| !name.is_empty()).map(harmless),
            boot: read("/proc/sys/kernel/random/boot_id").map(harmless),
        };
        Self {
            host,
            release,
            version,
            procfs: has_procfs(),
            types,
            ring_buffer,
            tracefs: OnceCell::new(),
            capabilities: Capabilities::read(),
            seccomp: has_seccomp(),
            locked_memory: locked_memory(),
            initial_user_namespace: is_namespace("user", USER_INIT_INO),
            initial_pid_namespace: initial_pid_namespace(),
            tick: tick().unwrap_or(LONGEST_TICK),
            port_range: fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
                .ok()
                .and_then(|text| parse_port_range(&text)),
        }
    }

    /// Reads tracefs, on the first call. Where tp_btf works nothing needs it, and a mount takes a thread and some
    /// milliseconds.
    pub fn tracefs(&self) -> &Result<Tracefs, TracefsError> {
        self.tracefs.get_or_init(|| {
            let mounted = tracefs::mounted().is_some();
            let layout = tracefs::with_tracefs(tracefs::trace_layout).and_then(|layout| layout);
            layout.map(|layout| Tracefs { mounted, layout })
        })
    }
}

impl Types {
    /// Extracts the relevant facts from the types.
    pub fn of(btf: &Btf) -> Self {
        // The type that `BPF_PROG_LOAD` searches for (`bpf_check_attach_target` in kernel/bpf/verifier.c, v6.18).
        let tracepoint = format!("btf_trace_{}", names::TRACEPOINT);
        let tracepoint = btf.typedef(&tracepoint).map(|id| Attachable { name: tracepoint, kind: btf::TYPEDEF, id });
        // `DEFINE_BPF_ITER_FUNC` in include/linux/bpf.h defines a function for each iterator.
        let function =
            |name: &str| btf.function(name).map(|id| Attachable { name: name.to_owned(), kind: btf::FUNC, id });
        let files = function("bpf_iter_task_file");
        Self {
            layout: btf::layout(btf),
            abilities: btf::abilities(btf),
            tracepoint: tracepoint.is_some(),
            iter_files: files.is_some(),
            sk_storage: btf.has_function("bpf_sk_storage_get_tracing"),
            ring_buffer: btf.enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF").is_some(),
            attachable: [tracepoint, files].into_iter().flatten().collect(),
        }
    }
}

/// `PROC_USER_INIT_INO` in include/linux/proc_ns.h (v6.18; the number is the same since 3.8).
const USER_INIT_INO: u32 = 0xEFFF_FFFD;
/// `PROC_PID_INIT_INO` in include/linux/proc_ns.h (v6.18; the number is the same since 3.8).
const PID_INIT_INO: u32 = 0xEFFF_FFFC;
/// Duration of a tick with `CONFIG_HZ_100`, the lowest frequency.
const LONGEST_TICK: Duration = Duration::from_millis(10);

/// Creates a ring buffer to test for support. `None` if a missing privilege hides the answer.
fn probe_ring_buffer() -> Option<bool> {
    is_map_supported(MapType::RingBuf).ok()
}

/// Whether this is the pid namespace of the host.
pub fn initial_pid_namespace() -> Option<bool> {
    is_namespace("pid", PID_INIT_INO)
}

fn is_namespace(kind: &str, inode: u32) -> Option<bool> {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    Some(link.to_str()? == format!("{kind}:[{inode}]"))
}

/// Whether `/proc` is a proc file system. `None` if the kernel does not say, as in some sandboxes.
fn has_procfs() -> Option<bool> {
    match statfs("/proc") {
        Ok(found) => Some(found.f_type == libc::PROC_SUPER_MAGIC),
        Err(Errno::NOENT) => Some(false),
        Err(_) => None,
    }
}

/// Whether the kernel has filters for system calls: only then the folder with the list of their actions exists
/// (`seccomp_sysctl_init` in kernel/seccomp.c, v6.18; since 4.14).
fn has_seccomp() -> Option<bool> {
    let sysctl = Path::new("/proc/sys/kernel");
    sysctl.try_exists().ok()?.then(|| sysctl.join("seccomp/actions_avail").exists())
}

/// Returns the current limit, or infinity if the hard limit is infinite: aya raises the soft limit to the hard one,
/// which every process may do.
fn locked_memory() -> Option<u64> {
    let limit = getrlimit(Resource::Memlock);
    // An infinite soft limit needs an infinite hard one.
    Some(limit.maximum.and(limit.current).unwrap_or(u64::MAX))
}

/// Returns the duration of a tick: the resolution of the coarse clock (`posix_get_coarse_res` in
/// kernel/time/posix-timers.c, v6.18).
fn tick() -> Option<Duration> {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(resolution.tv_sec).ok()?;
    Some(Duration::new(seconds, u32::try_from(resolution.tv_nsec).ok()?)).filter(|tick| !tick.is_zero())
}

/// Parses the first two numbers of a release such as `6.18.0-rc1-custom`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (numbers.next().is_none() && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases_of_distributions() {
        for (release, version) in [
            ("5.10.0-46-cloud-amd64", Some((5, 10))),
            ("7.3.4+deb13-cloud-amd64", Some((7, 3))),
            ("6.18-rc1", Some((6, 18))),
            ("6", None),
            ("6.x", None),
            ("", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
    }

    #[test]
    fn reads_the_range_of_local_ports() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some((32768, 60999)));
        for text in ["", "1", "a b", "9 1", "1 99999", "1 2 3"] {
            assert_eq!(parse_port_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn gathering_needs_no_privilege() {
        let facts = HostFacts::gather();
        assert!(facts.release.is_some());
        assert!(facts.tick <= LONGEST_TICK && facts.tick >= Duration::from_millis(1), "{:?}", facts.tick);
    }
}
