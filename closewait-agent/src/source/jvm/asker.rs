//! Questions of a running agent to Java virtual machines, through its helper.
//!
//! The agent is confined, so it starts the helper before. A thread of the agent exchanges requests and answers with it, one after the
//! other, and parses the answers. An inspection waits a moment for them, and takes those that come later with the next one.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Child,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use closewait_stacks::live;

use super::{
    super::stacks::MAX_THREADS,
    dump::JvmDump,
    limits::QUESTION_INTERVAL,
    target,
    wire::{DumpKind, DumpReply, DumpRequest, MAX_HELPER_DUMP_BYTES},
};
use crate::{
    clock,
    host::{
        self,
        deadline::{self, ItemJob, Patience, ReadResult, Subject},
    },
};
use closewait_engine::{stacks::ProcessStacks, time::BootTime};

/// Time that an inspection waits for answers. A machine that stops its threads at once answers within some 10 ms.
const WAIT: Duration = Duration::from_secs(1);
/// Time for an answer of the helper, which gives a process 5 s.
const HELPER_ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Maximum number of reasons that are remembered.
const MAX_REASONS: usize = 256;
/// Reason for processes that can no longer be asked.
const LOST: &str = "the process that asks Java virtual machines for the agent has ended";

/// Process with its start in nanoseconds since boot.
type JvmProcess = (u32, u64);
/// Stacks of a process, or the reason why it has not dumped them.
type JvmStacks = Result<Box<ProcessStacks>, String>;

/// Helper that has started, without a thread to talk to it yet.
#[derive(Debug)]
pub struct JvmHelper {
    child: Child,
    helper: UnixStream,
}

impl JvmHelper {
    /// Starts the helper, with the current privileges of this process.
    ///
    /// # Errors
    ///
    /// If the helper cannot be started.
    pub fn start() -> anyhow::Result<Self> {
        let (helper, agent) =
            UnixStream::pair().context("socketpair failed\nhint: check the limit on open files (ulimit -n)")?;
        let child = host::helper::start("the helper for Java virtual machines", OwnedFd::from(agent), |command| {
            command.arg("jvm-dumps");
        })?;
        Ok(Self { child, helper })
    }

    /// Starts the thread that exchanges requests and answers with the helper: the agent has to be confined first.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn connect(self) -> io::Result<JvmAsker> {
        let Self { child, helper } = self;
        helper.set_read_timeout(Some(HELPER_ANSWERS_WITHIN))?;
        helper.set_write_timeout(Some(HELPER_ANSWERS_WITHIN))?;
        let mut asker = JvmAsker::start(move |process| ask(&helper, process))?;
        asker.child = Some(child);
        Ok(asker)
    }
}

/// Questions to Java virtual machines, of which one is open at a time.
#[derive(Debug)]
pub struct JvmAsker {
    questions: SyncSender<JvmProcess>,
    answers: Receiver<(JvmProcess, JvmStacks)>,
    /// Process whose answer has not arrived yet.
    open: Option<JvmProcess>,
    /// Times of the answers of the last minute.
    answered: BTreeMap<JvmProcess, BootTime>,
    /// Last reasons of processes that had no dump, for the log.
    reasons: BTreeMap<JvmProcess, String>,
    child: Option<Child>,
}

/// Answer to an open question.
enum OpenAnswer {
    Answer(JvmStacks),
    /// There is none yet.
    Later,
    /// There will be none.
    Lost,
}

impl JvmAsker {
    /// Starts the thread that asks, with this function.
    fn start(ask: impl Fn(JvmProcess) -> io::Result<JvmStacks> + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = mpsc::sync_channel(1);
        let (sender, answers) = mpsc::sync_channel(1);
        let work = move || {
            for process in asked {
                match deadline::counted(|| ask(process)) {
                    Ok(stacks) => {
                        if sender.send((process, stacks)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        log::error!("{LOST}: {error}\nhint: restart the agent");
                        return;
                    }
                }
            }
        };
        thread::Builder::new().name("closewait-jvm".to_owned()).spawn(work)?;
        Ok(Self { questions, answers, open: None, answered: BTreeMap::new(), reasons: BTreeMap::new(), child: None })
    }

    /// Returns those of `pids` that have the code of HotSpot.
    pub fn find(pids: &[u32], patience: &mut Patience) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let read = |pid: &u32, job: &ItemJob<u64>| {
            if job.about(Subject::Stacks(*pid)).is_ok()
                && let Ok(Some(started_ns)) = target::started(*pid)
            {
                job.put(started_ns);
            }
        };
        deadline::each(pids.to_vec(), patience, read, |pid, result| match result {
            ReadResult::Value(started_ns) => found.push((*pid, started_ns)),
            ReadResult::Unanswered(why) => {
                log::debug!("whether process {pid} is a Java virtual machine is unknown: {why}")
            }
        });
        found
    }

    /// Asks each of these processes that was not asked in the last minute, as long as there is time, and hands the stacks of those that
    /// answer to `each`. Returns the others that have answered, with the reasons why they have no dump. The rest is to be asked again with
    /// the next inspection.
    pub fn read_each(
        &mut self,
        mut processes: Vec<(u32, u64)>,
        mut each: impl FnMut(ProcessStacks),
    ) -> Vec<(u32, String)> {
        let end = clock::now() + WAIT;
        let mut refused = Vec::new();
        // An answer that is ready takes no time.
        processes.sort_by_key(|process| Some(*process) != self.open);
        for process in processes {
            if self.open != Some(process) {
                if self.was_asked(process) {
                    continue;
                }
                // The answer of a process that this inspection does not ask about.
                if self.open.is_some()
                    && let OpenAnswer::Later = self.receive(end)
                {
                    break;
                }
                if self.questions.send(process).is_err() {
                    refused.push((process.0, self.lost()));
                    continue;
                }
                self.open = Some(process);
            }
            match self.receive(end) {
                OpenAnswer::Answer(Ok(stacks)) => each(*stacks),
                OpenAnswer::Answer(Err(why)) => {
                    self.log(process, &why);
                    refused.push((process.0, why));
                }
                OpenAnswer::Lost => refused.push((process.0, self.lost())),
                OpenAnswer::Later => break,
            }
        }
        refused
    }

    /// Logs the reason of a process, unless it had the same before.
    fn log(&mut self, process: JvmProcess, why: &str) {
        if self.reasons.len() >= MAX_REASONS {
            self.reasons.clear();
        }
        if self.reasons.insert(process, why.to_owned()).is_none_or(|before| before != why) {
            log::info!("the Java virtual machine {} has not dumped its threads: {why}", process.0);
        }
    }

    fn was_asked(&mut self, process: JvmProcess) -> bool {
        let now = clock::now();
        self.answered.retain(|_, at| now.since(*at) < QUESTION_INTERVAL);
        self.answered.contains_key(&process)
    }

    /// Receives the answer to the open question, if it arrives until `end`.
    fn receive(&mut self, end: BootTime) -> OpenAnswer {
        match self.answers.recv_timeout(end.since(clock::now())) {
            Ok((process, stacks)) => {
                self.open = None;
                // The helper has counted the time from its side, which began before this.
                self.answered.insert(process, clock::now());
                OpenAnswer::Answer(stacks)
            }
            Err(RecvTimeoutError::Timeout) => OpenAnswer::Later,
            Err(RecvTimeoutError::Disconnected) => {
                self.open = None;
                OpenAnswer::Lost
            }
        }
    }

    /// Returns the reason for processes that are no longer asked, and forgets the helper if it has ended.
    fn lost(&mut self) -> String {
        // Otherwise it would stay as a zombie.
        let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            self.child = None;
        }
        LOST.to_owned()
    }
}

/// Asks a process, and parses its dumps.
///
/// # Errors
///
/// If the helper does not answer.
fn ask(helper: &UnixStream, (pid, started_ns): JvmProcess) -> io::Result<JvmStacks> {
    let exchange = |kind| {
        let mut helper = helper;
        DumpRequest { kind, pid, started_ns }.write_to(&mut helper)?;
        DumpReply::read_from(&mut helper)
    };
    let at = clock::now();
    let answer = match exchange(DumpKind::Threads)? {
        DumpReply::Dump(answer) => answer,
        DumpReply::Refused(why) => return Ok(Err(why)),
    };
    let mut dump = match JvmDump::parse(&answer, MAX_HELPER_DUMP_BYTES) {
        Ok(dump) => dump,
        Err(error) => return Ok(Err(error.to_string())),
    };
    drop(answer);
    if dump.has_virtual_threads() && dump.has_second() {
        dump.add_virtual(match exchange(DumpKind::Virtual)? {
            DumpReply::Dump(answer) => Ok(answer),
            DumpReply::Refused(why) => Err(why),
        });
    }
    let numbers = move || live::threads(pid, MAX_THREADS, &|| true).unwrap_or_default();
    // Stacks without numbers are better than none.
    let tasks = deadline::run(Subject::Stacks(pid), "its threads", &mut Patience::for_one_read(), numbers);
    let (stacks, unread) = dump.into_stacks(&tasks.unwrap_or_default());
    Ok(Ok(Box::new(ProcessStacks::new(pid, at, &stacks, unread))))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn stacks(pid: u32) -> JvmStacks {
        Ok(Box::new(ProcessStacks::new(pid, BootTime(1), &[], Vec::new())))
    }

    fn read(asker: &mut JvmAsker, processes: &[(u32, u64)]) -> (Vec<u32>, Vec<(u32, String)>) {
        let mut read = Vec::new();
        let refused = asker.read_each(processes.to_vec(), |stacks| read.push(stacks.pid));
        (read, refused)
    }

    #[test]
    fn each_process_is_asked_once_a_minute() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let mut asker = JvmAsker::start(move |process| {
            noted.lock().unwrap().push(process);
            Ok(if process.0 == 2 { Err("it is stopped".to_owned()) } else { stacks(process.0) })
        })
        .unwrap();
        let refused = vec![(2, "it is stopped".to_owned())];
        assert_eq!(read(&mut asker, &[(1, 10), (2, 20), (3, 30)]), (vec![1, 3], refused));
        assert_eq!(read(&mut asker, &[(1, 10), (2, 20)]), (vec![], vec![]));
        assert_eq!(read(&mut asker, &[(1, 11)]), (vec![1], vec![]), "another process");
        assert_eq!(*asked.lock().unwrap(), [(1, 10), (2, 20), (3, 30), (1, 11)]);
    }

    #[test]
    fn an_answer_that_is_late_arrives_with_a_later_inspection() {
        let may_answer = Arc::new(AtomicBool::new(false));
        let answers = Arc::clone(&may_answer);
        let mut asker = JvmAsker::start(move |process| {
            while process.0 == 1 && !answers.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(stacks(process.0))
        })
        .unwrap();
        assert_eq!(read(&mut asker, &[(1, 10), (2, 20)]), (vec![], vec![]));
        may_answer.store(true, Ordering::Release);
        assert_eq!(read(&mut asker, &[(2, 20), (1, 10)]), (vec![1, 2], vec![]));
    }

    #[test]
    fn without_a_helper_there_is_a_reason() {
        let mut asker = JvmAsker::start(|_| Err(io::ErrorKind::UnexpectedEof.into())).unwrap();
        for process in [(1, 10), (1, 10), (2, 20)] {
            assert_eq!(read(&mut asker, &[process]), (vec![], vec![(process.0, LOST.to_owned())]));
        }
    }

    #[test]
    fn only_processes_with_the_code_of_hotspot_are_found() {
        assert_eq!(JvmAsker::find(&[std::process::id(), u32::MAX], &mut Patience::for_one_read()), []);
    }
}
