//! Threads that wait in the function that they began with.
//!
//! A worker of a program's own pool takes its work from a queue or a channel, right in the function that its thread began with. The
//! handler of a connection that has a thread to itself can wait for a result there, so such a stack alone proves nothing: the number of
//! these threads shows which of them they are. A request that a server has passed on has functions of the server outside.

use super::{
    frame::{CodeFrame, CodeLanguage, CodeStack},
    origin::FrameOrigin,
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
    // A semaphore that counts items; the locks of Python have no frame.
    (CodeLanguage::Python, "threading.py:acquire"),
    (CodeLanguage::Jvm, "java.util.concurrent.Semaphore.%cquire%"),
    (CodeLanguage::Jvm, "java.util.concurrent.%.take%"),
    (CodeLanguage::Jvm, "java.util.concurrent.%.poll%"),
    (CodeLanguage::Jvm, "java.util.concurrent.locks.%.await%"),
    (CodeLanguage::Jvm, "java.util.concurrent.locks.LockSupport.park%"),
    (CodeLanguage::Jvm, "java.lang.Object.wait%"),
    // Queues and condition variables of Ruby; methods in C have no class.
    (CodeLanguage::Ruby, "pop"),
    (CodeLanguage::Ruby, "shift"),
    (CodeLanguage::Ruby, "deq"),
    (CodeLanguage::Ruby, "wait"),
    (CodeLanguage::Native, "%pthread_cond_%"),
    (CodeLanguage::Native, "sem_%wait"),
    (CodeLanguage::Native, "_queue_SimpleQueue_get%"),
    (CodeLanguage::Native, "%std::%"),
    (CodeLanguage::Native, "%crossbeam_channel::%"),
    (CodeLanguage::Native, "%parking_lot::%"),
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
    (CodeLanguage::Ruby, "loop"),
    (CodeLanguage::Ruby, "<internal:kernel>:loop"),
    (CodeLanguage::Native, "start"),
    (CodeLanguage::Native, "clone%"),
    (CodeLanguage::Native, "%{lambda}%"),
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
    let object = frame.object.as_deref().filter(|_| language == CodeLanguage::Native);
    let object = object.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    // What the language itself does in the executable: a server would be a library, or the program's own.
    let is_linked = !object.is_empty() && !object.contains(".so") && frame.origin(language) == FrameOrigin::Runtime;
    // A thread of Ruby begins in a block; one of a library can serve a connection.
    let is_block = language == CodeLanguage::Ruby
        && frame.origin(language) == FrameOrigin::Application
        && frame.function.as_deref().is_some_and(|name| name.starts_with("block "));
    is_linked
        || is_block
        || is_in(STARTS, frame, language)
        || STARTING_LIBRARIES.iter().any(|name| object.starts_with(name))
}

/// Whether a function is the one in which a thread of musl begins, in a static executable. It has no unwind table, so its caller is unknown.
fn starts_in_musl(frame: &CodeFrame, language: CodeLanguage) -> bool {
    language == CodeLanguage::Native && frame.function.as_deref() == Some("start")
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
    let mut between = outer.iter().filter(|frame| !starts(frame, language));
    let is_own = match (between.next(), between.next()) {
        (None, _) => true,
        (Some(caller), None) => caller.origin(language) == FrameOrigin::Application && takes_for_caller(innermost),
        (Some(_), Some(_)) => false,
    };
    let is_whole = stack.cut.is_none() || stack.frames.last().is_some_and(|frame| starts_in_musl(frame, language));
    is_whole && decides.is_some_and(|frame| is_in(TAKES, frame, language)) && is_own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::group_stacks;

    const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

    /// Returns whether threads with these frames, `function file-or-object`, wait in their own loop.
    fn in_own_loop(language: CodeLanguage, frames: &[(&str, &str)]) -> bool {
        let is_native = language == CodeLanguage::Native;
        let frame = |(function, at): &(&str, &str)| CodeFrame {
            function: Some((*function).to_owned()),
            file: Some((*at).to_owned()).filter(|at| !is_native && !at.is_empty()),
            line: Some(1).filter(|_| !is_native),
            object: Some((*at).to_owned()).filter(|_| is_native),
        };
        let frames = frames.iter().map(frame).collect();
        let stack = CodeStack { language, tid: None, name: None, state: None, lock_owner: None, frames, cut: None };
        let cut = CodeStack { cut: Some("the end is unknown".to_owned()), ..stack.clone() };
        assert!(!group_stacks(&[cut])[0].in_own_loop, "outer frames are missing");
        group_stacks(&[stack])[0].in_own_loop
    }

    #[test]
    fn a_worker_of_machine_code_waits_right_below_the_start_of_its_thread() {
        let native = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Native, frames);
        let (wait, start, clone) = (("pthread_cond_wait@@GLIBC_2.3.2", LIBC), ("start_thread", LIBC), ("clone3", LIBC));
        let app = |function| (function, "/srv/app/orders");
        assert!(native(&[wait, app("work"), start, clone]));
        assert!(native(&[wait, app("queue_pop"), app("work"), start, clone]));
        assert!(!native(&[wait, app("wait_for_result"), app("handle"), start, clone]), "a handler");
        assert!(!native(&[wait, app("take"), app("run"), app("main_loop"), start, clone]), "too far out");
        assert!(!native(&[("pthread_mutex_lock", LIBC), app("work"), start, clone]), "a lock");
        assert!(
            !native(&[wait, app("handle"), ("MHD_respond", "/usr/lib/libmicrohttpd.so.12"), start]),
            "a server calls it"
        );
        assert!(!native(&[wait, start, clone]), "none of the application");
        let linked = [app("__pthread_cond_wait"), app("work"), app("start_thread"), app("__clone3")];
        assert!(native(&linked), "a static executable");
    }

    #[test]
    fn the_start_of_a_thread_of_musl_ends_its_stack() {
        let app = |function: &str| CodeFrame {
            function: Some(function.to_owned()),
            object: Some("/srv/app/orders".to_owned()),
            ..CodeFrame::default()
        };
        let in_own_loop = |frames: &[&str]| {
            let frames = frames.iter().map(|name| app(name)).collect();
            let cut = Some("no unwind table for /srv/app/orders".to_owned());
            let (language, tid) = (CodeLanguage::Native, Some(7));
            let stack = CodeStack { language, tid, name: None, state: None, lock_owner: None, frames, cut };
            group_stacks(&[stack])[0].in_own_loop
        };
        assert!(in_own_loop(&["__syscall_cp_c", "pthread_cond_wait", "work", "start"]));
        assert!(!in_own_loop(&["__syscall_cp_c", "pthread_cond_wait", "work"]), "outer frames are missing");
    }

    #[test]
    fn workers_of_rust_and_cpp_begin_in_closures() {
        let native = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Native, frames);
        let app = |function| (function, "/srv/app/orders");
        let rust = [
            ("syscall", LIBC),
            app("<std::thread::thread::Thread>::park"),
            app("std::sync::mpmc::list::Channel<T>::recv"),
            app("<std::sync::mpsc::IntoIter<T> as core::iter::traits::iterator::Iterator>::next"),
            app("orders::work"),
            app("orders::main::{{closure}}"),
            app("std::sys::backtrace::__rust_begin_short_backtrace"),
            app("<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once"),
            app("__rust_try"),
            app("<std::sys::thread::unix::Thread>::new::thread_start"),
            ("start_thread", LIBC),
        ];
        assert!(native(&rust));
        let cpp = [
            ("pthread_cond_wait", LIBC),
            ("std::condition_variable::wait", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"),
            app("main::{lambda}::operator()"),
            app("std::__invoke_impl<…>"),
            app("std::thread::_State_impl<…>::_M_run"),
            ("unknown", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"),
            ("start_thread", LIBC),
        ];
        assert!(native(&cpp));
    }

    #[test]
    fn a_goroutine_that_a_server_began_is_no_worker() {
        let go = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Go, frames);
        let receive = ("runtime.chanrecv2", "/usr/lib/go/src/runtime/chan.go");
        let (work, begun) = (("main.work", "/srv/orders.go"), ("main.main.func1", "/srv/orders.go"));
        assert!(go(&[receive, work]) && go(&[receive, work, begun]));
        let serve = ("net/http.(*conn).serve", "/usr/lib/go/src/net/http/server.go");
        assert!(!go(&[receive, work, serve]));
        assert!(!go(&[receive, ("main.fetch", "/srv/orders.go"), ("main.serve", "/srv/orders.go")]), "between them");
        let wait = ("sync.(*WaitGroup).Wait", "/usr/lib/go/src/sync/waitgroup.go");
        assert!(!go(&[wait, work]), "the end of others");
    }

    #[test]
    fn workers_of_python_and_java_wait_for_a_queue() {
        let python = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Python, frames);
        let (get, run) =
            (("Queue.get", "/usr/lib/python3.11/queue.py"), ("Thread.run", "/usr/lib/python3.11/threading.py"));
        let work = ("work", "/srv/orders.py");
        assert!(python(&[get, work, run]));
        assert!(
            !python(&[get, work, ("process_request_thread", "/usr/lib/python3.11/socketserver.py"), run]),
            "a handler"
        );
        assert!(
            !python(&[("Future.result", "/usr/lib/python3.11/concurrent/futures/_base.py"), work, run]),
            "a result"
        );
        let java = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Jvm, frames);
        let take = ("java.util.concurrent.LinkedBlockingQueue.take", "LinkedBlockingQueue.java");
        let (work, run) = (("Orders.work", "Orders.java"), ("java.lang.Thread.run", "Thread.java"));
        assert!(java(&[take, work, ("Orders$$Lambda.run", ""), run]));
        assert!(java(&[take, ("Orders.lambda$main$0", "Orders.java"), ("Orders$$Lambda.run", ""), run]));
        let get = ("java.util.concurrent.CompletableFuture.get", "CompletableFuture.java");
        assert!(!java(&[get, work, run]), "a result");
    }

    #[test]
    fn workers_of_ruby_begin_in_blocks_of_the_application() {
        let ruby = |frames: &[(&str, &str)]| in_own_loop(CodeLanguage::Ruby, frames);
        const APP: &str = "/srv/orders.rb";
        let (pop, begun) = (("pop", ""), ("block (2 levels) in <main>", APP));
        assert!(ruby(&[pop, ("work", APP), begun]) && ruby(&[pop, begun]));
        assert!(ruby(&[pop, ("block (2 levels) in <main>", APP), ("loop", ""), ("block in <main>", APP)]));
        assert!(!ruby(&[pop, ("answer", APP), ("serve", APP), begun]), "a handler");
        assert!(!ruby(&[("value", ""), ("work", APP), begun]), "a result");
        let server = ("block in start", "/var/lib/gems/3.1.0/gems/gserver-0.0.1/lib/gserver.rb");
        assert!(!ruby(&[pop, ("serve", APP), server]), "a server calls it");
    }

    #[test]
    fn a_worker_that_takes_from_a_simple_queue_waits_for_no_lock() {
        // Functions of the interpreter have no lines.
        let native = |function: &str, object: &str| CodeFrame {
            function: Some(function.to_owned()),
            object: Some(format!("/usr/lib/{object}")),
            ..CodeFrame::default()
        };
        let python = |function: &str, file: &str| CodeFrame {
            function: Some(function.to_owned()),
            file: Some(file.to_owned()),
            ..CodeFrame::default()
        };
        let frames = vec![
            native("PyThread_acquire_lock_timed", "libpython3.11.so.1.0"),
            native("_queue_SimpleQueue_get_impl", "_queue.cpython-311-x86_64-linux-gnu.so"),
            native("_queue_SimpleQueue_get", "_queue.cpython-311-x86_64-linux-gnu.so"),
            native("PyObject_Vectorcall", "libpython3.11.so.1.0"),
            python("work", "/srv/orders.py"),
            python("Thread.run", "/usr/lib/python3.11/threading.py"),
        ];
        let stack = CodeStack {
            language: CodeLanguage::Python,
            tid: None,
            name: None,
            state: None,
            lock_owner: None,
            frames,
            cut: None,
        };
        assert!(group_stacks(&[stack])[0].in_own_loop);
    }
}
