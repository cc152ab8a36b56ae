//! Dump of the threads of a Java virtual machine: text, JSON, and both with a zero between them.
#![no_main]

use closewait_stacks::{
    jvm::{JvmThread, MAX_JVM_THREADS, has_virtual_threads, json, lock_owners, merged, text},
    stack::MAX_FRAMES,
};
use libfuzzer_sys::fuzz_target;

/// Maximum number of locks that a thread has in each dump.
const MAX_LOCKS: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let middle = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, second) = bytes.split_at(middle);
    // The title is not what is tested.
    let whole = [b"\nFull thread dump \n", first].concat();
    let threads = text::parse(&whole).expect("a dump");
    let _any = text::release(&whole);
    check(&threads);
    if let Ok(threads) = json::parse(bytes) {
        check(&threads);
    }
    if let Ok(more) = json::parse(second.get(1..).unwrap_or_default()) {
        check(&merged(threads, more));
    }
});

fn check(threads: &[JvmThread]) {
    assert!(threads.len() <= MAX_JVM_THREADS);
    for thread in threads {
        assert!(thread.stack.frames.len() <= MAX_FRAMES);
        assert!(thread.holds.len() <= 2 * MAX_LOCKS);
        assert!(thread.holds.iter().filter_map(|lock| lock.frame).all(|frame| frame < thread.stack.frames.len()));
        let _shown = thread.to_string();
    }
    let lock_owners = lock_owners(threads);
    assert_eq!(lock_owners.len(), threads.len());
    assert!(
        lock_owners
            .iter()
            .enumerate()
            .all(|(at, lock_owner)| lock_owner.is_none_or(|lock_owner| lock_owner < threads.len() && lock_owner != at))
    );
    let _either = has_virtual_threads(threads);
}
