//! Groups of equal stacks.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    carriers::is_virtual,
    frame::{CodeFrame, CodeLanguage, CodeStack, is_task},
    idle::idle,
    lock_owner::LockOwner,
    origin::{FrameOrigin, within_c_library},
    own_loop::waits_in_own_loop,
    waits::{CodeWait, wait_within, waits_for_monitor},
};
use crate::{
    text::{count, harmless_field},
    time::BootTime,
};

/// Maximum number of threads that a group names.
const MAX_TIDS: usize = 8;

/// Threads with equal stacks. A recording has what was read; what it means follows from the tables of the engine that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EqualStacks", into = "EqualStacks")]
pub struct StackGroup {
    /// Kind of code.
    pub language: CodeLanguage,
    /// Number of threads, goroutines or tasks.
    pub count: u32,
    /// Threads, the first 8, in the agent's pid namespace; empty for goroutines that no thread runs.
    pub tids: Vec<u32>,
    /// Names of the first 8 threads or tasks that have one.
    pub names: Vec<String>,
    /// State in the words of the runtime.
    pub state: Option<String>,
    /// Frames, innermost first.
    pub frames: Vec<CodeFrame>,
    /// Reason why outer frames are missing.
    pub cut: Option<String>,
    /// Work that the stack shows.
    pub work: ThreadWork,
    /// Number of frames inside the application's innermost frame; `None` if the stack has none of the application.
    pub place: Option<usize>,
    /// Whether the threads wait for work or for a result in the function that they began with.
    pub in_own_loop: bool,
    /// Time of the first of the consecutive samples in which some of these threads were at this line; `None` outside of samples.
    pub since: Option<BootTime>,
    /// Number of threads at this line at [`Self::since`]; `None` outside of samples, and in recordings of older versions.
    pub first_count: Option<u32>,
    /// Thread that owns the lock that these wait for; `None` if the runtime does not say it.
    pub lock_owner: Option<LockOwner>,
}

/// Threads with equal stacks, as they are recorded.
#[derive(Clone, Serialize, Deserialize)]
struct EqualStacks {
    language: CodeLanguage,
    count: u32,
    tids: Vec<u32>,
    #[serde(default, deserialize_with = "harmless_field")]
    names: Vec<String>,
    #[serde(deserialize_with = "harmless_field")]
    state: Option<String>,
    frames: Vec<CodeFrame>,
    #[serde(deserialize_with = "harmless_field")]
    cut: Option<String>,
    since: Option<BootTime>,
    #[serde(default)]
    first_count: Option<u32>,
    /// Stack of the thread that owns the lock that these wait for.
    #[serde(default)]
    lock_owner: Option<Box<CodeStack>>,
}

impl From<EqualStacks> for StackGroup {
    fn from(read: EqualStacks) -> Self {
        let EqualStacks { language, count, mut tids, mut names, state, frames, cut, since, first_count, lock_owner } =
            read;
        tids.truncate(MAX_TIDS);
        names.truncate(MAX_TIDS);
        let lock_owner = lock_owner.map(|stack| LockOwner::new(*stack));
        let stack = CodeStack { language, tid: None, name: None, state, lock_owner: None, frames, cut };
        Self { count, tids, names, since, first_count, lock_owner, ..group(&stack) }
    }
}

impl From<StackGroup> for EqualStacks {
    fn from(group: StackGroup) -> Self {
        let StackGroup { language, count, tids, names, state, frames, cut, since, first_count, lock_owner, .. } = group;
        let lock_owner = lock_owner.map(|owner| Box::new(owner.stack));
        Self { language, count, tids, names, state, frames, cut, since, first_count, lock_owner }
    }
}

/// Work of a thread, as its stack shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadWork {
    /// It has no work, and waits for this.
    Idle(&'static str),
    /// It waits for this in the middle of its work.
    Waits(CodeWait),
    /// The stack does not show it: it runs, or waits in a function that no table has.
    Unknown,
}

/// Tasks of an event loop whose stacks cannot be read while they wait. The end of one closes its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenTasks {
    /// Greenlets of gevent or eventlet.
    Greenlets,
    /// Tasks of tokio.
    Tokio,
}

impl StackGroup {
    /// Returns the kind of tasks that the thread runs, if those that wait have no readable stacks.
    pub fn hidden_tasks(&self) -> Option<HiddenTasks> {
        let is_hub = |file: &str| file.contains("/gevent/") || file.contains("/eventlet/");
        let is_tokio = |function: &str| function.starts_with("tokio::runtime::");
        let has = |is: &dyn Fn(&CodeFrame) -> bool| self.frames.iter().any(is);
        match self.language {
            CodeLanguage::Python if has(&|frame| frame.file.as_deref().is_some_and(is_hub)) => {
                Some(HiddenTasks::Greenlets)
            }
            CodeLanguage::Native if has(&|frame| frame.function.as_deref().is_some_and(is_tokio)) => {
                Some(HiddenTasks::Tokio)
            }
            CodeLanguage::Python
            | CodeLanguage::Native
            | CodeLanguage::Go
            | CodeLanguage::Php
            | CodeLanguage::Ruby
            | CodeLanguage::Jvm => None,
        }
    }

    /// Returns the application's innermost frame: the place in the code that its authors can change.
    pub fn place(&self) -> Option<&CodeFrame> {
        self.frames.get(self.place?)
    }

    /// Whether the threads wait for work.
    pub const fn is_idle(&self) -> bool {
        matches!(self.work, ThreadWork::Idle(_))
    }

    /// Whether these are virtual threads for which no carrier was free yet.
    fn has_not_begun(&self) -> bool {
        self.frames.is_empty() && self.cut.is_none() && is_virtual(self.state.as_deref())
    }

    /// Whether these are tasks of Python, which an event loop runs.
    pub fn are_tasks(&self) -> bool {
        is_task(self.language, self.state.as_deref())
    }

    /// Returns the word for one of these: `thread`, `goroutine` or `task`.
    pub fn unit(&self) -> &'static str {
        match self.language {
            CodeLanguage::Go => "goroutine",
            CodeLanguage::Python if self.are_tasks() => "task",
            CodeLanguage::Python
            | CodeLanguage::Php
            | CodeLanguage::Ruby
            | CodeLanguage::Native
            | CodeLanguage::Jvm => "thread",
        }
    }

    /// Returns what these wait for, in words; `None` if the stack does not show it.
    pub fn waits_for(&self) -> Option<&'static str> {
        match self.work {
            ThreadWork::Waits(CodeWait::Signal) if self.are_tasks() => Some("another task or a result"),
            ThreadWork::Waits(wait) => Some(wait.words()),
            ThreadWork::Idle(work) => Some(work),
            ThreadWork::Unknown => None,
        }
    }

    /// Returns what the threads do, in a line: `8 threads wait for a lock in reserve (orders.py:7)`.
    pub fn headline(&self) -> String {
        let who = count(self.count, self.unit());
        let (s, is) = if self.count == 1 { ("s", "is") } else { ("", "are") };
        let place = self.place().map(|place| format!(" in {place}")).unwrap_or_default();
        match self.work {
            ThreadWork::Idle(work) => format!("{who} {is} idle: wait{s} for {work}"),
            ThreadWork::Waits(_) => format!("{who} wait{s} for {}{place}", self.waits_for().unwrap_or_default()),
            ThreadWork::Unknown if self.has_not_begun() => {
                format!("{who} {} not begun", if self.count == 1 { "has" } else { "have" })
            }
            ThreadWork::Unknown => format!("{who}{place}"),
        }
    }

    /// Whether some of the threads of both groups are the same, at the same line of the application, and wait for the same there.
    /// Functions of the runtime inside it may differ: many wait in a loop. Goroutines have no number that lasts, and virtual threads
    /// without a carrier often have neither number nor name.
    pub(super) fn is_at_same_line(&self, other: &Self) -> bool {
        fn outer(group: &StackGroup) -> &[CodeFrame] {
            group.frames.get(group.place.unwrap_or(0)..).unwrap_or_default()
        }
        let same_threads = match (self.tids.is_empty(), other.tids.is_empty()) {
            (true, true) => {
                let are_unnamed = || self.names.is_empty() && other.names.is_empty();
                let are_named = || self.names.iter().any(|name| other.names.contains(name));
                match self.language {
                    CodeLanguage::Go => true,
                    CodeLanguage::Jvm => are_unnamed() || are_named(),
                    CodeLanguage::Python | CodeLanguage::Native | CodeLanguage::Php | CodeLanguage::Ruby => are_named(),
                }
            }
            _ => self.tids.iter().any(|tid| other.tids.contains(tid)),
        };
        same_threads && self.language == other.language && self.work == other.work && outer(self) == outer(other)
    }

    /// Drops the frames outside of the first `most`, as if they had not been read.
    pub(super) fn keep_innermost(&mut self, most: usize) {
        if self.frames.len() > most {
            let mut kept = EqualStacks::from(self.clone());
            kept.frames.truncate(most);
            kept.cut = Some("only the innermost frames are kept".to_owned());
            *self = kept.into();
        }
    }
}

/// Groups equal stacks. The threads that are not idle come first, then the larger groups.
pub fn group_stacks(stacks: &[CodeStack]) -> Vec<StackGroup> {
    let mut places = HashMap::new();
    let mut groups: Vec<StackGroup> = Vec::new();
    for stack in stacks {
        let key = (stack.language, &stack.state, &stack.frames, &stack.cut, stack.lock_owner);
        let at = *places.entry(key).or_insert_with(|| {
            groups.push(StackGroup { lock_owner: LockOwner::of(stack, stacks), ..group(stack) });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(at) {
            group.count += 1;
            group.tids.extend(stack.tid.filter(|_| group.tids.len() < MAX_TIDS));
            group.names.extend(stack.name.clone().filter(|_| group.names.len() < MAX_TIDS));
        }
    }
    groups.sort_by(|one, other| {
        let rank = |group: &StackGroup| (group.is_idle(), u32::MAX - group.count);
        rank(one)
            .cmp(&rank(other))
            .then_with(|| one.frames.cmp(&other.frames))
            .then_with(|| one.state.cmp(&other.state))
    });
    groups
}

/// Whether threads with this work may take items of a queue: semaphores, which count items as often as they limit, are locks in Python and
/// Java.
fn may_take(work: ThreadWork, language: CodeLanguage) -> bool {
    let is_semaphore = matches!(language, CodeLanguage::Python | CodeLanguage::Jvm);
    work == ThreadWork::Waits(CodeWait::Signal) || (is_semaphore && work == ThreadWork::Waits(CodeWait::Lock))
}

/// End of the state of a goroutine that waits for the channel of a timer, alone or among others in a `select`.
const WITH_TIMER: &str = " (timer)";
/// State of a goroutine that waits for one channel.
const RECEIVE: &str = "chan receive";

/// Returns the group of a stack, still without threads and the owner of its lock.
pub(super) fn group(stack: &CodeStack) -> StackGroup {
    let language = stack.language;
    let own = within_c_library(&stack.frames, language);
    let is_application = |frame: &CodeFrame| frame.origin(language) == FrameOrigin::Application;
    let application = stack.frames[own.clone()].iter().position(is_application).map(|at| own.start + at);
    let inner = &stack.frames[..application.unwrap_or(stack.frames.len())];
    // A place without a name helps nobody, and those outside it are not where the thread waits.
    let place = application.filter(|at| stack.frames.get(*at).is_some_and(|frame| frame.function.is_some()));
    let wait = wait_within(inner, language);
    let work = match (idle(stack), wait) {
        (Some(work), _) => ThreadWork::Idle(work),
        // Also in `Object.wait`, which takes the lock again before it returns.
        (None, None | Some(CodeWait::Signal)) if waits_for_monitor(stack) => ThreadWork::Waits(CodeWait::Lock),
        (None, Some(wait)) => ThreadWork::Waits(wait),
        // Of a future, which anything can complete.
        (None, None) if is_task(language, stack.state.as_deref()) && !stack.frames.is_empty() => {
            ThreadWork::Waits(CodeWait::Signal)
        }
        (None, None) => ThreadWork::Unknown,
    };
    // A timer ends the wait. A worker of the program's own that also has one, in a `select`, still waits for work.
    let timed = stack.state.as_deref().filter(|_| language == CodeLanguage::Go);
    let timed = timed.and_then(|state| state.strip_suffix(WITH_TIMER));
    let in_own_loop = timed != Some(RECEIVE) && may_take(work, language) && waits_in_own_loop(stack, place);
    let is_timed = timed.is_some() && !in_own_loop && work == ThreadWork::Waits(CodeWait::Signal);
    let work = if is_timed { ThreadWork::Waits(CodeWait::Sleep) } else { work };
    StackGroup {
        language,
        count: 0,
        tids: Vec::new(),
        names: Vec::new(),
        state: stack.state.clone(),
        frames: stack.frames.clone(),
        cut: stack.cut.clone(),
        work,
        place,
        in_own_loop,
        since: None,
        first_count: None,
        lock_owner: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goroutine_with_a_timer_waits_for_a_time() {
        let work = |state: &str, frames: &[&str]| {
            let one = group(&CodeStack { state: Some(state.to_owned()), ..stack(CodeLanguage::Go, frames) });
            (one.work, one.in_own_loop)
        };
        let (lock, sleep) = (ThreadWork::Waits(CodeWait::Signal), ThreadWork::Waits(CodeWait::Sleep));
        let receive = "runtime.chanrecv1 /usr/lib/go/src/runtime/chan.go:442";
        let handler =
            [receive, "main.report /srv/main.go:49", "net/http.HandlerFunc.ServeHTTP /go/src/net/http/server.go:9"];
        assert_eq!(work("chan receive", &handler), (lock, false));
        assert_eq!(work("chan receive (timer)", &handler), (sleep, false));
        let worker = [receive, "main.worker /srv/main.go:9"];
        assert_eq!(work("chan receive", &worker), (lock, true), "it takes work");
        assert_eq!(work("chan receive (timer)", &worker), (sleep, false), "a timer gives none");
        let select = "runtime.selectgo /usr/lib/go/src/runtime/select.go:328";
        assert_eq!(work("select (timer)", &[select, handler[1], handler[2]]), (sleep, false));
        assert_eq!(work("select (timer)", &[select, worker[1]]), (lock, true));
    }

    /// Returns a stack of frames `function file:line`, innermost first.
    fn stack(language: CodeLanguage, frames: &[&str]) -> CodeStack {
        let frame = |text: &&str| {
            let (function, place) = text.split_once(' ').expect("a place");
            let (file, line) = place.rsplit_once(':').expect("a line");
            CodeFrame {
                function: Some(function.to_owned()),
                file: Some(file.to_owned()),
                line: line.parse().ok(),
                object: None,
            }
        };
        CodeStack {
            language,
            tid: None,
            name: None,
            state: None,
            lock_owner: None,
            frames: frames.iter().map(frame).collect(),
            cut: None,
        }
    }

    const LOCKED: [&str; 6] = [
        "runtime.gopark /usr/lib/go/src/runtime/proc.go:364",
        "sync.runtime_SemacquireMutex /usr/lib/go/src/runtime/sema.go:77",
        "sync.(*Mutex).lockSlow /usr/lib/go/src/sync/mutex.go:171",
        "sync.(*Mutex).Lock /usr/lib/go/src/sync/mutex.go:90",
        "main.reserve /srv/app/orders.go:7",
        "net/http.(*conn).serve /usr/lib/go/src/net/http/server.go:1991",
    ];
    const IDLE: [&str; 5] = [
        "runtime.gopark /usr/lib/go/src/runtime/proc.go:364",
        "internal/poll.(*FD).Read /usr/lib/go/src/internal/poll/fd_unix.go:167",
        "net/http.(*connReader).Read /usr/lib/go/src/net/http/server.go:786",
        "net/http.(*conn).readRequest /usr/lib/go/src/net/http/server.go:1027",
        "net/http.(*conn).serve /usr/lib/go/src/net/http/server.go:1891",
    ];

    #[test]
    fn threads_at_one_line_come_before_the_idle_ones() {
        let stacks: Vec<_> =
            [&IDLE[..]; 5].iter().chain(&[&LOCKED[..]; 3]).map(|frames| stack(CodeLanguage::Go, frames)).collect();
        let groups = group_stacks(&stacks);
        let [locked, idle] = &groups[..] else { panic!("{groups:#?}") };
        assert_eq!((locked.count, locked.work), (3, ThreadWork::Waits(CodeWait::Lock)));
        assert_eq!(locked.place().map(ToString::to_string).as_deref(), Some("main.reserve (orders.go:7)"));
        assert_eq!((idle.count, idle.work), (5, ThreadWork::Idle("the next request")));
        assert_eq!(idle.place(), None);
    }

    #[test]
    fn an_application_inside_a_worker_is_not_idle() {
        let worker = "_worker /usr/lib/python3.11/concurrent/futures/thread.py:81";
        let [idle, busy] = [&[worker][..], &["reserve /srv/app/orders.py:7", worker][..]]
            .map(|frames| group_stacks(&[stack(CodeLanguage::Python, frames)]).remove(0));
        assert_eq!(idle.work, ThreadWork::Idle("work"));
        assert_eq!(busy.work, ThreadWork::Unknown, "C code has no frame: the system call says more");
        assert_eq!(busy.place, Some(0));
    }

    #[test]
    fn a_pool_is_what_the_application_waits_for_and_not_the_channel_in_it() {
        let frames = [
            "runtime.selectgo /usr/lib/go/src/runtime/select.go:328",
            "database/sql.(*DB).conn /usr/lib/go/src/database/sql/sql.go:1327",
            "database/sql.(*DB).QueryContext /usr/lib/go/src/database/sql/sql.go:1739",
            "main.load /srv/app/orders.go:30",
        ];
        let group = group_stacks(&[stack(CodeLanguage::Go, &frames)]).remove(0);
        assert_eq!((group.work, group.place), (ThreadWork::Waits(CodeWait::Pool), Some(3)));
    }

    #[test]
    fn a_caller_can_be_what_makes_a_wait_idle() {
        let peek = "bufio.(*Reader).Peek /usr/lib/go/src/bufio/bufio.go:148";
        let serve = "net/http.(*conn).serve /usr/lib/go/src/net/http/server.go:2127";
        let other = "net/textproto.(*Reader).upcomingHeaderKeys /usr/lib/go/src/net/textproto/reader.go:664";
        let group = |frames: &[&str]| group_stacks(&[stack(CodeLanguage::Go, frames)]).remove(0);
        assert!(group(&[peek, serve]).is_idle());
        assert!(!group(&[peek, other, serve]).is_idle());
    }

    #[test]
    fn a_connection_of_go_whose_response_nobody_closes_does_not_wait_for_the_next_one() {
        let read_loop = "net/http.(*persistConn).readLoop /usr/lib/go/src/net/http/transport.go:2213";
        let work = |inner: &str| group_stacks(&[stack(CodeLanguage::Go, &[inner, read_loop])]).remove(0).work;
        let select = "runtime.selectgo /usr/lib/go/src/runtime/select.go:328";
        assert_eq!(work(select), ThreadWork::Idle("the program to read or close the body of a response"));
        assert_eq!(
            work("bufio.(*Reader).Peek /usr/lib/go/src/bufio/bufio.go:148"),
            ThreadWork::Idle("the next response")
        );
    }

    /// Returns the group of a task with these frames.
    fn task(frames: &[&str]) -> StackGroup {
        let stack = stack(CodeLanguage::Python, frames);
        let state = Some(super::super::TASK_STATE.to_owned());
        group_stacks(&[CodeStack { state, name: Some("Task-7".to_owned()), ..stack }]).remove(0)
    }

    #[test]
    fn tasks_are_called_so_with_what_they_wait_for() {
        let (handle, reserve) = ("handle /srv/app/app.py:20", "reserve /srv/app/app.py:12");
        let lock = "Lock.acquire /usr/lib/python3.11/asyncio/locks.py:114";
        let enter = "_ContextManagerMixin.__aenter__ /usr/lib/python3.11/asyncio/locks.py:15";
        let limit = "wait_for /usr/lib/python3.12/asyncio/tasks.py:510";
        let pool = "Pool._acquire /srv/venv/lib/python3.11/site-packages/asyncpg/pool.py:860";
        let get = "Queue.get /usr/lib/python3.11/asyncio/queues.py:158";
        let serve = "Server.serve_forever /usr/lib/python3.11/asyncio/base_events.py:372";
        let start = "RequestHandler.start /srv/venv/lib/python3.11/site-packages/aiohttp/web_protocol.py:480";
        for (frames, expected) in [
            (&[lock, enter, reserve, handle][..], "1 task waits for a lock in reserve (app.py:12)"),
            (&[lock, limit, reserve], "1 task waits for a lock in reserve (app.py:12)"),
            (&[get, pool, reserve], "1 task waits for a connection of a pool in reserve (app.py:12)"),
            (&[get, reserve], "1 task is idle: waits for work"),
            (&[get, reserve, handle], "1 task waits for another task or a result in reserve (app.py:12)"),
            (&[reserve, handle], "1 task waits for another task or a result in reserve (app.py:12)"),
            (&[serve, handle], "1 task is idle: waits for clients"),
            (&[start], "1 task is idle: waits for the next request"),
            (&[reserve, start], "1 task waits for another task or a result in reserve (app.py:12)"),
        ] {
            assert_eq!(task(frames).headline(), expected);
        }
        let mut other = task(&[reserve]);
        assert!(other.is_at_same_line(&task(&[reserve])), "the same name");
        other.names = vec!["Task-8".to_owned()];
        assert!(!other.is_at_same_line(&task(&[reserve])));
    }

    #[test]
    fn goroutines_of_the_runtime_are_idle() {
        let frames = [
            "runtime.gopark /usr/lib/go/src/runtime/proc.go:364",
            "runtime.bgsweep /usr/lib/go/src/runtime/mgcsweep.go:278",
        ];
        assert!(group_stacks(&[stack(CodeLanguage::Go, &frames)])[0].is_idle());
    }

    #[test]
    fn virtual_threads_without_carrier_and_name_are_known_by_their_line() {
        let group = |name: Option<&str>| {
            let stack = stack(CodeLanguage::Jvm, &["shop.Orders.reserve Orders.java:7"]);
            group_stacks(&[CodeStack { name: name.map(str::to_owned), ..stack }]).remove(0)
        };
        assert!(group(None).is_at_same_line(&group(None)));
        assert!(group(Some("a")).is_at_same_line(&group(Some("a"))));
        assert!(!group(Some("a")).is_at_same_line(&group(Some("b"))));
        assert!(!group(Some("a")).is_at_same_line(&group(None)));
    }

    #[test]
    fn other_lines_and_other_states_are_other_groups() {
        let one = stack(CodeLanguage::Go, &LOCKED);
        let other = CodeStack { state: Some("running".to_owned()), ..one.clone() };
        assert_eq!(group_stacks(&[one.clone(), other]).len(), 2);
        let mut other = one.clone();
        other.frames[4].line = Some(8);
        other.tid = Some(7);
        let groups = group_stacks(&[one, other]);
        assert_eq!(groups.iter().map(|group| (group.count, group.tids.len())).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    }
}
