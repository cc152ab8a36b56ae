//! Helper process that asks Java virtual machines for an agent, which may neither send signals nor act as other users.
//!
//! It does only what [`super::wire`] has words for, and does not look at what a process answers: it hands the bytes to the agent, which
//! parses them without privileges.

use std::{
    io,
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::event::PollFlags;

use super::{
    AttachError, DUMP_WITHIN,
    attach::{AttachAnswer, AttachSession},
    limits::QuestionLimits,
    target::Hotspot,
    wire::{DumpKind, DumpReply, DumpRequest, MAX_HELPER_DUMP_BYTES},
};
use crate::{
    clock,
    host::{
        confine::confine_jvm_helper,
        deadline::{self, ItemJob, Patience, Subject},
        error_text,
        helper::detach,
        poll::{poll, reader_is_gone},
    },
};

/// Time for an exchange to remove its files when the agent ends.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Interval between two checks of an exchange that is to end.
const TICK: Duration = Duration::from_millis(10);

/// Answers the requests of an agent until it ends. An exchange with a process ends with the agent, too.
///
/// # Errors
///
/// If a thread cannot be started.
pub fn serve_jvm_dumps(agent: UnixStream) -> anyhow::Result<()> {
    detach(c"closewait-jvm");
    for degraded in confine_jvm_helper().degraded {
        log::warn!("the helper for Java virtual machines: {}: {}", degraded.what, degraded.why);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (own, stopped) = (agent.try_clone().context("fcntl(F_DUPFD_CLOEXEC) failed")?, Arc::clone(&stop));
    let work = move || {
        if let Err(error) = answer_all(&own, &stopped) {
            log::error!("the helper for Java virtual machines ends: {error}");
        }
        // The agent notices that there will be no answers, and the main thread of this process that its work is over.
        let _ended: io::Result<()> = own.shutdown(Shutdown::Both);
    };
    let worker = thread::Builder::new()
        .name("closewait-ask".to_owned())
        .spawn(work)
        .context("starting a thread failed\nhint: check the limit on processes (ulimit -u, TasksMax=)")?;
    while !reader_is_gone(agent.as_fd()) {
        poll(agent.as_fd(), PollFlags::empty(), Duration::MAX);
    }
    stop.store(true, Ordering::Release);
    let end = clock::now() + STOP_PATIENCE;
    while !worker.is_finished() && clock::now() < end {
        thread::sleep(TICK);
    }
    Ok(())
}

/// Answers all requests, one after the other.
fn answer_all(mut agent: &UnixStream, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let mut limits = QuestionLimits::default();
    while let Some(request) = DumpRequest::read_from(&mut agent)? {
        let reply = match limits.ask(request, clock::now()) {
            Ok(()) => ask(request, stop),
            Err(why) => DumpReply::Refused(why.to_owned()),
        };
        if stop.load(Ordering::Acquire) {
            break;
        }
        reply.write_to(&mut agent)?;
    }
    Ok(())
}

/// Asks a process, on a thread that can be left behind.
fn ask(request: DumpRequest, stop: &Arc<AtomicBool>) -> DumpReply {
    let stop = Arc::clone(stop);
    let work = move |job: &ItemJob<_>| ask_now(request, &stop, job);
    let subject = Subject::Process(request.pid, Some(request.started_ns));
    let asked = deadline::run_in_steps(subject, "its attach mechanism", &mut Patience::default(), work);
    match asked.unwrap_or_else(|why| Err(AttachError::Unanswered(why))) {
        Ok(answer) => DumpReply::Dump(answer),
        Err(why) => DumpReply::Refused(error_text::in_one_line(why)),
    }
}

fn ask_now<T>(request: DumpRequest, stop: &AtomicBool, job: &ItemJob<T>) -> Result<AttachAnswer, AttachError> {
    let may_go_on = || {
        job.progress();
        !job.is_left_behind() && !stop.load(Ordering::Acquire)
    };
    let target = Hotspot::recognize(request.pid)?;
    target.check_started(request.started_ns)?;
    let session = AttachSession::new(&target, DUMP_WITHIN, &may_go_on)?;
    match request.kind {
        DumpKind::Threads => session.threads(MAX_HELPER_DUMP_BYTES),
        DumpKind::Virtual => session.virtual_threads(MAX_HELPER_DUMP_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::host::proc;

    fn started(pid: u32) -> u64 {
        proc::stat(&proc::folder(std::path::Path::new("/proc"), pid)).unwrap().started_ns
    }

    /// Returns the answers of a helper to these requests, on a thread of this process without its confinement.
    fn answers(requests: &[DumpRequest]) -> Vec<DumpReply> {
        let (mut agent, helper) = UnixStream::pair().unwrap();
        let answering = thread::spawn(move || answer_all(&helper, &Arc::default()));
        let ask = |request: &DumpRequest| {
            request.write_to(&mut agent).unwrap();
            DumpReply::read_from(&mut agent).unwrap()
        };
        let replies = requests.iter().map(ask).collect();
        drop(agent);
        answering.join().unwrap().unwrap();
        replies
    }

    #[test]
    fn other_programs_and_earlier_processes_are_refused() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap 'exit 7' QUIT; echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut ready = [0];
        io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let request = |pid, started_ns| DumpRequest { kind: DumpKind::Threads, pid, started_ns };
        let pid = shell.id();
        let refused = answers(&[
            request(pid, started(pid)),
            request(pid, started(pid)),
            DumpRequest { kind: DumpKind::Virtual, ..request(pid, 1) },
            request(u32::MAX, 1),
        ]);
        let whys: Vec<_> = refused.iter().map(|reply| format!("{reply:?}")).collect();
        for (why, expected) in whys.iter().zip([
            "it is no HotSpot JVM: it has no libjvm.so",
            "it was asked less than a minute ago",
            "its other threads were not asked for",
            "it has ended",
        ]) {
            assert_eq!(*why, format!("Refused({expected:?})"));
        }
        assert!(shell.try_wait().unwrap().is_none(), "nothing has happened to it");
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_request_that_is_none_ends_the_helper() {
        let (mut agent, helper) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut agent, &[7; 16]).unwrap();
        assert_eq!(answer_all(&helper, &Arc::default()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
