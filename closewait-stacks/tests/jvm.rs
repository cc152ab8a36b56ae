//! Dumps of Java virtual machines, and the threads that are read from them: `tests/dumps/NAME.txt`, and `NAME.json` where the machine
//! has virtual threads, with the result in `NAME.threads`. `BLESS=1` rewrites the results.
//!
//! The program is `tests/dumps/src/Orders.java`, on OpenJDK 8 to 28 of Debian.

use std::{env, fs, path::Path};

use closewait_stacks::{
    jvm::{self, JvmThread, MAX_JVM_THREADS, json, lock_owners, merged, text},
    stack::MAX_FRAMES,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dumps");

fn dump(name: &str) -> Vec<u8> {
    fs::read(Path::new(FOLDER).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn threads(name: &str) -> Vec<JvmThread> {
    let threads = text::parse(&dump(&format!("{name}.txt"))).expect("a dump that can be read");
    match fs::read(Path::new(FOLDER).join(format!("{name}.json"))) {
        Ok(more) => merged(threads, json::parse(&more).expect("a dump that can be read")),
        Err(_) => threads,
    }
}

fn names() -> Vec<String> {
    let files = fs::read_dir(FOLDER)
        .expect("a dump that can be read")
        .map(|file| file.expect("a dump that can be read").file_name().into_string().expect("a dump that can be read"));
    let mut names: Vec<_> = files.filter_map(|name| name.strip_suffix(".txt").map(str::to_owned)).collect();
    names.sort();
    names
}

fn named<'a>(threads: &'a [JvmThread], name: &str) -> &'a JvmThread {
    threads.iter().find(|thread| thread.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// Returns the name of the thread for whose lock a thread waits.
fn owner_of<'a>(threads: &'a [JvmThread], name: &str) -> Option<&'a str> {
    let at = threads.iter().position(|thread| thread.name == name).unwrap_or_else(|| panic!("{name}"));
    lock_owners(threads)[at].map(|lock_owner| threads[lock_owner].name.as_str())
}

#[test]
fn every_dump_has_its_threads() {
    let (mut wrong, names) = (Vec::new(), names());
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let threads = threads(&name);
        let lock_owners = lock_owners(&threads);
        let mut result = String::new();
        for (thread, lock_owner) in threads.iter().zip(lock_owners) {
            result += &format!("{thread}\n");
            if let Some(lock_owner) = lock_owner {
                result += &format!("  which {:?} has\n", threads[lock_owner].name);
            }
        }
        let golden = Path::new(FOLDER).join(format!("{name}.threads"));
        if env::var_os("BLESS").is_some() {
            fs::write(&golden, result).unwrap();
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&result) {
            wrong.push(format!("{name}:\n{result}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_version_names_the_lines_and_who_has_the_locks() {
    for version in ["8", "11", "17", "21", "25", "28"] {
        let threads = threads(&format!("jvm-{version}-waits"));
        let place = |name: &str| {
            let frames = &named(&threads, name).stack.frames;
            let own = frames.iter().find(|frame| frame.file.as_deref() == Some("Orders.java"));
            own.unwrap_or_else(|| panic!("{name}")).to_string()
        };
        // Lines in `dumps/src/Orders.java`.
        for (name, expected) in [
            ("audit", "Orders.write (Orders.java:94)"),
            ("http-1", "Orders.reserve (Orders.java:99)"),
            ("http-2", "Orders.reserve (Orders.java:99)"),
            ("prices-holder", "Orders.reprice (Orders.java:105)"),
            ("prices-waiter", "Orders.lambda$main$0 (Orders.java:48)"),
            ("receive", "Orders.receive (Orders.java:111)"),
            ("in \"quotes\" #7 prio=5 nid=0x1", "Orders.lambda$main$14 (Orders.java:63)"),
            ("two\nlines", "Orders.lambda$main$15 (Orders.java:64)"),
            ("заказ", "Orders.lambda$main$16 (Orders.java:65)"),
        ] {
            assert_eq!(place(name), expected, "{version} {name}");
        }
        for (name, expected) in [
            ("http-1", Some("audit")),
            ("http-2", Some("audit")),
            ("prices-waiter", Some("prices-holder")),
            ("stock-reader", Some("stock-holder")),
            ("audit", None),
            ("signal", None),
            ("queue", None),
        ] {
            assert_eq!(owner_of(&threads, name), expected, "{version} {name}");
        }
        assert_eq!(named(&threads, "http-1").stack.state.as_deref(), Some("BLOCKED (on object monitor)"), "{version}");
        assert!(named(&threads, "signal").holds.is_empty(), "{version}: Object.wait gives the lock back");
        let tids: Vec<_> = threads.iter().filter_map(|thread| thread.inner_tid).collect();
        assert_eq!(tids.len(), threads.len(), "{version}: every thread has its number");
        assert!(!threads.iter().any(|thread| thread.is_virtual), "{version}");
    }
}

#[test]
fn the_release_is_in_the_title() {
    for (name, expected) in [
        ("jvm-8-waits", None),
        ("jvm-11-waits", Some(11)),
        ("jvm-17-waits", Some(17)),
        ("jvm-21-waits", Some(21)),
        ("jvm-25-waits", Some(25)),
        ("jvm-28-waits", Some(28)),
    ] {
        assert_eq!(text::release(&dump(&format!("{name}.txt"))), expected, "{name}");
    }
    let title = |version: &str| text::release(format!("\nFull thread dump {version}:\n").as_bytes());
    assert_eq!(title("Java HotSpot(TM) 64-Bit Server VM (21.0.5+9-LTS-239 mixed mode, sharing)"), Some(21));
    for odd in ["", "VM", "VM (", "VM (+)", "VM (x+1)", "VM (99999999999+1)", "VM (21.0.5 mixed+mode)"] {
        assert_eq!(title(odd), None, "{odd}");
    }
    assert_eq!(text::release(b"VM (21+1)"), None, "no dump");
}

#[test]
fn pinned_virtual_threads_have_the_threads_that_carry_them() {
    let virtual_ones = |name: &str| {
        let threads = threads(name);
        assert!(jvm::has_virtual_threads(&text::parse(&dump(&format!("{name}.txt"))).unwrap()), "{name}");
        threads.into_iter().filter(|thread| thread.is_virtual).collect::<Vec<_>>()
    };
    // Both carriers are taken by threads in `synchronized`; the lock's next owner has none, and a fourth thread has not begun.
    let old = virtual_ones("jvm-21-pinned");
    let pinned: Vec<_> = old.iter().filter(|thread| thread.is_pinned()).collect();
    assert_eq!((old.len(), pinned.len()), (4, 2));
    assert!(pinned.iter().all(|thread| thread.inner_tid.is_some()));
    assert_eq!(old.iter().filter(|thread| thread.inner_tid.is_none()).count(), 2);
    assert_eq!(old.iter().filter(|thread| thread.stack.frames.is_empty()).count(), 1);
    // Since JDK 24, no virtual thread is pinned by a monitor, and the dump names the owner of the lock.
    for name in ["jvm-25-pinned", "jvm-28-pinned"] {
        assert_eq!(virtual_ones(name).iter().filter(|thread| thread.is_pinned()).count(), 0, "{name}");
        let threads = threads(name);
        let waiting = threads.iter().zip(lock_owners(&threads)).filter(|(thread, _)| thread.is_virtual);
        let of_report =
            waiting.filter(|(_, lock_owner)| lock_owner.is_some_and(|at| threads[at].name == "report")).count();
        assert_eq!(of_report, 3, "{name}");
    }
}

#[test]
fn a_virtual_thread_that_runs_is_no_part_of_its_carrier() {
    let threads = threads("jvm-25-mounted");
    let runs = threads.iter().find(|thread| thread.is_virtual && thread.inner_tid.is_some()).unwrap();
    let carrier = threads.iter().find(|thread| thread.carries.is_some()).unwrap();
    assert_eq!((carrier.inner_tid, carrier.carries), (runs.inner_tid, runs.stack.number));
    assert!(runs.stack.frames[0].function.as_deref().unwrap().starts_with("Orders."));
    assert!(carrier.stack.frames.iter().all(|frame| !frame.function.as_deref().unwrap().starts_with("Orders.")));
    let by_number = |at: usize| threads[at].stack.number;
    let blocked: Vec<_> = threads
        .iter()
        .zip(lock_owners(&threads))
        .filter(|(thread, _)| thread.stack.number != runs.stack.number)
        .collect();
    let behind = blocked.iter().filter(|(_, lock_owner)| lock_owner.and_then(by_number) == runs.stack.number).count();
    assert_eq!(behind, 2, "another virtual thread, and http-1");
    // A deadlock is listed once.
    assert_eq!(owner_of(&threads, "deadlock-0"), Some("deadlock-1"));
    assert_eq!(owner_of(&threads, "deadlock-1"), Some("deadlock-0"));
    assert_eq!(threads.iter().filter(|thread| thread.name.starts_with("deadlock-")).count(), 2);
}

#[test]
fn locks_of_a_later_dump_have_no_frames_of_the_first() {
    let first = "Full thread dump \n\"t\" #17 tid=0x1 nid=7 runnable\n";
    let later = r#"{"threadDump": {"threadContainers": [{"threads": [
        {"tid": 17, "stack": ["a.b(C.java:1)"], "monitorsOwned": [{"depth": 0, "locks": ["D@1", null]}]}]}]}}"#;
    let threads = merged(text::parse(first.as_bytes()).unwrap(), json::parse(later.as_bytes()).unwrap());
    assert_eq!(threads[0].stack.frames, []);
    let locks: Vec<_> = threads[0].holds.iter().map(|lock| (lock.identity.as_str(), lock.frame)).collect();
    assert_eq!(locks, [("D@1", None)]);
}

#[test]
fn damaged_dumps_end_within_the_limits() {
    let (mut sound, mut refused) = (0, 0);
    for name in names() {
        let whole = dump(&format!("{name}.txt"));
        for seed in 0..200_usize {
            let mut damaged = whole.clone();
            let (from, to) = (seed * 7919 % whole.len(), (seed * 104_729 + 13) % whole.len());
            match seed % 4 {
                0 => damaged.truncate(from),
                1 => damaged.iter_mut().skip(from).step_by(97).for_each(|byte| *byte = b'"'),
                2 => damaged.iter_mut().skip(from).step_by(61).for_each(|byte| *byte = b'\n'),
                _ => {
                    damaged.drain(from.min(to)..from.max(to));
                }
            }
            match text::parse(&damaged) {
                Ok(threads) => {
                    assert!(threads.len() <= MAX_JVM_THREADS);
                    assert!(threads.iter().all(|thread| thread.stack.frames.len() <= MAX_FRAMES));
                    assert_eq!(lock_owners(&threads).len(), threads.len());
                    sound += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(sound > 1000 && refused > 5, "{sound} {refused}");
    for broken in ["", "{", "[]", "{\"threadDump\": 1}", "{\"threadDump\": {\"threadContainers\": [{\"threads\": 1}]}}"]
    {
        assert!(json::parse(broken.as_bytes()).is_err(), "{broken}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(json::parse(format!("{{\"threadDump\": {deep}").as_bytes()).is_err());
}

#[test]
fn more_than_the_limits_is_left_out_and_takes_no_time() {
    let title = "Full thread dump \n";
    let thread = |number: usize| format!("\"t\" #{number} prio=5 tid=0x1 nid=0x{number:x} runnable\n");
    let many: String = (0..10_000).map(thread).collect();
    assert_eq!(text::parse(format!("{title}{many}").as_bytes()).unwrap().len(), MAX_JVM_THREADS);
    let deep = format!("{title}{}{}", thread(1), "\tat a.b(C.java:1)\n".repeat(5000));
    let threads = text::parse(deep.as_bytes()).unwrap();
    assert_eq!((threads[0].stack.frames.len(), threads[0].stack.cut.is_some()), (MAX_FRAMES, true));
    let locks = format!("{title}{}{}", thread(1), "\t- locked <0x1> (a C)\n".repeat(5000));
    assert_eq!(text::parse(locks.as_bytes()).unwrap()[0].holds.len(), 64);
    // A name that never ends.
    let open = format!("{title}{}", "\"\n".repeat(1 << 20));
    assert_eq!(text::parse(open.as_bytes()).unwrap(), []);
    let long = format!("{title}\"{}\" #1 tid=0x1 nid=7", "ж".repeat(1000));
    assert!(text::parse(long.as_bytes()).unwrap()[0].name.len() <= 512);
    assert!(text::parse(b"no dump\n").is_err());
}

#[test]
fn a_dump_of_many_small_or_one_large_part_is_read_within_its_limits() {
    let filled = |head: &str, unit: &str, tail: &str| {
        let count = (1 << 20) / unit.len();
        json::parse(format!("{head}{}{tail}", vec![unit; count].join(",")).as_bytes())
    };
    let containers = r#"{"threadDump":{"threadContainers":["#;
    let stack = r#"{"threads":[{"tid":"7","stack":["#;
    assert_eq!(filled(containers, "{}", "]}}").unwrap(), []);
    let threads = filled(&format!(r#"{containers}{{"threads":["#), "{}", "]}]}}").unwrap();
    assert_eq!(threads.len(), MAX_JVM_THREADS);
    let threads = filled(containers, r#"{"threads":[{},{}]}"#, "]}}").unwrap();
    assert_eq!(threads.len(), MAX_JVM_THREADS);
    // The outermost frame is that of a virtual thread.
    let last = r#","java.lang.VirtualThread.run(VirtualThread.java:1)"]}]}]}}"#;
    let threads = filled(&format!("{containers}{stack}"), r#""a.b(C.java:1)""#, last).unwrap();
    assert_eq!((threads.len(), threads[0].stack.number, threads[0].is_virtual), (1, Some(7), true));
    assert_eq!((threads[0].stack.frames.len(), threads[0].stack.cut.is_some()), (MAX_FRAMES, true));
    // One frame of 16 MiB, whose parts were once compared with all that is behind them: minutes.
    let slashes = format!(r#"{containers}{stack}"{}b.c(F.java:1)"]}}]}}]}}}}"#, "a/".repeat((16 << 20) / 2 - 64));
    let threads = json::parse(slashes.as_bytes()).unwrap();
    assert!(threads[0].stack.frames[0].function.as_deref().unwrap().ends_with('…'));
    // A number that is something else.
    assert!(filled(&format!(r#"{containers}{{"threads":[{{"tid":["#), "0", "]}]}]}}").is_err());
}
