//! Helper process that peeks for an agent, which must be able to end while a peek waits.
//!
//! A peek waits for the lock of the socket, which a thread of the owner holds while it sends from memory whose page does not arrive
//! (`tcp_sendmsg`, net/ipv4/tcp.c at v5.10). No signal ends that wait (`__lock_sock`, net/core/sock.c at v5.10), so the process that peeks
//! cannot end. The helper hands the bytes to the agent, which parses them and cannot duplicate descriptors.
//!
//! ```text
//! question: number of the socket in the agent, inode, cookie (8 bytes each), pid, descriptor (4 bytes each), 1 with a cookie (4 bytes)
//! answer:   number of the socket in the agent, time of the peek in nanoseconds since boot (8 bytes each), then the bytes
//! ```
//!
//! Numbers are little-endian. A message has all questions of a pass, or one answer. A message of one byte ends the answers.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    process::Child,
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    event::PollFlags,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::{MAX_SOCKETS, peek_each};
use crate::{
    clock,
    host::{self, confine::confine_peek_helper, deadline::Patience, helper::detach, poll::poll},
};
use closewait_engine::{
    model::{InspectionFact, SocketKey, UnreadQuestion},
    time::BootTime,
    unread::{self, MAX_PEEKED},
};

/// Time that an inspection waits for the answers of the helper, which gives up a peek after 250 ms. Later ones arrive with the next
/// inspection.
const WAIT: Duration = Duration::from_millis(600);
/// Number of bytes of a question.
const QUESTION: usize = 36;
/// Number of bytes of an answer before those of the request.
const ANSWER: usize = 16;

/// Connection to a helper that peeks.
#[derive(Debug)]
pub struct PeekHelper {
    child: Child,
    /// `None` after the helper has ended.
    helper: Option<OwnedFd>,
    /// Whether answers to the last questions are still to come.
    waits: bool,
}

impl PeekHelper {
    /// Starts the helper, with the current privileges of this process.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start() -> anyhow::Result<Self> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (helper, agent) = pair.context("socketpair failed\nhint: check the limit on open files (ulimit -n)")?;
        let child = host::helper::start("the helper for unread requests", agent, |command| {
            command.arg("peeks");
        })?;
        Ok(Self { child, helper: Some(helper), waits: false })
    }

    /// Returns the process id of the helper.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Peeks at the unread requests of these sockets, and hands those that it could see to `each`.
    pub fn peek_each(&mut self, questions: &[UnreadQuestion], each: &mut dyn FnMut(InspectionFact)) {
        let Some(helper) = self.helper.take() else {
            // Otherwise it would stay as a zombie.
            let _ended = self.child.try_wait();
            return;
        };
        match self.exchange(helper.as_fd(), questions, each) {
            Ok(()) => self.helper = Some(helper),
            Err(error) => {
                log::error!("the process that peeks at unread requests has ended: {error}\nhint: restart the agent");
            }
        }
    }

    fn exchange(
        &mut self,
        helper: BorrowedFd<'_>,
        questions: &[UnreadQuestion],
        each: &mut dyn FnMut(InspectionFact),
    ) -> io::Result<()> {
        // A peek of an earlier pass may have waited.
        if self.waits && !self.receive(helper, clock::now(), each)? {
            log::debug!("unread requests are unknown: an earlier peek still waits");
            return Ok(());
        }
        let message: Vec<u8> = questions.iter().take(MAX_SOCKETS).flat_map(encode).collect();
        if message.is_empty() {
            return Ok(());
        }
        send(helper, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        self.waits = true;
        self.receive(helper, clock::now() + WAIT, each).map(drop)
    }

    /// Receives answers until `end`. Returns whether all have arrived.
    fn receive(
        &mut self,
        helper: BorrowedFd<'_>,
        end: BootTime,
        each: &mut dyn FnMut(InspectionFact),
    ) -> io::Result<bool> {
        let mut bytes = [0; ANSWER + MAX_PEEKED];
        let received = loop {
            if poll(helper, PollFlags::IN, end.since(clock::now())).is_empty() {
                break Ok(false);
            }
            let length = match recv(helper, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, length)) => length,
                Err(error) => break Err(error.into()),
            };
            let answer = bytes.get(..length).and_then(|answer| answer.split_at_checked(ANSWER));
            let Some((head, request)) = answer else { break Ok(true) };
            let [key, at] = [number(head, 0), number(head, 8)];
            let request = unread::parse(request, request.len() == MAX_PEEKED);
            each(InspectionFact::Unread { key: SocketKey(key), at: BootTime(at), request });
        };
        // Nothing of the queue stays on this thread's stack.
        bytes.fill(0);
        std::hint::black_box(&bytes);
        self.waits = !matches!(received, Ok(true));
        received
    }
}

/// Peeks for an agent until it ends.
///
/// # Errors
///
/// If a message cannot be received or sent.
pub fn serve_peeks(agent: BorrowedFd<'_>) -> anyhow::Result<()> {
    detach(c"closewait-peek");
    for degraded in confine_peek_helper().degraded {
        log::warn!("the helper for unread requests: {}: {}", degraded.what, degraded.why);
    }
    let answered = answer_all(agent).context("the connection to the agent failed");
    // A peek can keep this process after the agent, and somebody may wait for the end of the agent's log.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _open: rustix::io::Result<()> = rustix::stdio::dup2_stderr(null);
    }
    answered
}

fn answer_all(agent: BorrowedFd<'_>) -> io::Result<()> {
    let mut message = [0; QUESTION * MAX_SOCKETS];
    loop {
        let (_, length) = recv(agent, &mut message, RecvFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        let questions: Vec<_> = message.get(..length).unwrap_or_default().as_chunks().0.iter().map(decode).collect();
        let mut sent = Ok(0);
        peek_each(&questions, &mut Patience::for_one_read(), |key, at, mut bytes| {
            let mut answer = [&key.0.to_le_bytes()[..], &at.0.to_le_bytes(), &bytes].concat();
            sent = sent.and_then(|_| send(agent, &answer, SendFlags::NOSIGNAL));
            for copy in [&mut answer, &mut bytes] {
                copy.fill(0);
                std::hint::black_box(&copy);
            }
        });
        sent?;
        send(agent, &[0], SendFlags::NOSIGNAL)?;
    }
}

fn encode(question: &UnreadQuestion) -> [u8; QUESTION] {
    let UnreadQuestion { key, pid, fd, inode, cookie } = *question;
    let mut bytes = [0; QUESTION];
    let long = [key.0, inode, cookie.unwrap_or_default()].map(u64::to_le_bytes);
    let short = [pid, fd, u32::from(cookie.is_some())].map(u32::to_le_bytes);
    bytes.copy_from_slice(&[long.as_flattened(), short.as_flattened()].concat());
    bytes
}

fn decode(bytes: &[u8; QUESTION]) -> UnreadQuestion {
    let short = |at: usize| number(&bytes[at..at + 4], 0);
    UnreadQuestion {
        key: SocketKey(number(bytes, 0)),
        inode: number(bytes, 8),
        cookie: (short(32) == 1).then_some(number(bytes, 16)),
        pid: u32::try_from(short(24)).unwrap_or_default(),
        fd: u32::try_from(short(28)).unwrap_or_default(),
    }
}

/// Returns the number of up to eight bytes at an offset.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(8).rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn questions_are_the_same_at_the_other_end() {
        for cookie in [None, Some(0), Some(u64::MAX)] {
            let question = UnreadQuestion {
                key: SocketKey(0x0102_0304_0506_0708),
                pid: u32::MAX,
                fd: 7,
                inode: u64::MAX - 1,
                cookie,
            };
            assert_eq!(decode(&encode(&question)), question);
        }
    }

    /// Returns an agent's end whose helper is a thread, and the end of the helper for this test.
    fn helper() -> (PeekHelper, OwnedFd) {
        let (helper, agent) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let child = std::process::Command::new("true").spawn().unwrap();
        (PeekHelper { child, helper: Some(helper), waits: false }, agent)
    }

    #[test]
    fn answers_that_come_late_arrive_with_the_next_pass() {
        let (mut asker, helper) = helper();
        let question = UnreadQuestion { key: SocketKey(7), pid: u32::MAX, fd: 1, inode: 1, cookie: None };
        let mut facts = Vec::new();
        let mut ask = |asker: &mut PeekHelper| {
            asker.peek_each(&[question], &mut |fact| facts.push(fact));
            std::mem::take(&mut facts)
        };
        assert!(ask(&mut asker).is_empty() && asker.waits);
        assert!(ask(&mut asker).is_empty() && asker.waits, "no second question");
        let mut message = [0; 2 * QUESTION];
        assert_eq!(recv(&helper, &mut message, RecvFlags::DONTWAIT).unwrap().0, QUESTION);
        assert!(recv(&helper, &mut message, RecvFlags::DONTWAIT).is_err());
        let answer = [&7_u64.to_le_bytes()[..], &9_u64.to_le_bytes(), b"GET /late HTTP/1.1\r\n"].concat();
        send(&helper, &answer, SendFlags::empty()).unwrap();
        send(&helper, &[0], SendFlags::empty()).unwrap();
        let serving = thread::spawn(move || answer_all(helper.as_fd()).unwrap());
        let late = ask(&mut asker);
        let [InspectionFact::Unread { key: SocketKey(7), at: BootTime(9), request: Some(request) }] = &late[..] else {
            panic!("{late:?}");
        };
        assert_eq!(request.to_string(), "GET /late");
        // The helper knows no such process, and has ended the second pass.
        assert!(!asker.waits);
        assert!(ask(&mut asker).is_empty() && !asker.waits);
        asker.helper = None;
        serving.join().unwrap();
    }

    #[test]
    fn a_helper_that_has_ended_is_asked_nothing_more() {
        let (mut asker, helper) = helper();
        drop(helper);
        let question = UnreadQuestion { key: SocketKey(7), pid: 1, fd: 1, inode: 1, cookie: None };
        for _ in 0..2 {
            asker.peek_each(&[question], &mut |fact| panic!("{fact:?}"));
        }
        assert!(asker.helper.is_none());
    }
}
