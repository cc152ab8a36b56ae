use std::{
    process,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{process_read::ARCHITECTURE, *};
use crate::clock;
use closewait_engine::process::Syscall;

fn sample(wait: Duration) -> Process {
    let sampling = Sampling::begin(&[process::id()], clock::now());
    thread::sleep(wait);
    sampling.finish(clock::now()).pop().unwrap()
}

/// Whether `look` succeeds on one of five attempts: a busy machine may give the CPU to another thread.
fn is_seen(mut look: impl FnMut() -> bool) -> bool {
    (0..5).any(|_| look())
}

/// The numbers of the engine's table, compared with those of the target's libc.
#[test]
fn system_calls_have_the_names_of_this_architecture() {
    let Some(architecture) = ARCHITECTURE else { return };
    macro_rules! numbers {
        ($($call:ident: $name:literal,)*) => { [$((libc::$call, $name)),*] };
    }
    let calls = numbers! {
        SYS_read: "read", SYS_write: "write", SYS_close: "close", SYS_pread64: "pread64", SYS_pwrite64: "pwrite64",
        SYS_readv: "readv", SYS_writev: "writev", SYS_nanosleep: "nanosleep", SYS_sendfile: "sendfile",
        SYS_connect: "connect", SYS_accept: "accept", SYS_sendto: "sendto", SYS_recvfrom: "recvfrom",
        SYS_sendmsg: "sendmsg", SYS_recvmsg: "recvmsg", SYS_wait4: "wait4", SYS_semop: "semop", SYS_msgrcv: "msgrcv",
        SYS_fcntl: "fcntl", SYS_flock: "flock", SYS_fsync: "fsync", SYS_fdatasync: "fdatasync",
        SYS_rt_sigtimedwait: "rt_sigtimedwait", SYS_rt_sigsuspend: "rt_sigsuspend", SYS_futex: "futex",
        SYS_restart_syscall: "restart_syscall", SYS_semtimedop: "semtimedop", SYS_clock_nanosleep: "clock_nanosleep",
        SYS_mq_timedreceive: "mq_timedreceive", SYS_waitid: "waitid", SYS_openat: "openat", SYS_pselect6: "pselect6",
        SYS_ppoll: "ppoll", SYS_splice: "splice", SYS_epoll_pwait: "epoll_pwait", SYS_accept4: "accept4",
        SYS_recvmmsg: "recvmmsg", SYS_io_uring_enter: "io_uring_enter",
    };
    for (number, name) in calls {
        let call = Syscall::new(architecture, i32::try_from(number).unwrap());
        assert_eq!(call.name(), Some(name), "{number}");
    }
}

#[test]
fn threads_that_wait_for_one_lock_are_one_group() {
    let lock = Mutex::new(());
    let held = lock.lock().unwrap();
    thread::scope(|scope| {
        for _ in 0..5 {
            thread::Builder::new().name("waiter".to_owned()).spawn_scoped(scope, || drop(lock.lock())).unwrap();
        }
        let waits = |process: &Process| {
            process.groups.iter().any(|group| {
                let futex = group.syscall.and_then(Syscall::name).is_some_and(|name| name.starts_with("futex"));
                futex && group.count >= 5 && group.comms.contains(&Comm::from_name(b"waiter"))
            })
        };
        let seen = is_seen(|| waits(&sample(Duration::from_millis(20))));
        drop(held);
        assert!(seen);
    });
}

#[test]
fn a_thread_that_spins_uses_a_cpu() {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        });
        let seen = is_seen(|| {
            let process = sample(Duration::from_millis(200));
            process.groups.iter().any(|group| group.busiest_permille >= Some(200)) && process.cpu_permille >= Some(200)
        });
        over.store(true, Ordering::Relaxed);
        assert!(seen);
    });
}

#[test]
fn the_own_process_is_seen_whole() {
    let sampling = Sampling::begin(&[process::id()], clock::now());
    let began = sampling.began();
    let process = sampling.finish(began).pop().unwrap();
    assert!(
        process.started_ns.is_some()
            && process.exec_id.is_some()
            && process.parent.is_some()
            && process.fds_open.is_some()
    );
    let own = std::env::current_exe().unwrap();
    assert_eq!(process.exe.as_deref(), own.to_str());
    assert_eq!((process.runtime, process.cpu_permille), (None, None), "the time is too short for a share");
}

#[test]
fn a_process_that_does_not_exist_is_left_out() {
    assert!(Sampling::begin(&[u32::MAX], BootTime(0)).finish(BootTime(1)).is_empty());
}

const FIRST: Reading = Reading { tid: 7, started_ns: 1, cpu_ns: 100, delay_ns: Some(50), waits: None };
const WINDOW_OF_1000: Duration = Duration::from_nanos(1000);

#[test]
fn two_threads_with_one_number_are_not_one() {
    let used = |last| shares(FIRST, last, WINDOW_OF_1000).map(|shares| shares.used);
    assert_eq!(used(Reading { cpu_ns: 600, ..FIRST }), Some(500));
    assert_eq!(used(Reading { cpu_ns: 9000, ..FIRST }), Some(1000));
    assert_eq!(used(Reading { cpu_ns: 600, started_ns: 2, ..FIRST }), None);
    assert_eq!(used(Reading { cpu_ns: 50, ..FIRST }), None);
    assert_eq!(used(Reading { cpu_ns: 600, delay_ns: None, ..FIRST }), None, "ticks are no nanoseconds");
}

#[test]
fn a_thread_that_waits_for_a_cpu_wants_one() {
    let wanted = |first, last| shares(first, last, WINDOW_OF_1000).unwrap().wanted;
    assert_eq!(wanted(FIRST, Reading { cpu_ns: 500, delay_ns: Some(600), ..FIRST }), Some(950));
    assert_eq!(wanted(FIRST, Reading { cpu_ns: 200, ..FIRST }), Some(100));
    let without = Reading { delay_ns: None, ..FIRST };
    assert_eq!(wanted(without, Reading { cpu_ns: 500, ..without }), None, "the kernel does not keep it");
    // Runnable both times, and never waited: a delay that has not ended is not counted yet.
    let runs = Reading { waits: Some(3), ..FIRST };
    assert_eq!(wanted(runs, Reading { cpu_ns: 150, ..runs }), Some(1000));
    assert_eq!(wanted(runs, Reading { cpu_ns: 150, waits: Some(4), ..runs }), Some(50));
    assert_eq!(wanted(runs, Reading { cpu_ns: 150, waits: None, ..runs }), Some(50));
}

#[test]
fn a_socket_on_its_way_in_a_message_is_placed() {
    use std::{
        net::TcpListener,
        os::{fd::AsRawFd as _, unix::net::UnixStream},
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (from, _to) = UnixStream::pair().unwrap();
    let mut control = [0_u64; 4];
    let (mut payload, fd) = (*b"x", socket.as_raw_fd());
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: 1 };
    // A header of 16 bytes, SOL_SOCKET and SCM_RIGHTS, then the descriptor (cmsg(3)).
    control[0] = 20;
    control[1] = u64::from(libc::SOL_SOCKET.cast_unsigned()) | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
    control[2] = u64::from(fd.cast_unsigned());
    // SAFETY: `msghdr` is plain numbers and pointers, of which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 24);
    // SAFETY: everything that `message` points to lives on, and the lengths are those of what it points to.
    assert_eq!(unsafe { libc::sendmsg(from.as_raw_fd(), &raw const message, 0) }, 1);
    let places = places(&[u64::MAX], &mut Patience::default());
    let Some((u64::MAX, SocketLocation::InFlight(tasks))) = places.first() else { panic!("{places:?}") };
    assert!(tasks.iter().any(|task| task.pid == process::id()));
}
