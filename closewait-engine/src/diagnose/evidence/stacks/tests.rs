use super::*;
use crate::{
    stacks::{
        CodeFrame, CodeLanguage, CodeStack, TASK_STATE,
        carriers::{FREE_CARRIER, PINNED, VIRTUAL},
    },
    testing::python_stack,
};

const LOCKED: (&str, &str, u32) = ("__enter__", "/usr/lib/python3.11/threading.py", 270);
const RESERVE: (&str, &str, u32) = ("reserve", "/srv/orders.py", 5);
const IDLE: (&str, &str, u32) = ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py", 81);
const POOLED: (&str, &str, u32) = ("_get_conn", "/usr/lib/python3/dist-packages/urllib3/connectionpool.py", 266);
const FETCH: (&str, &str, u32) = ("fetch", "/srv/orders.py", 9);

const LOOP: (&str, &str, u32) = ("BaseEventLoop._run_once", "/usr/lib/python3.11/asyncio/base_events.py", 1884);

fn sample(second: u64, lines: &[&[(&str, &str, u32)]]) -> ProcessStacks {
    let stacks: Vec<_> = lines.iter().zip(1..).map(|(lines, tid)| python_stack(tid, lines)).collect();
    ProcessStacks::new(7, BootTime(0) + Duration::from_secs(second), &stacks, Vec::new())
}

fn evidence(samples: &[ProcessStacks]) -> StackEvidence {
    let mut last: Option<ProcessStacks> = None;
    for sample in samples {
        let mut next = sample.clone();
        if let Some(before) = &last {
            next.continue_from(before);
        }
        last = Some(next);
    }
    StackEvidence::of([last.as_ref()].into_iter(), &|_| 0).expect("stacks")
}

#[test]
fn threads_at_one_line_are_evidence_only_if_two_samples_agree() {
    let lines: &[&[_]] = &[&[LOCKED, RESERVE], &[LOCKED, RESERVE], &[IDLE]];
    let once = evidence(&[sample(0, lines)]);
    assert_eq!((once.threads, once.idle, once.at_line, once.complete), (3, 1, 0, true));
    let twice = evidence(&[sample(0, lines), sample(60, lines)]);
    assert_eq!(twice.at_line, 2);
    assert!(twice.blocks(4) && twice.blocks(1000), "all that work");
    assert!(!evidence(&[sample(0, lines), sample(20, lines)]).blocks(1), "the samples are too close");
}

/// Returns a sample of an idle event loop with tasks that have these frames.
fn tasks(second: u64, lines: &[&[(&str, &str, u32)]]) -> ProcessStacks {
    let mut stacks = vec![python_stack(1, &[LOOP])];
    for (number, frames) in lines.iter().enumerate() {
        stacks.push(CodeStack {
            tid: None,
            name: Some(format!("Task-{number}")),
            state: Some(TASK_STATE.to_owned()),
            ..python_stack(1, frames)
        });
    }
    ProcessStacks::new(7, BootTime(0) + Duration::from_secs(second), &stacks, Vec::new())
}

#[test]
fn tasks_that_wait_for_a_result_count_at_the_line_with_the_most_of_them() {
    const FUTURE: (&str, &str, u32) = ("Batcher.submit", "/srv/orders.py", 23);
    const SLEEP: (&str, &str, u32) = ("sleep", "/usr/lib/python3.11/asyncio/tasks.py", 639);
    let lines: &[&[_]] = &[&[FUTURE, RESERVE], &[FUTURE, RESERVE], &[FETCH], &[SLEEP, WORK]];
    assert_eq!(evidence(&[tasks(0, lines)]).awaiting, 0, "one sample");
    assert_eq!(evidence(&[tasks(0, lines), tasks(60, lines)]).awaiting, 2);
    let threads: &[&[_]] = &[&[FETCH], &[FETCH]];
    assert_eq!(evidence(&[sample(0, threads), sample(60, threads)]).awaiting, 0, "threads");
}

#[test]
fn threads_that_wait_for_a_time_serve_no_client() {
    const SLEEP: (&str, &str, u32) = ("nanosleep", "", 0);
    let sleeping = |frames: &[(&str, &str, u32)]| {
        let mut stack = python_stack(1, frames);
        stack.language = CodeLanguage::Native;
        ProcessStacks::new(7, BootTime(0), &[stack], Vec::new())
    };
    assert!(evidence(&[sleeping(&[SLEEP, RESERVE])]).serves_no_client());
    for other in [("epoll_wait", "", 0), ("accept", "", 0), ("pthread_cond_wait", "", 0), ("recv", "", 0)] {
        let read = evidence(&[sleeping(&[other, RESERVE])]);
        assert!(!read.serves_no_client() || other.0 == "pthread_cond_wait", "{other:?}");
    }
}

#[test]
fn tasks_that_wait_for_a_lock_count_and_idle_ones_prove_nothing() {
    const ACQUIRE: (&str, &str, u32) = ("Lock.acquire", "/usr/lib/python3.11/asyncio/locks.py", 114);
    const GET: (&str, &str, u32) = ("Queue.get", "/usr/lib/python3.11/asyncio/queues.py", 158);
    let locked: &[&[_]] = &[&[ACQUIRE, RESERVE], &[ACQUIRE, RESERVE], &[GET, WORK]];
    let read = evidence(&[tasks(0, locked), tasks(60, locked)]);
    assert_eq!((read.threads, read.idle, read.at_line, read.complete), (4, 1, 2, false));
    assert!(read.blocks(4) && !evidence(&[tasks(60, locked)]).blocks(4), "one sample");
    let idle: &[&[_]] = &[&[GET, WORK], &[GET, WORK]];
    let read = evidence(&[tasks(0, idle), tasks(60, idle)]);
    assert!(!read.all_idle() && !read.blocks(1) && read.loops.is_none());
    assert_eq!((read.tasks, read.lacks_tasks(5), read.lacks_tasks(4)), (2, true, false));
    let goroutine =
        CodeStack { language: CodeLanguage::Go, state: Some(TASK_STATE.to_owned()), ..python_stack(2, &[GET]) };
    let go = ProcessStacks::new(7, BootTime(0), &[goroutine], Vec::new());
    assert_eq!(evidence(&[go]).tasks, 0, "a goroutine in a state of the same name");
    let none = evidence(&[tasks(0, &[]), tasks(60, &[])]);
    assert!(!none.all_idle() && !none.blocks(1) && !none.lacks_tasks(100));
}

#[test]
fn carriers_that_wait_for_a_lock_stop_all_virtual_threads() {
    let stack = |state: &str, functions: &[&str]| CodeStack {
        language: CodeLanguage::Jvm,
        tid: None,
        name: None,
        state: Some(state.to_owned()),
        lock_owner: None,
        frames: functions
            .iter()
            .map(|name| CodeFrame { function: Some((*name).to_owned()), ..CodeFrame::default() })
            .collect(),
        cut: None,
    };
    let lock = ["java.util.concurrent.locks.ReentrantLock.lock", "shop.Orders.finish"];
    let (pinned, blank) = (stack(PINNED, &lock), stack(VIRTUAL, &[]));
    let sample = |second, stacks: &[CodeStack]| {
        ProcessStacks::new(7, BootTime(0) + Duration::from_secs(second), stacks, Vec::new())
    };
    let stacks = [vec![pinned; 4], vec![blank; 90]].concat();
    let stopped = evidence(&[sample(0, &stacks), sample(60, &stacks)]);
    assert_eq!((stopped.threads, stopped.idle, stopped.at_line, stopped.stopped), (94, 0, 4, 90));
    assert!(stopped.blocks(100) && !stopped.complete);
    let expected =
        "4 of 94 stacks have waited for a lock at one line for at least 30s, and keep 90 virtual threads from running";
    assert_eq!(stopped.blocked(), expected);
    assert_eq!(evidence(&[sample(0, &stacks)]).stopped, 0, "one sample is an indication");
    let free = [&stacks[..], &[stack(FREE_CARRIER, &lock)]].concat();
    assert_eq!(evidence(&[sample(0, &free), sample(60, &free)]).stopped, 0);
}

#[test]
fn threads_that_wait_for_each_other_are_stuck_unless_one_goes_on() {
    const RESULT: (&str, &str, u32) = ("Future.result", "/usr/lib/python3.11/concurrent/futures/_base.py", 451);
    let (waits, locked): (&[_], &[_]) = (&[RESULT, RESERVE], &[LOCKED, FETCH]);
    let read = |lines: &[&[_]]| evidence(&[sample(0, lines), sample(60, lines)]);
    let all = read(&[waits, waits, locked, &[IDLE]]);
    assert_eq!((all.inside, all.active, all.networked), (3, 0, 0));
    assert!(all.waits_for_itself(6) && !all.waits_for_itself(7));
    let receives: &[_] = &[("readinto", "/usr/lib/python3.11/socket.py", 705), FETCH];
    assert_eq!(read(&[waits, receives]).networked, 1);
    assert!(!read(&[waits, &[FETCH]]).waits_for_itself(1), "one runs");
    assert!(!evidence(&[sample(0, &[waits])]).waits_for_itself(1), "one sample");
}

#[test]
fn threads_that_wait_for_work_are_idle_and_unread_ones_are_not() {
    let idle = evidence(&[sample(0, &[&[IDLE], &[IDLE]])]);
    assert!(idle.all_idle());
    let read = sample(0, &[&[IDLE], &[IDLE]]);
    for owners in [[Some(&read), None], [None, Some(&read)]] {
        assert!(
            !StackEvidence::of(owners.into_iter(), &|_| 0).expect("stacks").all_idle(),
            "another owner was not read"
        );
    }
    assert_eq!(StackEvidence::of([None].into_iter(), &|_| 0), None);
    assert!(!evidence(&[sample(0, &[&[IDLE], &[FETCH]])]).all_idle(), "one runs");
    assert!(!evidence(&[sample(0, &[&[LOOP], &[IDLE]])]).all_idle(), "tasks of an event loop have no stack");
    let pooled: &[&[_]] = &[&[POOLED, FETCH]];
    let pool = evidence(&[sample(0, pooled), sample(60, pooled)]);
    assert_eq!((pool.pool, pool.at_line), (1, 0));
}

const QUEUED: (&str, &str, u32) = ("Queue.get", "/usr/lib/python3.11/queue.py", 171);
const WORK: (&str, &str, u32) = ("work", "/srv/orders.py", 30);
const BEGAN: (&str, &str, u32) = ("Thread.run", "/usr/lib/python3.11/threading.py", 982);

/// Returns the evidence of `threads` threads of the program's own that wait in their first function, one minute after there were
/// `before`, with 3 sockets before and `sockets` now.
fn loops(before: usize, threads: usize, sockets: u32) -> StackEvidence {
    let mut samples = [(10, before), (70, threads)].map(|(second, count)| {
        let lines: Vec<&[_]> = vec![&[QUEUED, WORK, BEGAN]; count];
        sample(second, &lines)
    });
    let [first, last] = &mut samples;
    last.continue_from(first);
    let at = last.at;
    StackEvidence::of([Some(&*last)].into_iter(), &|time| if time < at { 3 } else { sockets }).expect("stacks")
}

#[test]
fn the_number_of_threads_tells_idle_workers_from_handlers() {
    let workers = loops(8, 8, 7);
    assert_eq!(
        (workers.in_loops, workers.loops),
        (8, Some(OwnLoops::Workers)),
        "four more sockets, and no more threads"
    );
    assert!(workers.all_idle());
    assert_eq!(loops(3, 8, 9).loops, Some(OwnLoops::Handlers), "five more of both");
    assert_eq!(loops(8, 8, 3).loops, Some(OwnLoops::Undecided), "no more sockets");
    assert_eq!(loops(4, 4, 3).loops, Some(OwnLoops::AsMany), "one client still waits");
    assert_eq!(loops(6, 8, 8).loops, Some(OwnLoops::AsMany), "two more threads for five more sockets");
    let undecided = loops(8, 8, 3);
    assert!(!undecided.all_idle() && undecided.only_loops(3) == Some(OwnLoops::Undecided));
    assert_eq!(OwnLoops::of(8, 8, 17, 17), OwnLoops::Workers, "most sockets have no thread");
}

#[test]
fn threads_that_may_work_on_the_sockets_leave_the_loops_undecided() {
    let mixed: &[&[_]] = &[&[QUEUED, WORK, BEGAN], &[QUEUED, WORK, BEGAN], &[LOCKED, RESERVE]];
    let evidence = |sockets| {
        let read = sample(0, mixed);
        StackEvidence::of([Some(&read)].into_iter(), &|_| sockets).expect("stacks").only_loops(sockets)
    };
    assert_eq!(evidence(2), None, "one may work on half of them");
    assert_eq!(evidence(6), Some(OwnLoops::Workers));
}

#[test]
fn two_lines_of_a_deadlock_count_together() {
    const RELEASE: (&str, &str, u32) = ("release", "/srv/orders.py", 8);
    let lines: &[&[_]] =
        &[&[LOCKED, RESERVE], &[LOCKED, RELEASE], &[LOCKED, RESERVE, BEGAN], &[LOCKED, RELEASE, BEGAN], &[IDLE]];
    let deadlock = evidence(&[sample(0, lines), sample(60, lines)]);
    assert_eq!((deadlock.at_line, deadlock.at_lines, deadlock.lines), (2, 4, 2));
    assert!(deadlock.blocks(100), "all that work");
    assert_eq!(deadlock.blocked(), "4 of 5 stacks have waited for locks at 2 lines for at least 30s");
    let busy = [lines, &[&[FETCH], &[FETCH]]].concat();
    assert!(!evidence(&[sample(0, &busy), sample(60, &busy)]).blocks(100), "two may finish");
    let once = evidence(&[sample(0, lines)]);
    assert_eq!((once.at_lines, once.blocks(1)), (0, false));
}

#[test]
fn workers_that_wait_for_their_turn_at_a_queue_are_not_blocked() {
    let lines: &[&[_]] = &[&[QUEUED, WORK, BEGAN], &[LOCKED, WORK, BEGAN], &[LOCKED, WORK, BEGAN]];
    let pool = evidence(&[sample(0, lines), sample(60, lines)]);
    assert_eq!((pool.in_loops, pool.at_line), (3, 0));
    let hung = evidence(&[sample(0, &lines[1..]), sample(60, &lines[1..])]);
    assert_eq!((hung.in_loops, hung.at_line), (0, 2), "no thread takes work");
}
