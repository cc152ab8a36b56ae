//! Stacks of threads that wait for work, and of threads of the runtime.
//!
//! An idle thread of a pool and a thread that an application's lock blocks look alike in `/proc`. Their stacks differ: here is the table
//! of the functions that wait for the next piece of work. A stack is idle if it has such a function and only functions of the runtime
//! inside it: once there is work, the application's own functions are there.

use super::{
    carriers::is_virtual,
    frame::{CodeFrame, CodeLanguage, CodeStack, is_task},
    jvm::JVM_IDLE,
    origin::{FrameOrigin, static_c_library},
    scripts::{RUBY_IDLE, idle_without_script},
    waits::matches,
};

/// Functions of Go that wait for the next request or piece of work, with what they wait for. `%` stands for any characters; a function
/// after ` < ` is the caller.
const GO_IDLE: &[(&str, &str)] = &[
    ("net/http.(*conn).readRequest", "the next request"),
    ("bufio.(*Reader).Peek < net/http.(*conn).serve", "the next request"),
    ("net/http.(*connReader).backgroundRead", "the end of the connection"),
    ("net/http.(*Server).Serve", "clients"),
    // It waits for data with `Peek`, and between that and the next response for the end of the body.
    ("runtime.selectgo < net/http.(*persistConn).readLoop", "the program to read or close the body of a response"),
    ("net/http.(*persistConn).readLoop", "the next response"),
    ("net/http.(*persistConn).writeLoop", "the next request"),
    ("net/http.(*http2serverConn).readFrames", "the next request"),
    ("net/http.(*http2serverConn).serve", "the next request"),
    ("database/sql.(*DB).connectionOpener", "work"),
    ("database/sql.(*DB).connectionCleaner", "work"),
    ("database/sql.(*Tx).awaitDone", "the end of a transaction"),
    ("os/signal.loop", "a signal"),
    ("os/signal.signal_recv", "a signal"),
    ("net/http.(*Server).Shutdown", "the end of requests"),
];

/// Functions of Python that do so, as `file:function`.
const PYTHON_IDLE: &[(&str, &str)] = &[
    ("thread.py:_worker", "work"),
    ("process.py:_process_worker", "work"),
    ("pool.py:worker", "work"),
    ("pool.py:_wait_for_updates", "work"),
    ("pool.py:_handle_%", "work"),
    ("queues.py:_feed", "work"),
    ("base_events.py:_run_once", EVENTS),
    ("socketserver.py:serve_forever", "clients"),
    ("threading.py:_shutdown", "the end of its threads"),
    ("server.py:handle_one_request", "the next request"),
];

/// Functions of tasks of Python that do so. A queue is in the table [`PYTHON_QUEUE`].
const TASK_IDLE: &[(&str, &str)] =
    &[("base_events.py:serve_forever", "clients"), ("web_protocol.py:start", "the next request")];

/// The same, and the function that waits for an item of a queue: work, if the function that the task began with calls it, and a result for
/// a request otherwise.
const PYTHON_QUEUE: &[(&str, &str)] = &[("queues.py:get", "work"), TASK_IDLE[0], TASK_IDLE[1]];

/// Functions of machine code that do so.
const NATIVE_IDLE: &[(&str, &str)] = &[
    ("uv__io_poll < uv_run < node::SpinEventLoop%", EVENTS),
    ("uv__io_poll < uv_run < node::worker::%", EVENTS),
    ("tokio::runtime::scheduler::multi_thread::park::Inner::park_condvar", EVENTS),
];

/// Function of tokio that waits for a task. What `main` waits for so is the program itself: its other threads and tasks show what that does.
const ROOT_TASK: &str = "tokio::runtime::park::CachedParkThread::block_on%";

/// Beginnings of functions that a runtime starts for itself. A stack that ends with one is none of the program's.
const BACKGROUND: &[(CodeLanguage, &str)] = &[
    (CodeLanguage::Go, "runtime.bgsweep"),
    (CodeLanguage::Go, "runtime.bgscavenge"),
    (CodeLanguage::Go, "runtime.forcegchelper"),
    (CodeLanguage::Go, "runtime.runfinq"),
    (CodeLanguage::Go, "runtime.runFinalizers"),
    (CodeLanguage::Go, "runtime.runCleanups"),
    (CodeLanguage::Go, "runtime.gcBgMarkWorker%"),
    (CodeLanguage::Go, "runtime.timerproc"),
    (CodeLanguage::Go, "runtime.ensureSigM%"),
    (CodeLanguage::Go, "runtime.ReadTrace%"),
    (CodeLanguage::Go, "runtime.unique_runtime_%"),
    (CodeLanguage::Native, "node::%PlatformWorkerThread%"),
    (CodeLanguage::Native, "node::inspector::%StartIoThreadMain"),
    (CodeLanguage::Native, "node::WorkerThreadsTaskRunner::DelayedTaskScheduler::%"),
];

/// Work that an idle event loop waits for.
pub const EVENTS: &str = "events";

/// Work that an idle thread of a runtime waits for.
pub(super) const BACKGROUND_WORK: &str = "work of the runtime";

/// Whether the function that a task began with calls what waits, without a library between them.
fn takes_work(stack: &CodeStack) -> bool {
    let is_runtime = |frame: &&CodeFrame| frame.origin(stack.language) == FrameOrigin::Runtime;
    stack.frames.iter().take_while(is_runtime).count() + 1 >= stack.frames.len()
}

/// Returns what an idle thread waits for; `None` for a thread that is not known to be idle.
pub(super) fn idle(stack: &CodeStack) -> Option<&'static str> {
    let language = stack.language;
    let is_of_runtime = |frame: &CodeFrame| {
        let mut table = BACKGROUND.iter().filter(|(of, _)| *of == language);
        frame.table_name(language).is_some_and(|name| table.any(|(_, pattern)| matches(pattern, &name)))
    };
    if stack.frames.iter().any(is_of_runtime) {
        return Some(BACKGROUND_WORK);
    }
    // Threads of the machine itself: they compile, collect garbage, wait for signals. Virtual threads without frames have not begun.
    if language == CodeLanguage::Jvm
        && stack.frames.is_empty()
        && stack.cut.is_none()
        && !is_virtual(stack.state.as_deref())
    {
        return Some(BACKGROUND_WORK);
    }
    let is_task = is_task(language, stack.state.as_deref());
    let is_inner = |frame: &&CodeFrame| match frame.origin(language) {
        FrameOrigin::Runtime => true,
        // Servers of Java and Ruby are libraries, and so are those of asyncio and the event loop of Node.
        FrameOrigin::Library => {
            is_task || matches!(language, CodeLanguage::Jvm | CodeLanguage::Ruby | CodeLanguage::Native)
        }
        FrameOrigin::Application => false,
    };
    let (linked, outer) = stack.frames.split_at(static_c_library(&stack.frames, language));
    let inner = linked.iter().chain(outer.iter().take_while(is_inner));
    let names: Vec<_> = inner.map(|frame| frame.table_name(language).unwrap_or_default()).collect();
    let calls = |pattern: &str| {
        let functions: Vec<&str> = pattern.split(" < ").collect();
        let same = |names: &[String]| names.iter().zip(&functions).all(|(name, function)| matches(function, name));
        names.windows(functions.len()).any(same)
    };
    let table = match language {
        CodeLanguage::Go => GO_IDLE,
        CodeLanguage::Python if is_task && takes_work(stack) => PYTHON_QUEUE,
        CodeLanguage::Python if is_task => TASK_IDLE,
        CodeLanguage::Python => PYTHON_IDLE,
        CodeLanguage::Jvm => JVM_IDLE,
        CodeLanguage::Ruby => RUBY_IDLE,
        CodeLanguage::Php => return idle_without_script(stack),
        CodeLanguage::Native => NATIVE_IDLE,
    };
    let outer = stack.frames.get(names.len()).and_then(|frame| frame.function.as_deref());
    if language == CodeLanguage::Native && calls(ROOT_TASK) && outer.is_some_and(|name| name.ends_with("::main")) {
        return Some(EVENTS);
    }
    table.iter().find(|(pattern, _)| calls(pattern)).map(|(_, work)| *work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::{CodeWait, StackGroup, ThreadWork, group_stacks};

    /// Returns the group of a thread of Node with these functions of its executable.
    fn node(functions: &[&str]) -> StackGroup {
        let frame = |function: &&str| CodeFrame {
            function: Some((*function).to_owned()),
            object: Some("/usr/bin/node".to_owned()),
            ..CodeFrame::default()
        };
        let stack = CodeStack {
            language: CodeLanguage::Native,
            tid: None,
            name: None,
            state: None,
            lock_owner: None,
            frames: functions.iter().map(frame).collect(),
            cut: None,
        };
        group_stacks(&[stack]).remove(0)
    }

    #[test]
    fn the_main_function_of_tokio_runs_its_tasks_and_others_wait_for_one() {
        let park = ["<std::sys::sync::condvar::futex::Condvar>::wait"];
        let root = ["tokio::runtime::park::Inner::park", "tokio::runtime::park::CachedParkThread::block_on"];
        let of = |outer: &[&str]| {
            node(&[&park[..], &root, &["tokio::runtime::context::runtime::enter_runtime"], outer].concat())
        };
        assert_eq!(of(&["cartd::main", "std::rt::lang_start_internal", "main"]).work, ThreadWork::Idle(EVENTS));
        assert_eq!(of(&["cartd::total", "cartd::main", "main"]).work, ThreadWork::Waits(CodeWait::Signal));
        let worker = ["tokio::runtime::scheduler::multi_thread::park::Inner::park_condvar", "start_thread"];
        assert_eq!(node(&[&park[..], &worker].concat()).work, ThreadWork::Idle(EVENTS));
    }

    #[test]
    fn threads_of_node_are_idle_unless_javascript_has_called_what_waits() {
        let main = ["uv__io_poll", "uv_run", "node::SpinEventLoopInternal", "node::NodeMainInstance::Run", "_start"];
        assert_eq!(node(&main).work, ThreadWork::Idle(EVENTS));
        let worker = ["uv_cond_wait", "node::(anonymous namespace)::PlatformWorkerThread"];
        assert_eq!(node(&worker).work, ThreadWork::Idle(BACKGROUND_WORK));
        let called = ["v8::internal::Builtin_HandleApiCall", "Builtins_CEntry_Return1_ArgvOnStack_BuiltinExit"];
        let child = node(&[&["uv__io_poll", "uv_run", "node::SyncProcessRunner::Spawn"], &called[..]].concat());
        assert_eq!(child.work, ThreadWork::Waits(CodeWait::Process));
        assert_eq!(child.place().map(ToString::to_string).as_deref(), Some("JavaScript (node)"));
        let file = node(&[&["uv__fs_work", "uv_fs_open", "node::fs::Open"], &called[..]].concat());
        assert_eq!(file.work, ThreadWork::Waits(CodeWait::File));
    }
}
