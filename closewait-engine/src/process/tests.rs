use super::*;

fn thread(syscall: i32, arg: u64) -> Thread {
    Thread {
        comm: Comm::from_kernel(b"worker\0\0\0\0\0\0\0\0\0\0"),
        state: ThreadState::Sleeping,
        syscall: Some(Syscall::new(Architecture::X86_64, syscall)),
        arg: Some(arg),
        limit: None,
        wchan: None,
        cpu_permille: Some(0),
        wanted_permille: Some(0),
        main: false,
    }
}

fn process(runtime: Option<ProgramRuntime>, threads: &[Thread]) -> Process {
    let seen = u32::try_from(threads.len()).unwrap();
    Process {
        runtime,
        threads: Some(seen),
        threads_seen: seen,
        groups: group(threads),
        ..Process::unread(42, Comm::from_kernel(b"app\0\0\0\0\0\0\0\0\0\0\0\0\0"))
    }
}

fn main(thread: Thread) -> Thread {
    Thread { main: true, ..thread }
}

#[test]
fn a_pool_that_waits_for_one_lock_is_described_with_its_size() {
    let mut threads = vec![thread(202, 0x1000); 184];
    threads.extend((0..16).map(|n| thread(202, 0x2000 + n)));
    let process = process(Some(ProgramRuntime::Jvm), &threads);
    assert_eq!(process.activity().unwrap(), "184 of 200 threads wait in futex on the same address");
}

#[test]
fn a_busy_thread_comes_before_waiting_threads() {
    let running = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(1004), ..thread(0, 0) };
    let process = process(None, &[running, thread(0, 7), thread(0, 7)]);
    assert_eq!(process.busy_thread(), Some(1004));
    let activity = process.activity().unwrap();
    assert_eq!(activity, "a thread runs at 100 % of a CPU; 2 of 3 threads wait in read on the same descriptor");
}

#[test]
fn a_busy_pool_does_not_make_an_event_loop_busy() {
    let busy = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(990), ..thread(0, 0) };
    let mut process = process(Some(ProgramRuntime::Node), &[main(thread(232, 5)), busy]);
    assert_eq!(process.activity().unwrap(), "its event loop waits in epoll_wait");
    assert_eq!(process.busy_thread(), None);
    process.runtime = Some(ProgramRuntime::Jvm);
    assert_eq!(process.busy_thread(), Some(990));
}

#[test]
fn a_thread_that_shares_its_cpu_is_busy() {
    let runs = |used, wanted| {
        let state = ThreadState::Running;
        Thread { state, syscall: None, cpu_permille: Some(used), wanted_permille: wanted, ..thread(0, 0) }
    };
    let starved = process(None, &[runs(484, Some(990)), runs(600, Some(650))]);
    assert_eq!(starved.busy_thread(), Some(484), "the other thread gets the CPU time that it wants");
    assert_eq!(starved.activity().unwrap(), "a thread is always ready to run but gets only 48 % of a CPU");
    assert_eq!(process(None, &[runs(484, None)]).busy_thread(), None, "the time in which it was runnable is unknown");
    assert_eq!(process(None, &[runs(484, Some(899))]).busy_thread(), None);
    assert_eq!(process(None, &[runs(19, Some(1000))]).busy_thread(), None, "it may have just woken up");
    let mut node = process(Some(ProgramRuntime::Node), &[main(thread(232, 5)), runs(484, Some(1000))]);
    assert_eq!(node.busy_thread(), None);
    node.groups = group(&[main(runs(120, Some(1000)))]);
    assert_eq!(
        node.activity().unwrap(),
        "the thread of its event loop is always ready to run but gets only 12 % of a CPU"
    );
}

#[test]
fn inherited_descriptors_above_the_limit_do_not_hide_that_it_is_reached() {
    let descriptors =
        |open, limit| Process { fds_open: Some(open), fds_limit: Some(limit), ..process(None, &[]) }.descriptors();
    assert_eq!([descriptors(160, 160), descriptors(163, 160)], [Some((160, 160)), Some((163, 160))]);
    assert_eq!([descriptors(9, 0), descriptors(9, 1), descriptors(200, 160)], [None; 3], "it was lowered later");
}

#[test]
fn one_thread_is_described_once() {
    let activity = |number| process(None, &[main(thread(number, 5))]).activity().unwrap();
    assert_eq!(activity(7), "its only thread waits in poll");
    assert_eq!(activity(45), "its only thread waits in recvfrom");
    assert_eq!(activity(9999), "its only thread waits in syscall 9999");
}

#[test]
fn a_stopped_process_is_described_as_such() {
    let stopped = Thread { state: ThreadState::Stopped, ..thread(0, 3) };
    let process = process(None, &[stopped.clone(), stopped]);
    assert!(process.is_stopped());
    assert_eq!(process.activity().unwrap(), "it is stopped, by a signal or a debugger");
}

#[test]
fn threads_that_were_stopped_in_different_calls_are_counted_together() {
    let in_call = |number| Thread { state: ThreadState::Stopped, ..thread(number, 3) };
    let all = [in_call(0), in_call(7), in_call(202), Thread { state: ThreadState::Zombie, ..thread(0, 0) }];
    assert!(process(None, &all).is_stopped());
    assert_eq!(process(None, &all).activity().unwrap(), "it is stopped, by a signal or a debugger");
    let some = process(None, &[in_call(0), in_call(7), thread(202, 1)]);
    assert!(!some.is_stopped() && !process(None, &[]).is_stopped());
    assert_eq!(some.activity().unwrap(), "2 of 3 threads are stopped, by a signal or a debugger");
}

#[test]
fn a_frozen_process_is_described_only_as_such() {
    let mut process = process(None, &vec![thread(202, 1); 4]);
    process.frozen = Some(true);
    assert_eq!(process.activity().unwrap(), "its cgroup is frozen");
    process.frozen = Some(false);
    assert_eq!(process.activity().unwrap(), "4 of 4 threads wait in futex on the same address");
}

#[test]
fn a_working_process_has_a_greater_occupation_than_a_waiting_one() {
    let occupation = |threads: &[Thread]| process(None, threads).occupation();
    let running = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(990), ..thread(0, 0) };
    let in_kernel = Thread { state: ThreadState::DiskSleep, ..thread(0, 3) };
    let order = [
        occupation(&[]),
        occupation(&[main(thread(61, 0)), thread(202, 1)]),
        occupation(&[main(thread(35, 0))]),
        occupation(&[main(thread(73, 5)), thread(7, 0), thread(7, 0)]),
        occupation(&[main(thread(7, 0)), running]),
        occupation(&[Thread { state: ThreadState::Stopped, ..main(thread(7, 0)) }]),
    ];
    use Occupation::{Blocked, Busy, Halted, Idle, Unknown, Waits};
    assert_eq!(order, [Unknown, Idle, Waits, Blocked, Busy, Halted]);
    assert!(order.is_sorted());
    assert_eq!(occupation(&[main(thread(7, 0)), in_kernel]), Blocked);
    for number in [34, 130, 128, 43, 232] {
        assert_eq!(occupation(&[main(thread(number, 0))]), Idle, "{number}");
    }
}

#[test]
fn threads_that_were_not_inspected_are_not_counted() {
    let mut process = process(None, &vec![thread(202, 1); 4]);
    process.threads = Some(900);
    let activity = process.activity().unwrap();
    assert_eq!(activity, "4 of 4 inspected threads wait in futex on the same address");
}

#[test]
fn unknown_threads_have_no_description() {
    assert_eq!(process(None, &[]).activity(), None);
    let unknown = Thread { syscall: None, arg: None, ..thread(0, 0) };
    assert_eq!(process(None, &[unknown]).activity(), None);
}
