//! Faults of the kernel that closewait could trigger.
//!
//! SYNs come from random sources while closewait lists sockets, an agent audits and a client queries it. The test
//! reads the kernel's log all the time, and compares closewait's sockets with those of `ss`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    process, thread,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can, tell},
    agent::{Agent, closewait},
    amplifier::Amplifier,
    churn::SynChurn,
    clock::{boot_seconds, patience, poll_until, slowness},
    kmsg::{KernelLog, fault_in},
    leftovers,
    listing::{list_at, list_by, ss, ss_here},
    many::{One, flood},
    net::{Id, Namespace, V4, V6},
    setup,
};

/// Time of the load, seconds; longer in a slow guest, because a scan takes longer there.
const SECONDS: f64 = 10.0;
const SECONDS_IN_GUEST: f64 = 40.0;
/// Minimum number of scans beside the load.
const MIN_SCANS: u32 = 5;
/// Number of listeners that get SYNs.
const LISTENERS: usize = 4;
/// Accepted sockets of each family, in each namespace.
const ACCEPTED: usize = 50;
/// Sockets of each family that no program accepts, in each namespace.
const NEVER_ACCEPTED: usize = 30;
/// Sockets of each family whose records the agent loses: a ring buffer of one page can store 32.
const LOST: usize = 100;

#[test]
fn syns_beside_scans_and_audits_bring_the_kernel_to_report_no_fault() {
    let mut log = KernelLog::from_now().expect("/dev/kmsg");
    let mut warnings = PrintedOnce::open();
    let amplifier = Amplifier::in_guest();
    let namespaces = [Namespace::inhabited(), Namespace::inhabited(), Namespace::inhabited()];
    let _populations: Vec<Population> = namespaces.iter().map(Population::new).collect();

    let path = std::env::temp_dir().join(format!("closewait-churn-{}.socket", process::id()));
    let path = path.to_str().expect("a path in UTF-8");
    let by_namespace = if can(Ability::Files) { &[][..] } else { &["--enter-namespaces"] };
    let arguments = ["--events", "all", "--ring-buffer", "4096", "--socket", path];
    let mut agent = Agent::start(&[&arguments[..], by_namespace].concat());
    agent.signal(libc::SIGSTOP);
    let _lost: Vec<One> = flood(&namespaces[1], LOST);
    agent.signal(libc::SIGCONT);

    let churn = SynChurn::start(&namespaces[0], LISTENERS);
    // The lost records trigger an audit. An earlier query would find the missed sockets as well.
    let health = agent
        .wait_for("an audit", |event| event["event"] == "health" && event["repaired"].as_u64() >= Some(LOST as u64));
    assert!(health["lost_ring_full"].as_u64() > Some(0), "{health}");
    let end = boot_seconds() + if slowness() == 1 { SECONDS } else { SECONDS_IN_GUEST };
    let mut scans = 0;
    // Few scans prove little, even on a busy machine.
    while boot_seconds() < end || scans < MIN_SCANS {
        warnings.print_again();
        compare_with_ss(&namespaces);
        list_at(path);
        assert_no_fault(&mut log, &format!("scan {scans}"));
        scans += 1;
    }
    let syns = churn.stop();
    let alone = if amplifier.is_none() && Amplifier::wanted() { ", no amplifier" } else { "" };
    drop(amplifier);
    let tracked = || namespaces.iter().all(|ns| ends(&list_at(path), ns.inode) == in_kernel(ns));
    assert!(poll_until(patience(), tracked), "what the agent tracks is not what ss finds");
    agent.stop().totals();
    assert_no_fault(&mut log, "the agent's end");
    // Without load the test proves nothing.
    assert!(syns > 10_000, "{syns} SYNs");
    tell("churn", &format!("{syns} SYNs, {scans} scans{alone}"));
    leftovers::assert_none();
}

#[test]
fn a_record_that_a_program_writes_is_read_and_is_no_fault() {
    let mut log = KernelLog::from_now().expect("/dev/kmsg");
    let text = format!("closewait {}: BUG: this is a test", process::id());
    // Without the line's end the kernel would wait for the rest of the record.
    fs::write("/dev/kmsg", format!("{text}\n")).expect("/dev/kmsg");
    let records = log.new_records().expect("/dev/kmsg");
    let record = records.iter().find(|record| record.contains(&text)).expect("the record");
    assert_eq!(fault_in(record), None, "{record}");
    assert!(log.new_records().expect("/dev/kmsg").iter().all(|record| !record.contains(&text)), "read twice");
}

/// Sockets in CLOSE_WAIT of both families in one namespace, accepted ones and others.
struct Population {
    _accepted: Vec<One>,
    _never_accepted: Vec<TcpListener>,
}

impl Population {
    fn new(ns: &Namespace) -> Self {
        let accepted = flood(ns, ACCEPTED);
        let listeners = [V4, V6].map(|address| {
            let listener = ns.listen(address);
            let address = listener.local_addr().expect("the listener's address");
            ns.run(|| (0..NEVER_ACCEPTED).for_each(|_| drop(TcpStream::connect(address).expect("a connection"))));
            listener
        });
        // The last FINs may still be in transit.
        let count = 2 * (ACCEPTED + NEVER_ACCEPTED);
        assert!(poll_until(patience(), || in_kernel(ns).len() >= count), "{} of {count} sockets", in_kernel(ns).len());
        Self { _accepted: accepted, _never_accepted: listeners.into() }
    }
}

/// Checks that `closewait list` without an agent lists the sockets of `ss`, in these namespaces and in the test's
/// own.
fn compare_with_ss(namespaces: &[Namespace]) {
    let before = ss_here();
    let listed = list_by(&mut closewait(&["list", "--output", "json", "--alone"]));
    for ns in namespaces {
        assert_eq!(ends(&listed, ns.inode), in_kernel(ns), "in namespace {}", ns.inode);
    }
    // Other programs have short-lived sockets here, too.
    if before == ss_here() {
        let here = fs::metadata("/proc/self/ns/net").expect("a namespace").ino();
        assert_eq!(ends(&listed, here), before.into_keys().collect(), "in the test's own namespace");
    }
}

/// Returns both endpoints of the listed sockets of a namespace.
fn ends(listed: &[Value], netns: u64) -> BTreeSet<(SocketAddr, SocketAddr)> {
    let ours = listed.iter().filter(|object| object["socket"]["netns"] == netns);
    let mut ends = BTreeSet::new();
    for object in ours {
        let Id { local, remote, .. } = Id::of_event(object).expect("two ends");
        assert!(ends.insert((local, remote)), "a second time: {object}");
    }
    ends
}

/// Returns both endpoints of the sockets that `ss` finds in a namespace.
fn in_kernel(ns: &Namespace) -> BTreeSet<(SocketAddr, SocketAddr)> {
    ss(ns).into_keys().collect()
}

/// Checks that the kernel has reported no fault since the last call.
fn assert_no_fault(log: &mut KernelLog, when: &str) {
    let faults = log.new_faults().expect("/dev/kmsg");
    assert!(faults.is_empty(), "the kernel reports, at {when}:\n{}", faults.join("\n"));
}

/// Switch that makes the kernel repeat warnings that it prints only once.
struct PrintedOnce(Option<File>);

impl PrintedOnce {
    /// Opens the switch, in a new mount namespace with debugfs. Not every kernel allows that.
    fn open() -> Self {
        let open = || {
            setup::own_mounts().ok()?;
            setup::mount_debugfs().ok()?;
            File::options().write(true).open("/sys/kernel/debug/clear_warn_once").ok()
        };
        // On a new thread, because there is no way back to the caller's mount namespace.
        let switch = thread::spawn(open).join().expect("no panic");
        assert!(switch.is_some() || !Amplifier::wanted(), "a guest has debugfs");
        Self(switch)
    }

    fn print_again(&mut self) {
        if let Some(switch) = &mut self.0 {
            switch.write_all(b"1").expect("clear_warn_once");
        }
    }
}
