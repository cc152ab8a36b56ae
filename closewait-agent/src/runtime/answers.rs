//! Answers to queries about many sockets, made on a thread of their own from a copy of the engine's state: the event loop reads the
//! ring meanwhile, and each record is handled as soon as without a query.
//!
//! The copy shares the tracked sockets with the engine, so making it takes some hundredths of the time of an answer.

use std::{
    io,
    sync::mpsc::{self, Sender},
    thread,
};

use tokio::{runtime::Handle, sync::mpsc as channel};

use crate::{clock::TimeAnchor, control::QueryClient, recording::RecordingEngine, sink::answer::answer};
use closewait_engine::{Engine, snapshot::query::Query, time::BootTime};

/// Maximum number of tracked sockets for which the event loop answers by itself: that takes less than starting to answer elsewhere.
const MAX_INLINE: u64 = 256;

/// Query that can be answered now, with its client.
#[derive(Debug)]
pub(super) struct AnswerJob {
    pub(super) query: Query,
    pub(super) client: QueryClient,
    /// Time of the answer.
    pub(super) now: BootTime,
    pub(super) anchor: TimeAnchor,
}

impl AnswerJob {
    /// Makes the answer from this state, and sends it.
    pub(super) fn make(self, engine: &Engine) {
        let Self { query, client, now, anchor } = self;
        let mut writer = client.begin();
        match answer(engine, &query, now, anchor, |frame| writer.frame(frame)) {
            Ok(()) => writer.finish(),
            Err(error) => writer.refuse(&error.to_string()),
        }
    }
}

/// Means to answer: a thread, which starts with the first answer about many sockets, or else the event loop itself.
#[derive(Debug, Default)]
pub(super) enum Answering {
    /// No answer needed the thread so far.
    #[default]
    Alone,
    /// The thread runs.
    Beside(AnswerThread),
    /// The thread could not start, or has ended, which only a panic does.
    Failed,
}

/// Thread that makes one answer after the other, as the event loop sees it.
#[derive(Debug)]
pub(super) struct AnswerThread {
    jobs: Sender<(AnswerJob, Box<Engine>)>,
    /// Gets a message when an answer is complete.
    done: channel::UnboundedReceiver<()>,
    is_busy: bool,
}

impl Answering {
    /// Whether an answer is being made beside the event loop.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Beside(AnswerThread { is_busy: true, .. }))
    }

    /// Makes an answer from the current state: at once if the engine tracks few sockets, or if there is no thread.
    pub(super) fn answer(&mut self, job: AnswerJob, engine: &mut RecordingEngine) {
        if engine.state().totals().tracked <= MAX_INLINE {
            return job.make(engine.state());
        }
        if let Self::Alone = self {
            *self = AnswerThread::start(|job, engine| job.make(&engine)).map_or_else(
                |error| {
                    log::warn!("starting a thread failed: {error}; answers delay the agent until its restart");
                    Self::Failed
                },
                Self::Beside,
            );
        }
        let Self::Beside(thread) = self else { return job.make(engine.state()) };
        if let Err(mpsc::SendError((job, engine))) = thread.jobs.send((job, engine.snapshot())) {
            *self = Self::Failed;
            return job.make(&engine);
        }
        thread.is_busy = true;
    }

    /// Returns when the answer beside the event loop is complete; never, without one. Cancel-safe.
    pub(super) async fn done(&mut self) {
        match self {
            Self::Beside(thread) if thread.is_busy => {
                // The channel is closed if the thread has panicked.
                let _complete = thread.done.recv().await;
                thread.is_busy = false;
            }
            Self::Alone | Self::Beside(_) | Self::Failed => std::future::pending().await,
        }
    }
}

impl AnswerThread {
    /// Starts the thread, which calls `make` for each answer. It inherits the capabilities of this thread, and sends in this tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(super) fn start(mut make: impl FnMut(AnswerJob, Box<Engine>) + Send + 'static) -> io::Result<Self> {
        let (jobs, next) = mpsc::channel();
        let (made, done) = channel::unbounded_channel();
        let runtime = Handle::current();
        let work = move || {
            let _entered = runtime.enter();
            for (job, engine) in next {
                make(job, engine);
                if made.send(()).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("closewait-answer".to_owned()).spawn(work)?;
        Ok(Self { jobs, done, is_busy: false })
    }
}
