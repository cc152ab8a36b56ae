//! Functions in which a thread waits, and for what.
//!
//! The tables are data: a line for each function. The outermost function below the application's frame decides, because it says what the
//! application asked for: `database/sql.(*DB).conn` waits in a `select`, but for a connection of a pool.

use serde::{Deserialize, Serialize};

use super::{
    frame::{CodeFrame, CodeLanguage, CodeStack},
    jvm::JVM_WAITS,
    scripts::{PHP_WAITS, RUBY_WAITS, waits_to_enter},
};

/// Event that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CodeWait {
    /// A lock that another thread holds.
    Lock,
    /// The lock of an interpreter, which one thread holds while it runs code (GIL).
    Interpreter,
    /// Room in a queue that is full, or a receiver of a channel: another thread has to take items.
    Room,
    /// A condition, channel, queue or future that another thread completes.
    Signal,
    /// A connection of a pool.
    Pool,
    /// Data from a connection.
    Receive,
    /// Data from a connection, a pipe or a file: the function does not tell which.
    Read,
    /// Room in a connection.
    Send,
    /// A new connection to another program.
    Connect,
    /// The name service.
    Resolve,
    /// A client's connection.
    Accept,
    /// The first of many events, in an event loop.
    Events,
    /// A period of time.
    Sleep,
    /// The end of a thread.
    Join,
    /// The end of another process.
    Process,
    /// A file.
    File,
}

impl CodeWait {
    /// Returns the event after the words `waits for`: `a lock`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Lock => "a lock",
            Self::Interpreter => "the interpreter's lock",
            Self::Room => "room in a queue",
            Self::Signal => "another thread",
            Self::Pool => "a connection of a pool",
            Self::Receive => "data from a connection",
            Self::Read => "data",
            Self::Send => "room in a connection",
            Self::Connect => "a connection to another program",
            Self::Resolve => "the name service",
            Self::Accept => "a client",
            Self::Events => "events",
            Self::Sleep => "a period of time",
            Self::Join => "the end of a thread",
            Self::Process => "the end of a process",
            Self::File => "a file",
        }
    }
}

/// Functions of Go. `%` stands for any characters.
const GO: &[(&str, CodeWait)] = &[
    ("sync.(*Mutex).%", CodeWait::Lock),
    ("sync.(*RWMutex).%", CodeWait::Lock),
    ("internal/sync.(*Mutex).%", CodeWait::Lock),
    ("sync.(*Cond).Wait", CodeWait::Signal),
    ("sync.(*WaitGroup).Wait", CodeWait::Signal),
    ("sync.(*Once).%", CodeWait::Lock),
    ("runtime.chanrecv%", CodeWait::Signal),
    ("runtime.chansend%", CodeWait::Room),
    ("runtime.selectgo", CodeWait::Signal),
    ("runtime.block", CodeWait::Signal),
    ("time.Sleep", CodeWait::Sleep),
    ("database/sql.(*DB).conn", CodeWait::Pool),
    ("github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire", CodeWait::Pool),
    ("github.com/jackc/puddle/v2.(*Pool%", CodeWait::Pool),
    ("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).waitTurn", CodeWait::Pool),
    ("github.com/gomodule/redigo/redis.(*Pool).%", CodeWait::Pool),
    ("internal/poll.(*FD).Read%", CodeWait::Receive),
    ("internal/poll.(*FD).RawRead", CodeWait::Receive),
    ("internal/poll.(*FD).Write%", CodeWait::Send),
    ("internal/poll.(*FD).Accept", CodeWait::Accept),
    ("internal/poll.(*FD).WaitWrite", CodeWait::Connect),
    ("net.(*TCPListener).%ccept%", CodeWait::Accept),
    ("net.(*Dialer).Dial%", CodeWait::Connect),
    ("net.(*Resolver).%", CodeWait::Resolve),
    ("net/http.(*Transport).roundTrip", CodeWait::Receive),
    ("net/http.(*persistConn).roundTrip", CodeWait::Receive),
    ("net/http.(*Transport).getConn", CodeWait::Pool),
    ("os.(*Process).%ait%", CodeWait::Process),
    ("os/exec.(*Cmd).Wait", CodeWait::Process),
];

/// Functions of Python, as `file:function`.
const PYTHON: &[(&str, CodeWait)] = &[
    ("threading.py:wait", CodeWait::Signal),
    ("threading.py:wait_for", CodeWait::Signal),
    ("threading.py:acquire", CodeWait::Lock),
    ("threading.py:__enter__", CodeWait::Lock),
    ("threading.py:join", CodeWait::Join),
    ("threading.py:_wait_for_tstate_lock", CodeWait::Join),
    ("queue.py:get", CodeWait::Signal),
    ("queue.py:put", CodeWait::Room),
    ("_base.py:result", CodeWait::Signal),
    ("_base.py:wait", CodeWait::Signal),
    ("selectors.py:select", CodeWait::Events),
    ("socket.py:readinto", CodeWait::Receive),
    ("socket.py:create_connection", CodeWait::Connect),
    ("connection.py:create_connection", CodeWait::Connect),
    ("connection.py:_connect", CodeWait::Connect),
    ("__init__.py:connect", CodeWait::Connect),
    ("socket.py:getaddrinfo", CodeWait::Resolve),
    ("socket.py:accept", CodeWait::Accept),
    ("ssl.py:read", CodeWait::Receive),
    ("ssl.py:recv", CodeWait::Receive),
    ("ssl.py:recv_into", CodeWait::Receive),
    ("ssl.py:send", CodeWait::Send),
    ("ssl.py:do_handshake", CodeWait::Receive),
    ("subprocess.py:wait", CodeWait::Process),
    ("subprocess.py:communicate", CodeWait::Process),
    ("subprocess.py:_wait", CodeWait::Process),
    ("connectionpool.py:_get_conn", CodeWait::Pool),
    ("impl.py:_do_get", CodeWait::Pool),
    ("pool.py:getconn", CodeWait::Pool),
    ("pool.py:connection", CodeWait::Pool),
    ("locks.py:acquire", CodeWait::Lock),
    ("locks.py:__aenter__", CodeWait::Lock),
    ("_synchronization.py:acquire", CodeWait::Lock),
    ("locks.py:wait%", CodeWait::Signal),
    ("queues.py:get", CodeWait::Signal),
    ("queues.py:put", CodeWait::Room),
    ("tasks.py:sleep", CodeWait::Sleep),
    ("streams.py:open_connection", CodeWait::Connect),
    ("streams.py:read%", CodeWait::Receive),
    ("streams.py:drain", CodeWait::Send),
    ("base_events.py:create_connection", CodeWait::Connect),
    ("base_events.py:getaddrinfo", CodeWait::Resolve),
    ("%_events.py:sock_connect", CodeWait::Connect),
    ("%_events.py:sock_recv%", CodeWait::Receive),
    ("%_events.py:sock_send%", CodeWait::Send),
    ("%_events.py:sock_accept", CodeWait::Accept),
    ("pool.py:%acquire%", CodeWait::Pool),
    ("pool_async.py:getconn", CodeWait::Pool),
    ("pool_async.py:connection", CodeWait::Pool),
    ("connection.py:get_connection", CodeWait::Pool),
    ("connector.py:_wait_for_available_connection", CodeWait::Pool),
    ("connection_pool.py:wait_for_connection", CodeWait::Pool),
    ("client_reqrep.py:start", CodeWait::Receive),
];

/// Functions of the C library and others with the same names on all systems.
const NATIVE: &[(&str, CodeWait)] = &[
    ("pthread_mutex_lock", CodeWait::Lock),
    ("pthread_mutex_timedlock", CodeWait::Lock),
    ("__pthread_mutex_lock%", CodeWait::Lock),
    ("___pthread_mutex_lock%", CodeWait::Lock),
    ("__lll_lock_wait%", CodeWait::Lock),
    ("pthread_rwlock_%", CodeWait::Lock),
    ("pthread_cond_%", CodeWait::Signal),
    ("__pthread_cond_%", CodeWait::Signal),
    ("_queue_SimpleQueue_get%", CodeWait::Signal),
    ("PyThread_acquire_lock%", CodeWait::Lock),
    ("_PyMutex_Lock%", CodeWait::Lock),
    ("PyMutex_Lock%", CodeWait::Lock),
    ("PyEval_RestoreThread", CodeWait::Interpreter),
    ("PyEval_AcquireThread", CodeWait::Interpreter),
    ("take_gil", CodeWait::Interpreter),
    ("sem_wait", CodeWait::Signal),
    ("sem_timedwait", CodeWait::Signal),
    ("sem_clockwait", CodeWait::Signal),
    ("pthread_join", CodeWait::Join),
    ("__pthread_clockjoin_ex", CodeWait::Join),
    ("epoll_wait", CodeWait::Events),
    ("epoll_pwait%", CodeWait::Events),
    ("poll", CodeWait::Events),
    ("ppoll", CodeWait::Events),
    ("select", CodeWait::Events),
    ("pselect%", CodeWait::Events),
    ("recv", CodeWait::Receive),
    ("recvfrom", CodeWait::Receive),
    ("recvmsg", CodeWait::Receive),
    ("send", CodeWait::Send),
    ("sendto", CodeWait::Send),
    ("sendmsg", CodeWait::Send),
    ("connect", CodeWait::Connect),
    ("accept", CodeWait::Accept),
    ("accept4", CodeWait::Accept),
    ("getaddrinfo", CodeWait::Resolve),
    ("nanosleep", CodeWait::Sleep),
    ("clock_nanosleep%", CodeWait::Sleep),
    ("sleep", CodeWait::Sleep),
    ("usleep", CodeWait::Sleep),
    ("sigwait%", CodeWait::Signal),
    ("sigsuspend", CodeWait::Signal),
    ("wait4", CodeWait::Process),
    ("waitpid", CodeWait::Process),
    ("waitid", CodeWait::Process),
    ("fsync", CodeWait::File),
    ("fdatasync", CodeWait::File),
    ("flock", CodeWait::File),
    // Rust: `<std::sys::sync::mutex::futex::Mutex>::lock_contended`, in older versions without the brackets.
    ("%std::sys::%Mutex%::lock%", CodeWait::Lock),
    ("%std::sys::%RwLock%::%", CodeWait::Lock),
    ("%parking_lot::raw_%", CodeWait::Lock),
    ("%std::sys::%Condvar%::wait%", CodeWait::Signal),
    ("%std::thread::%park%", CodeWait::Signal),
    ("%std::sync::mp%::recv%", CodeWait::Signal),
    ("%std::sync::mp%::send%", CodeWait::Room),
    ("%crossbeam_channel::%::recv%", CodeWait::Signal),
    ("%crossbeam_channel::%::send%", CodeWait::Room),
    ("%parking_lot::condvar::%", CodeWait::Signal),
    ("%std::thread::%Join%::join", CodeWait::Join),
    ("std::thread::%sleep", CodeWait::Sleep),
    ("std::condition_variable%", CodeWait::Signal),
    ("std::mutex::lock", CodeWait::Lock),
    ("std::thread::join", CodeWait::Join),
    // Node: calls that its only thread for JavaScript waits in.
    ("node::SyncProcessRunner::%", CodeWait::Process),
    ("node::fs::%", CodeWait::File),
    ("v8::internal::FutexEmulation::%", CodeWait::Signal),
    ("PQgetResult", CodeWait::Receive),
    ("mysql_real_query", CodeWait::Receive),
];

/// Returns what the function of a frame waits for; `None` if it is in no table.
pub(super) fn wait_of(frame: &CodeFrame, language: CodeLanguage) -> Option<CodeWait> {
    let name = frame.table_name(language)?;
    let table = match frame.language(language) {
        CodeLanguage::Go => GO,
        CodeLanguage::Python => PYTHON,
        CodeLanguage::Native => NATIVE,
        CodeLanguage::Jvm => JVM_WAITS,
        CodeLanguage::Php => PHP_WAITS,
        CodeLanguage::Ruby => RUBY_WAITS,
    };
    let find = |name: &str| table.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, wait)| *wait);
    // A static executable has `__poll` and `__libc_recv`, too.
    let other_name = || name.strip_prefix("__libc_").or_else(|| name.strip_prefix("__"));
    find(&name).or_else(|| other_name().and_then(find))
}

/// Returns what a thread waits for in these functions, the innermost first, which an application has called: what the outermost says.
/// A pool that has no idle connection opens one; then the thread waits for that one, and not for one of the pool.
pub(super) fn wait_within(frames: &[CodeFrame], language: CodeLanguage) -> Option<CodeWait> {
    let mut outermost_first = frames.iter().rev().filter_map(|frame| wait_of(frame, language));
    let asked = outermost_first.next()?;
    let opening = |wait| match wait {
        CodeWait::Connect | CodeWait::Resolve | CodeWait::Receive | CodeWait::Read | CodeWait::Send => Some(wait),
        // A driver without its own functions for it, as psycopg.
        CodeWait::Events => Some(CodeWait::Connect),
        CodeWait::Lock
        | CodeWait::Interpreter
        | CodeWait::Room
        | CodeWait::Signal
        | CodeWait::Pool
        | CodeWait::Accept
        | CodeWait::Sleep
        | CodeWait::Join
        | CodeWait::Process
        | CodeWait::File => None,
    };
    Some(if asked == CodeWait::Pool { outermost_first.find_map(opening).unwrap_or(asked) } else { asked })
}

/// Whether a thread of Java or Ruby waits for a monitor: the function that enters it (`synchronized`) has no frame of its own
/// (`java.lang.Thread.State`). In Ruby, the function that enters it also calls the block in it.
pub(super) fn waits_for_monitor(stack: &CodeStack) -> bool {
    waits_to_enter(stack)
        || stack.language == CodeLanguage::Jvm && stack.state.as_deref().is_some_and(|state| state.contains("BLOCKED"))
}

/// Whether a name matches a pattern in which `%` stands for any characters: names of Go have `*`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('%');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    is_open || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, name, expected) in [
            ("poll", "poll", true),
            ("poll", "ppoll", false),
            ("poll", "pollster", false),
            ("pthread_cond_%", "pthread_cond_timedwait", true),
            ("sync.(*Mutex).%", "sync.(*Mutex).lockSlow", true),
            ("sync.(*Mutex).%", "sync.(*RWMutex).Lock", false),
            ("net.(*TCPListener).%ccept%", "net.(*TCPListener).accept", true),
            ("net.(*Resolver).%", "net.(*Resolver).lookupIP", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pool_that_opens_a_connection_does_not_wait_for_an_idle_one() {
        let within = |places: &[&str]| {
            let frame = |place: &&str| {
                let (file, function) = place.split_once(' ').expect("a function");
                CodeFrame { function: Some(function.into()), file: Some(file.into()), ..CodeFrame::default() }
            };
            wait_within(&places.iter().map(frame).collect::<Vec<_>>(), CodeLanguage::Python)
        };
        let (wait, get) = ("threading.py Condition.wait", "queue.py Queue.get");
        let (redis, sqlalchemy) = ("connection.py ConnectionPool.get_connection", "impl.py QueuePool._do_get");
        assert_eq!(within(&[wait, get, sqlalchemy]), Some(CodeWait::Pool));
        assert_eq!(within(&[wait, get]), Some(CodeWait::Signal));
        assert_eq!(within(&["connection.py Connection._connect", redis]), Some(CodeWait::Connect));
        assert_eq!(
            within(&["selectors.py EpollSelector.select", "waiting.py wait_conn", sqlalchemy]),
            Some(CodeWait::Connect)
        );
        assert_eq!(within(&["ssl.py SSLSocket.do_handshake", redis]), Some(CodeWait::Receive));
        assert_eq!(within(&["socket.py getaddrinfo", redis]), Some(CodeWait::Resolve));
    }

    #[test]
    fn a_qualified_name_of_python_matches_by_its_last_part() {
        let frame = |function: &str, file: &str| CodeFrame {
            function: Some(function.to_owned()),
            file: Some(file.to_owned()),
            ..CodeFrame::default()
        };
        let wait = |function, file| wait_of(&frame(function, file), CodeLanguage::Python);
        assert_eq!(wait("Condition.wait", "/usr/lib/python3.11/threading.py"), Some(CodeWait::Signal));
        assert_eq!(wait("wait", "/usr/lib/python3.9/threading.py"), Some(CodeWait::Signal));
        assert_eq!(wait("wait", "/srv/app/orders.py"), None);
        assert_eq!(wait_of(&frame("sem_wait@@GLIBC_2.34", ""), CodeLanguage::Native), Some(CodeWait::Signal));
    }
}
