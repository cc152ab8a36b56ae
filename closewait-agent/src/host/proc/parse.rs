//! Parsers for the texts of `/proc/PID`. No bytes make them panic.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
};

/// Ticks of `/proc` per second: `USER_HZ`, 100 on every architecture but alpha and ia64 (include/asm-generic/param.h
/// at v5.10); programs get it as `AT_CLKTCK`.
const USER_HZ: u64 = 100;
/// Duration of a tick, nanoseconds.
const TICK_NS: u64 = 1_000_000_000 / USER_HZ;

/// Fields of `stat` of a process or thread (`do_task_stat`, fs/proc/array.c at v5.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Name: any bytes.
    pub comm: Vec<u8>,
    /// Letter of the state.
    pub state: u8,
    /// Pid of the parent; 0 if that is in another pid namespace.
    pub parent: u32,
    /// CPU time in user and kernel mode, nanoseconds, to the tick of 10 ms.
    pub cpu_ns: u64,
    /// Start, nanoseconds since boot on `CLOCK_BOOTTIME`, to the tick of 10 ms.
    pub started_ns: u64,
    /// Address at which the stack of the first thread began; `None` if it may not be read, and of a kernel thread.
    pub stack_start: Option<u64>,
}

impl Stat {
    /// Parses `PID (NAME) S PPID …`, where the name may contain parentheses and newlines.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = text.get(open + 1..close)?.to_owned();
        let mut fields = words(text.get(close + 1..)?);
        let state = *fields.next()?.first()?;
        let parent = number(fields.next()?)?;
        // utime and stime are fields 14 and 15, starttime is 22; the parent is 4.
        let (user, system) = (number::<u64>(fields.nth(9)?)?, number::<u64>(fields.next()?)?);
        let started: u64 = number(fields.nth(6)?)?;
        // startstack is field 28.
        let stack_start = fields.nth(5).and_then(number).filter(|start| *start > 0);
        let cpu_ns = user.saturating_add(system).saturating_mul(TICK_NS);
        Some(Self { comm, state, parent, cpu_ns, started_ns: started.saturating_mul(TICK_NS), stack_start })
    }

    /// Returns the number of the program that the process runs, see [`ProcessImage`](closewait_engine::process::ProcessImage). It is hashed
    /// with a key of this agent: whoever reads an answer or a recording must not learn an address of another program's memory.
    pub fn exec_id(&self) -> Option<u64> {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        self.stack_start.map(|start| KEY.hash_one(start))
    }
}

/// Fields of `status` of a process or thread (`proc_pid_status`, fs/proc/array.c at v5.10, which escapes newlines in
/// its name).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Number of threads.
    pub threads: Option<u32>,
    /// Number of voluntary context switches (`nvcsw`, which in `__schedule`, kernel/sched/core.c at v5.10, excludes
    /// switches of a runnable thread).
    pub voluntary_switches: Option<u64>,
    /// Signals that the process catches: bit 0 is signal 1.
    pub caught: Option<u64>,
    /// Effective user, in the user namespace of this process.
    pub user: Option<u32>,
    /// Effective group, in the user namespace of this process.
    pub group: Option<u32>,
    /// Pid in the innermost pid namespace, as the process itself sees it.
    pub inner_pid: Option<u32>,
}

impl Status {
    pub(super) fn parse(text: &[u8]) -> Self {
        let words_of = |name: &[u8]| Some(words(lines(text).find_map(|line| line.strip_prefix(name))?));
        let nth = |name: &[u8], at| words_of(name)?.nth(at);
        let value = |name: &[u8]| nth(name, 0);
        let hex = |word: &[u8]| u64::from_str_radix(str::from_utf8(word).ok()?, 16).ok();
        Self {
            threads: value(b"Threads:").and_then(number),
            voluntary_switches: value(b"voluntary_ctxt_switches:").and_then(number),
            caught: value(b"SigCgt:").and_then(hex),
            // Real, effective, saved, and of the file system.
            user: nth(b"Uid:", 1).and_then(number),
            group: nth(b"Gid:", 1).and_then(number),
            inner_pid: words_of(b"NSpid:").and_then(Iterator::last).and_then(number),
        }
    }
}

/// Fields of `schedstat` of a thread, as of its last tick or switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedStat {
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Time that it was runnable and waited for a CPU, nanoseconds, without the time since it last began to wait
    /// (`sched_info_arrive`, kernel/sched/stats.h at v5.10).
    pub delay_ns: u64,
}

impl SchedStat {
    /// Parses three numbers, which are all 0 where the kernel does not measure them.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = words(text);
        let (run_ns, delay_ns, slices): (u64, u64, u64) =
            (number(fields.next()?)?, number(fields.next()?)?, number(fields.next()?)?);
        (run_ns, delay_ns, slices).ne(&(0, 0, 0)).then_some(Self { run_ns, delay_ns })
    }
}

/// System call of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Number of the call, of this architecture: an `int` (`struct seccomp_data`, include/uapi/linux/seccomp.h at v5.10).
    pub number: i32,
    /// Arguments of the call.
    pub args: [u64; 6],
}

impl Call {
    /// Parses `running`, `-1 SP PC` outside of a system call, else `NUMBER ARG… SP PC`, with six arguments.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = words(text);
        let number = number(fields.next()?).filter(|number| *number >= 0)?;
        let mut args = [0; 6];
        for arg in &mut args {
            let digits = str::from_utf8(fields.next()?.strip_prefix(b"0x")?).ok()?;
            *arg = u64::from_str_radix(digits, 16).ok()?;
        }
        Some(Self { number, args })
    }
}

/// Parses the soft limit of `Max open files`; `None` for `unlimited` (`proc_pid_limits`, fs/proc/base.c at v5.10).
pub(super) fn open_files_limit(text: &[u8]) -> Option<u64> {
    let line = lines(text).find_map(|line| line.strip_prefix(b"Max open files"))?;
    number(words(line).next()?)
}

/// Cgroups of a process, from the lines `NUMBER:CONTROLLERS:PATH` of `cgroup` (`proc_cgroup_show`,
/// kernel/cgroup/cgroup.c at v5.10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPaths {
    /// Cgroup that names the workload: that of the unified hierarchy, or that of systemd where the former is absent or its root,
    /// as on hosts whose engines put containers only into the hierarchies of cgroup v1.
    pub named: Option<Vec<u8>>,
    /// Cgroup in the unified hierarchy.
    pub unified: Option<Vec<u8>>,
    /// Cgroup in the hierarchy of cgroup v1 that has the freezer.
    pub freezer: Option<Vec<u8>>,
    /// Cgroups in the hierarchies of cgroup v1 that have `net_cls` or `net_prio`, which sockets belong to.
    pub network: Vec<Vec<u8>>,
}

impl CgroupPaths {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut paths = Self::default();
        let mut systemd = None;
        for line in lines(text) {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let mut names = controllers.split(|byte| *byte == b',');
            if names.clone().any(|name| name == b"net_cls" || name == b"net_prio") {
                paths.network.push(line.to_owned());
            }
            let of = match (number, controllers) {
                (b"0", b"") => &mut paths.unified,
                (_, b"name=systemd") => &mut systemd,
                _ if names.any(|name| name == b"freezer") => &mut paths.freezer,
                _ => continue,
            };
            of.get_or_insert_with(|| path.to_owned());
        }
        let systemd = systemd.filter(|path| paths.unified.is_none() || path.as_slice() != b"/");
        let unified = paths.unified.as_ref().filter(|path| path.as_slice() != b"/" || systemd.is_none());
        paths.named = unified.cloned().or(systemd);
        paths
    }
}

/// Returns the first of `names` with which the name of a mapped file begins. The path is the sixth field of a line
/// (`show_map_vma`, fs/proc/task_mmu.c at v5.10).
pub(super) fn mapped(maps: &[u8], names: &[&'static str]) -> Option<&'static str> {
    lines(maps).find_map(|line| {
        let path = line.iter().position(|byte| *byte == b'/').and_then(|slash| line.get(slash..))?;
        let file = path.rsplit(|byte| *byte == b'/').next()?;
        names.iter().copied().find(|name| file.starts_with(name.as_bytes()))
    })
}

/// Splits a text into lines.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Parses a decimal number.
pub(super) fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    str::from_utf8(word.trim_ascii()).ok()?.parse().ok()
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    if let Some(stat) = Stat::parse(text) {
        assert!(stat.comm.len() < text.len(), "more of a name than there is text");
    }
    let call = Call::parse(text);
    assert!(call.is_none_or(|call| call.number >= 0));
    drop((Status::parse(text), open_files_limit(text), SchedStat::parse(text), CgroupPaths::parse(text)));
    let _library = mapped(text, &["libjvm.so", "libpython"]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_newlines_forges_nothing() {
        let text = b"42 (a) R 1\n(b) S 7 42 42 0 -1 4194560 1 0 0 0 3 2 0 0 20 0 5 0 123 1000 2 18446744073709551615\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.comm, b"a) R 1\n(b");
        assert_eq!((stat.state, stat.parent, stat.cpu_ns), (b'S', 7, 50_000_000));
        assert_eq!(stat.started_ns, 1_230_000_000);
    }

    #[test]
    fn a_thread_that_runs_is_in_no_system_call() {
        assert_eq!(Call::parse(b"running\n"), None);
        assert_eq!(Call::parse(b"-1 0x7ffc 0x7f00\n"), None);
        let call = Call::parse(b"202 0x7f0011223344 0x80 0x2 0x0 0x0 0x0 0x7ffc 0x7f00\n").unwrap();
        assert_eq!(call, Call { number: 202, args: [0x7f00_1122_3344, 0x80, 2, 0, 0, 0] });
        assert_eq!(Call::parse(b"202 0x7f0011223344 0x80\n"), None, "cut off");
    }

    #[test]
    fn limits_and_counts_are_found_in_their_lines() {
        let limits = b"Limit   Soft Limit\nMax open files            1024                 524288      files     \n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(open_files_limit(b"Max open files  unlimited unlimited files\n"), None);
        let status = Status::parse(
            b"Name:\tThreads:\\n9\nUid:\t0\t1000\t0\t1000\nGid:\t0\t1001\t0\t1001\nNSpid:\t4711\t7\nThreads:\t200\nSigCgt:\t0000000000000204\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n",
        );
        let expected = Status {
            threads: Some(200),
            voluntary_switches: Some(7),
            caught: Some(0x204),
            user: Some(1000),
            group: Some(1001),
            inner_pid: Some(7),
        };
        assert_eq!(status, expected);
        assert_eq!(Status::parse(b"Threads:\tx\n"), Status::default());
        let stat = SchedStat { run_ns: 36_195_067, delay_ns: 235_678 };
        assert_eq!(SchedStat::parse(b"36195067 235678 29\n"), Some(stat));
        assert_eq!([SchedStat::parse(b"0 0 0\n"), SchedStat::parse(b"1 2\n")], [None, None]);
    }

    #[test]
    fn the_unified_cgroup_comes_before_that_of_systemd() {
        let named = |text| CgroupPaths::parse(text).named;
        assert_eq!(named(b"1:name=systemd:/a\n0::/b:c\n").unwrap(), b"/b:c");
        assert_eq!(named(b"4:cpu:/x\n1:name=systemd:/a\n").unwrap(), b"/a");
        assert_eq!(named(b"4:cpu:/x\n"), None);
        for text in [&b"1:name=systemd:/kubepods/a\n0::/\n"[..], b"0::/\n1:name=systemd:/kubepods/a\n"] {
            assert_eq!(named(text).unwrap(), b"/kubepods/a", "the root of the unified hierarchy names nothing");
        }
        assert_eq!(named(b"1:name=systemd:/\n0::/\n").unwrap(), b"/");
        let paths = CgroupPaths::parse(b"9:devices,freezer:/f\n4:xfreezer:/x\n0::/u\n0:\n");
        assert_eq!((paths.freezer.as_deref(), paths.unified.as_deref()), (Some(&b"/f"[..]), Some(&b"/u"[..])));
        assert!(paths.network.is_empty());
        let paths = CgroupPaths::parse(b"4:net_cls,net_prio:/a\n3:net_prio:/b\n2:xnet_cls:/c\n0::/net_cls\n");
        assert_eq!(paths.network, [&b"4:net_cls,net_prio:/a"[..], b"3:net_prio:/b"]);
    }

    #[test]
    fn a_library_is_known_by_the_name_of_its_file() {
        let maps = b"7f00-7f01 r-xp 00000000 fd:00 12 /opt/libjvm.so.d/x\n7f00-7f01 r-xp 00000000 fd:00 12   /a b/libjvm.so (deleted)";
        assert_eq!(mapped(maps, &["libpython", "libjvm.so"]), Some("libjvm.so"));
        assert_eq!(mapped(b"7f00-7f01 r-xp 00000000 fd:00 12 /opt/libjvm.so.d/x\n", &["libjvm.so"]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop((Stat::parse(&bytes), Status::parse(&bytes), Call::parse(&bytes), open_files_limit(&bytes)));
            drop((SchedStat::parse(&bytes), CgroupPaths::parse(&bytes), mapped(&bytes, &["libjvm.so"])));
        }

        #[test]
        fn nearly_right_text_is_survived(text in r"[0-9]{1,3} \([()\n a-z]{0,9}\)?( [A-Z0-9-]{1,22}){0,30}") {
            drop((Stat::parse(text.as_bytes()), Call::parse(text.as_bytes())));
        }
    }
}
