//! Threads that wait in the function that they began with.
//!
//! A worker of a program's own pool takes its work from a queue or a channel, right in the function that its thread began with. The
//! handler of a connection that has a thread to itself can wait for a result there, so such a stack alone proves nothing: the number of
//! these threads shows which of them they are. A request that a server has passed on has functions of the server outside.

use super::{
    frame::{CodeFrame, CodeLanguage, CodeStack},
    waits::{matches, wait_of},
};

/// Functions that take the next item of a queue or a channel, or wait until there is one. Functions that wait for one result are not here.
const TAKES: &[(CodeLanguage, &str)] = &[
    (CodeLanguage::Go, "runtime.chanrecv%"),
    (CodeLanguage::Go, "runtime.selectgo"),
    (CodeLanguage::Go, "runtime.block"),
    (CodeLanguage::Go, "sync.(*Cond).Wait"),
    (CodeLanguage::Python, "queue.py:get"),
    (CodeLanguage::Python, "threading.py:wait%"),
    (CodeLanguage::Jvm, "java.util.concurrent.%.take%"),
    (CodeLanguage::Jvm, "java.util.concurrent.%.poll%"),
    (CodeLanguage::Jvm, "java.util.concurrent.locks.%.await%"),
    (CodeLanguage::Jvm, "java.util.concurrent.locks.LockSupport.park%"),
    (CodeLanguage::Jvm, "java.lang.Object.wait%"),
    (CodeLanguage::Native, "%pthread_cond_%"),
    (CodeLanguage::Native, "sem_%wait"),
    (CodeLanguage::Native, "_queue_SimpleQueue_get%"),
    (CodeLanguage::Native, "_ZNSt18condition_variable%"),
    (CodeLanguage::Native, "std::%"),
    (CodeLanguage::Native, "crossbeam_channel::%"),
    (CodeLanguage::Native, "parking_lot::%"),
];

/// Functions that start a thread, and what compilers make of a function without a name.
const STARTS: &[(CodeLanguage, &str)] = &[
    (CodeLanguage::Go, "runtime.main"),
    (CodeLanguage::Go, "runtime.goexit%"),
    (CodeLanguage::Go, "%.func%"),
    (CodeLanguage::Go, "golang.org/x/sync/errgroup.%"),
    (CodeLanguage::Python, "threading.py:run"),
    (CodeLanguage::Python, "threading.py:_bootstrap%"),
    (CodeLanguage::Jvm, "java.lang.Thread.run%"),
    (CodeLanguage::Jvm, "java.lang.VirtualThread.run%"),
    (CodeLanguage::Jvm, "jdk.internal.vm.Continuation.%"),
    (CodeLanguage::Jvm, "%lambda$%"),
    (CodeLanguage::Jvm, "%$$Lambda%"),
    (CodeLanguage::Native, "start_thread"),
    (CodeLanguage::Native, "start"),
    (CodeLanguage::Native, "%clone%"),
    (CodeLanguage::Native, "execute_native_thread_routine%"),
    (CodeLanguage::Native, "_ZNSt%"),
    (CodeLanguage::Native, "_ZSt%"),
    (CodeLanguage::Native, "_ZZ%E%Ul%"),
    (CodeLanguage::Native, "std::%"),
    (CodeLanguage::Native, "core::%"),
    (CodeLanguage::Native, "alloc::%"),
    (CodeLanguage::Native, "<%as core::ops::function::Fn%"),
    (CodeLanguage::Native, "%{{closure}}%"),
    (CodeLanguage::Native, "%{closure#%"),
];

/// Libraries that start threads, by the beginnings of their names.
const STARTING_LIBRARIES: [&str; 6] = ["libc.", "libc-", "libpthread", "libstdc++", "libc++", "ld-musl"];

/// Parts of the names of functions that take work for the loop that calls them.
const TAKERS: [&str; 8] = ["pop", "take", "queue", "next", "pull", "job", "task", "work"];
/// Parts of the names of functions that wait for a result.
const RESULTS: [&str; 4] = ["result", "reply", "response", "answer"];

fn is_in(table: &[(CodeLanguage, &str)], frame: &CodeFrame, language: CodeLanguage) -> bool {
    let of = frame.language(language);
    let name = frame.table_name(language);
    name.is_some_and(|name| table.iter().any(|(kind, pattern)| *kind == of && matches(pattern, &name)))
}

/// Whether a frame outside of the application's is there because a thread starts.
fn starts(frame: &CodeFrame, language: CodeLanguage) -> bool {
    let library = frame.object.as_deref().filter(|_| language == CodeLanguage::Native);
    let library = library.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    is_in(STARTS, frame, language) || STARTING_LIBRARIES.iter().any(|name| library.starts_with(name))
}

/// Whether a function takes work for its caller, by its name.
fn takes_for_caller(frame: &CodeFrame) -> bool {
    let name = frame.function.as_deref().unwrap_or_default().to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    has(&TAKERS) && !has(&RESULTS)
}

/// Whether a stack, whose frame at `place` is the application's innermost, takes work in the function that its thread began with.
pub(super) fn waits_in_own_loop(stack: &CodeStack, place: Option<usize>) -> bool {
    let language = stack.language;
    let Some((inner, [innermost, outer @ ..])) = place.and_then(|place| stack.frames.split_at_checked(place)) else {
        return false;
    };
    let decides = inner.iter().rev().find(|frame| wait_of(frame, language).is_some());
    let between = outer.iter().filter(|frame| !starts(frame, language)).count();
    stack.cut.is_none()
        && decides.is_some_and(|frame| is_in(TAKES, frame, language))
        && (between == 0 || between == 1 && takes_for_caller(innermost))
}
