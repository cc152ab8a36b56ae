//! Agent's side: receives queries, hands them to the event loop one by one, and sends the answers.

use std::{io, os::fd::AsFd as _, path::Path, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    AnswerWriter, AnyRequest, Head, MAX_CLIENTS, MAX_QUESTION, PATIENCE, PROTOCOL, QUEUE_PATIENCE, Request,
    SOCKET_MODE,
    body::Body,
    error::ControlError,
    peer,
    place::{self, SocketFile},
    pool::{BytePool, Lease},
    transfer_time,
};
use crate::{
    host::{in_time::InTime, poll::reader_is_gone},
    memory,
};

/// Minimum length of an answer after which the agent releases its memory to the system, bytes.
const LARGE: u64 = 4 << 20;

/// Time limit for the removal of the socket file if the caller sets none.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// Minimum time for the removal of the socket file, even after the caller's limit.
const LEAVE_AT_LEAST: Duration = Duration::from_millis(100);

/// Control socket of a running agent. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Control<Q> {
    questions: mpsc::Receiver<(Q, QueryClient)>,
    /// Query that waits for space in the pool.
    next: Option<(Q, QueryClient)>,
    pool: Arc<BytePool>,
    listening: JoinHandle<()>,
    /// Socket file; `None` once its removal has started.
    place: Option<SocketFile>,
    /// Thread that removes the file.
    leaving: Option<InTime<()>>,
    warnings: Vec<String>,
}

impl<Q: DeserializeOwned + Send + 'static> Control<Q> {
    /// Listens at `path`, in the running tokio runtime. All answers in flight use at most `max_bytes`. Replaces a
    /// socket that an agent has left behind; leaves any other file unchanged.
    ///
    /// # Errors
    ///
    /// If another file is there, or the socket cannot be created within two seconds.
    pub fn listen(path: &Path, max_bytes: usize) -> Result<Self, ControlError> {
        let (listener, place, warnings) = place::occupy_in_time(path, SOCKET_MODE)?;
        // The listener is non-blocking already. If this fails, the file is removed.
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                let _stays = place.begin_to_leave().and_then(|leaving| leaving.wait(LEAVE_PATIENCE));
                return Err(ControlError::Listen { call: "epoll_ctl", path: path.to_owned(), error });
            }
        };
        let (ask, questions) = mpsc::channel(MAX_CLIENTS);
        let pool = BytePool::new(max_bytes);
        let listening = tokio::spawn(accept(listener, ask, Arc::clone(&pool)));
        Ok(Self { questions, next: None, pool, listening, place: Some(place), leaving: None, warnings })
    }

    /// Returns warnings about the socket's folder, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the bytes of all answers in flight.
    #[cfg(test)]
    pub(super) fn bytes_in_flight(&self) -> usize {
        self.pool.used()
    }

    /// Returns the next query, once there is space for its answer. Refuses one that waits too long for that.
    /// Cancel-safe: dropping the future loses nothing.
    pub async fn question(&mut self) -> Option<(Q, QueryClient)> {
        loop {
            if self.next.is_none() {
                self.next = Some(self.questions.recv().await?);
            }
            let deadline = self.next.as_ref().map(|(_, client)| client.since + QUEUE_PATIENCE)?;
            let has_room = timeout_at(deadline, self.pool.has_room()).await.is_ok();
            let (question, client) = self.next.take()?;
            // After a stall the queue may have clients that have given up.
            if client.has_gone() {
                continue;
            }
            if has_room {
                return Some((question, client));
            }
            let limit = self.pool.limit() >> 20;
            client.refuse(format!(
                "it is busy: other clients have not taken their answers, which fill the {limit} MiB for that; ask again later"
            ));
        }
    }
}

impl<Q> Control<Q> {
    /// Starts the removal of the socket's file, while the socket still listens: an agent that starts now waits for
    /// its turn.
    pub fn close(&mut self) {
        let Some(place) = self.place.take() else { return };
        let path = place.path().to_owned();
        match place.begin_to_leave() {
            Ok(leaving) => self.leaving = Some(leaving),
            Err(why) => log::warn!("the control socket {} stays: {why}; the next agent removes it", path.display()),
        }
    }

    /// Waits until the file is removed, at most for `patience`.
    pub fn finish(mut self, patience: Duration) {
        // Even if other waits have used up all of it.
        self.end(patience.max(LEAVE_AT_LEAST));
    }

    fn end(&mut self, patience: Duration) {
        self.close();
        if let Some(Err(why)) = self.leaving.take().map(|leaving| leaving.wait(patience)) {
            log::warn!(
                "the control socket stays: {why}; the next agent removes it\nhint: check the file system of --socket"
            );
        }
    }
}

impl<Q> Drop for Control<Q> {
    fn drop(&mut self) {
        self.end(LEAVE_PATIENCE);
        self.listening.abort();
    }
}

/// Receives connections, and hands their queries on. A client without a query delays no other.
async fn accept<Q: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    ask: mpsc::Sender<(Q, QueryClient)>,
    pool: Arc<BytePool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _nameless)) = listener.accept().await else {
            // Probably out of descriptors: not the end of the agent.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let client = QueryClient { stream, since: Instant::now(), pool: Arc::clone(&pool), _place: place };
        tokio::spawn(serve(client, ask.clone()));
    }
}

/// Receives one query.
async fn serve<Q: DeserializeOwned>(mut client: QueryClient, ask: mpsc::Sender<(Q, QueryClient)>) {
    match peer::user_of(&client.stream) {
        Ok(user) if peer::may_ask(user) => {}
        Ok(user) => {
            log::warn!("refused a query of user {user} at the control socket");
            return client.refuse(format!("user {user} may not ask; only root and user {} may", peer::own_user()));
        }
        Err(error) => return client.refuse(format!("getsockopt(SO_PEERCRED) failed: {error}")),
    }
    let mut question = Vec::new();
    let Ok(Ok(())) = timeout(PATIENCE, read_line(&mut client.stream, &mut question)).await else { return };
    match understood(&question) {
        // The send fails only while the agent ends.
        Ok(question) => drop(ask.send((question, client)).await),
        Err(why) => client.refuse(why),
    }
}

/// Parses the query in a line. The error is the reason why it cannot be answered.
fn understood<Q: DeserializeOwned>(line: &[u8]) -> Result<Q, String> {
    let not_understood = |error| format!("the question was not understood: {error}");
    let AnyRequest { protocol } = serde_json::from_slice(line).map_err(not_understood)?;
    if protocol != PROTOCOL {
        return Err(format!("the agent speaks version {PROTOCOL} of the control protocol, and not version {protocol}"));
    }
    let Request { protocol: _, query } = serde_json::from_slice(line).map_err(not_understood)?;
    Ok(query)
}

/// Client with a query.
#[derive(Debug)]
pub struct QueryClient {
    stream: UnixStream,
    /// Time of the connection.
    since: Instant,
    pool: Arc<BytePool>,
    /// Place among the served clients, until the answer is read.
    _place: OwnedSemaphorePermit,
}

impl QueryClient {
    /// Begins an answer, which is sent while it is made.
    pub fn begin(self) -> AnswerWriter {
        let head = Head::new(None).line();
        AnswerWriter::new(self, head)
    }

    /// Sends in the background the reason why there is no answer.
    pub fn refuse(self, why: String) {
        let lease = Lease::new(self.pool());
        self.send((Head::new(Some(why)).line(), lease), None);
    }

    /// Returns the pool of the bytes of all answers in flight.
    pub(super) fn pool(&self) -> Arc<BytePool> {
        Arc::clone(&self.pool)
    }

    /// Sends as many of these bytes as the client accepts without waiting. Returns their number.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    /// Sends the first bytes in the background, then the body.
    pub(super) fn send(mut self, (first, lease): (Vec<u8>, Lease), body: Option<Body>) {
        tokio::spawn(async move {
            let is_large = body.as_ref().is_some_and(|body| body.length() >= LARGE);
            // A client that has gone or is too slow does not want the answer.
            if let Err(error) = write(&mut self.stream, (first, lease), body).await {
                log::debug!("a client has not taken its answer: {error}");
            }
            if is_large {
                memory::release_free_memory();
            }
        });
    }

    /// Returns the connection, and the place among the served clients.
    pub(super) fn into_stream(self) -> (UnixStream, OwnedSemaphorePermit) {
        (self.stream, self._place)
    }

    /// Whether the client has closed the connection in both directions.
    fn has_gone(&self) -> bool {
        reader_is_gone(self.stream.as_fd())
    }
}

/// Sends an answer piece by piece, as long as the client makes progress.
async fn write(stream: &mut UnixStream, (first, lease): (Vec<u8>, Lease), body: Option<Body>) -> io::Result<()> {
    let (began, mut sent) = (Instant::now(), 0);
    let (mut body, mut lease) = (body, Some(lease));
    let mut next = Some(first);
    while let Some(piece) = next {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let limit = (began + PATIENCE + transfer_time(sent)).min(Instant::now() + PATIENCE);
            let written = timeout_at(limit, stream.write(rest)).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            sent += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        // Releases the lease of the first bytes.
        drop(lease.take());
        next = match &mut body {
            Some(body) => body.next()?,
            None => None,
        };
    }
    stream.shutdown().await
}

async fn read_line(stream: &mut UnixStream, to: &mut Vec<u8>) -> io::Result<()> {
    let mut limited = stream.take(MAX_QUESTION as u64);
    while to.last() != Some(&b'\n') {
        if limited.read_buf(to).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
