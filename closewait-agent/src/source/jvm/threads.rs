//! Stacks of the threads of a dump.

use std::collections::{HashMap, HashSet};

use closewait_engine::{
    stacks::{
        CodeFrame, CodeLanguage, CodeStack,
        carriers::{CARRIES, FREE_CARRIER, MOUNTED, PINNED, VIRTUAL},
    },
    text::harmless,
};
use closewait_stacks::{
    Frame, TargetThread,
    jvm::{JvmThread, lock_owners},
};

/// Returns the stacks of the threads of a dump, with their numbers in this pid namespace. Names come from the program, and are made
/// harmless.
pub(super) fn code_stacks(mut threads: Vec<JvmThread>, tasks: &[TargetThread]) -> Vec<CodeStack> {
    let tids: HashMap<_, _> = tasks.iter().map(|task| (task.inner_tid, task.tid)).collect();
    let carriers = carrier_pools(&threads);
    // What runs on a carrier is in the stack of its virtual thread.
    let mounted: HashSet<_> =
        threads.iter().filter(|thread| thread.is_virtual).filter_map(|thread| thread.stack.number).collect();
    threads.retain(|thread| thread.carries.is_none_or(|number| !mounted.contains(&number)));
    let lock_owners = lock_owners(&threads);
    // Each thread is dropped when its stack is there: together they may take much memory.
    let stack = |(thread, lock_owner): (JvmThread, Option<usize>)| CodeStack {
        language: CodeLanguage::Jvm,
        tid: thread.inner_tid.and_then(|tid| tids.get(&tid).copied()),
        name: Some(text(&thread.name)).filter(|name| !name.is_empty()),
        state: state(&thread, &carriers).as_deref().map(text),
        lock_owner: lock_owner.and_then(|at| u32::try_from(at).ok()),
        frames: thread.stack.frames.iter().map(code_frame).collect(),
        cut: thread.stack.cut.as_deref().map(text),
    };
    threads.into_iter().zip(lock_owners).map(stack).collect()
}

fn text(text: &str) -> String {
    harmless(text.as_bytes())
}

fn code_frame(frame: &Frame) -> CodeFrame {
    CodeFrame {
        function: frame.function.as_deref().map(text),
        file: frame.file.as_deref().map(text),
        line: frame.line,
        object: None,
    }
}

/// Returns the beginnings of the names of threads that carry virtual ones: `ForkJoinPool-1-worker-` of `ForkJoinPool-1-worker-2`.
fn carrier_pools(threads: &[JvmThread]) -> HashSet<String> {
    let carriers = threads.iter().filter(|thread| thread.carries.is_some());
    carriers.filter_map(|carrier| pool(&carrier.name)).map(str::to_owned).collect()
}

/// Returns the name of a thread without its number; `None` for a name of another form.
fn pool(name: &str) -> Option<&str> {
    let pool = name.trim_end_matches(|digit: char| digit.is_ascii_digit());
    (pool.len() < name.len() && pool.ends_with('-')).then_some(pool)
}

/// Returns the state of a thread; `None` for threads of the machine itself, whose states say nothing.
fn state(thread: &JvmThread, carriers: &HashSet<String>) -> Option<String> {
    let state = thread.stack.state.clone().filter(|_| !thread.stack.frames.is_empty());
    let kind = match thread.carries {
        _ if thread.is_pinned() => PINNED,
        _ if thread.is_virtual && thread.inner_tid.is_some() => MOUNTED,
        _ if thread.is_virtual => VIRTUAL,
        Some(_) => CARRIES,
        None if pool(&thread.name).is_some_and(|pool| carriers.contains(pool)) => FREE_CARRIER,
        None => return state,
    };
    Some(state.map_or_else(|| kind.to_owned(), |state| format!("{kind}, {state}")))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use closewait_engine::{
        stacks::{CodeWait, ProcessStacks, StackGroup, ThreadWork, group_stacks},
        time::BootTime,
    };
    use closewait_stacks::jvm::{json, merged, text};

    use super::*;

    /// Returns what the carriers of a dump do, if all are pinned.
    fn carriers_of(name: &str, only_first: bool) -> Option<String> {
        let stacks = code_stacks(threads(name, only_first), &[]);
        let sample = ProcessStacks::new(7, BootTime(1), &stacks, Vec::new());
        sample.pinned_carriers().map(|pinned| pinned.headline())
    }

    fn groups(name: &str) -> Vec<StackGroup> {
        group_stacks(&code_stacks(threads(name, false), &[]))
    }

    fn threads(name: &str, only_first: bool) -> Vec<JvmThread> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../closewait-stacks/tests/dumps");
        let mut threads = text::parse(&fs::read(folder.join(format!("{name}.txt"))).unwrap()).unwrap();
        if let Some(more) = fs::read(folder.join(format!("{name}.json"))).ok().filter(|_| !only_first) {
            threads = merged(threads, json::parse(&more).unwrap());
        }
        threads
    }

    #[test]
    fn every_version_has_its_waits_and_the_holder_of_the_lock() {
        for version in ["8", "11", "17", "21", "25", "28"] {
            let groups = groups(&format!("jvm-{version}-waits"));
            let named = |name: &str| {
                let group = groups.iter().find(|group| group.names.iter().any(|one| one == name));
                group.unwrap_or_else(|| panic!("{version} {name}"))
            };
            for (name, expected) in [
                ("http-1", CodeWait::Lock),
                ("prices-waiter", CodeWait::Lock),
                ("stock-reader", CodeWait::Lock),
                ("signal", CodeWait::Signal),
                ("accept", CodeWait::Accept),
                ("select", CodeWait::Events),
                ("receive", CodeWait::Receive),
                ("future", CodeWait::Signal),
                ("queue", CodeWait::Signal),
                ("put", CodeWait::Room),
                ("sleep", CodeWait::Sleep),
                ("join", CodeWait::Join),
                ("process", CodeWait::Process),
                ("заказ", CodeWait::Signal),
            ] {
                let group = named(name);
                assert_eq!(group.work, ThreadWork::Waits(expected), "{version} {name}: {group:#?}");
                assert!(group.place().is_some(), "{version} {name}");
            }
            assert_eq!(named("spins").work, ThreadWork::Unknown, "{version}");
            for idle in ["pool-1-thread-1", "pool-2-thread-1", "Finalizer", "Reference Handler", "Signal Dispatcher"] {
                assert!(named(idle).is_idle(), "{version} {idle}: {:#?}", named(idle));
            }
            let lock_owner = named("http-2").lock_owner.as_ref().unwrap();
            assert_eq!(
                (lock_owner.name.as_deref(), lock_owner.work),
                (Some("audit"), ThreadWork::Waits(CodeWait::Sleep))
            );
            let place = lock_owner.place.as_ref().unwrap().to_string();
            assert_eq!(place, "Orders.write (Orders.java:94)", "{version}");
            // The other threads of the machine itself.
            let others = groups.iter().filter(|group| group.work == ThreadWork::Unknown).flat_map(|group| &group.names);
            assert_eq!(others.collect::<Vec<_>>(), ["spins"], "{version}");
        }
    }

    #[test]
    fn pinned_virtual_threads_stand_for_their_carriers() {
        let groups = groups("jvm-21-pinned");
        let pinned: Vec<_> =
            groups.iter().filter(|group| group.state.as_deref() == Some("virtual, pinned to its carrier")).collect();
        let [pinned] = pinned[..] else { panic!("{groups:#?}") };
        assert_eq!((pinned.count, pinned.work), (2, ThreadWork::Waits(CodeWait::Lock)));
        assert_eq!(pinned.place().unwrap().function.as_deref(), Some("Orders.finish"));
        let carriers = |group: &&StackGroup| group.state.as_deref().is_some_and(|state| state.contains("carries"));
        assert_eq!(groups.iter().filter(carriers).count(), 0);
        let place = "Orders.finish (Orders.java:146)";
        let expected = format!(
            "all 2 carriers of virtual threads are pinned in {place}; 2 virtual threads without a carrier cannot run"
        );
        assert_eq!(carriers_of("jvm-21-pinned", false), Some(expected));
        // Without the second dump, it is unknown what the carriers run.
        assert_eq!(carriers_of("jvm-21-pinned", true), None);
    }

    #[test]
    fn where_no_thread_is_pinned_no_carrier_is() {
        for name in ["jvm-21-waits", "jvm-25-pinned", "jvm-25-mounted", "jvm-28-pinned"] {
            assert_eq!(carriers_of(name, false), None, "{name}");
        }
        let free = groups("jvm-25-mounted");
        let free = free.iter().find(|group| group.names.iter().any(|name| name == "ForkJoinPool-1-worker-2"));
        assert!(free.unwrap().state.as_deref().unwrap().starts_with(FREE_CARRIER), "{free:#?}");
        let mounted = groups("jvm-25-mounted");
        assert!(mounted.iter().any(|group| group.state.as_deref().is_some_and(|state| state.starts_with(MOUNTED))));
    }
}
