//! Requests of the server's thread to the event loop: at most one of each kind at a time, whose answer all clients get that came
//! meanwhile. So scrapers cost the event loop no more than one after the other would.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::clock::{self, TimeAnchor};
use closewait_engine::{Engine, snapshot::metrics::MetricsSnapshot};

/// Maximum number of clients that wait for the same answer.
const MAX_WAITING: usize = 64;
/// Maximum number of unanswered requests: one of each kind.
const MAX_REQUESTS: usize = 2;

/// Numbers of the engine, and the relation of their times to the wall clock.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentSnapshot {
    /// Numbers.
    pub numbers: MetricsSnapshot,
    /// Relation to the wall clock.
    pub anchor: TimeAnchor,
}

/// Request to the event loop.
#[derive(Debug)]
pub enum MetricsRequest {
    /// The numbers for metrics.
    Snapshot(oneshot::Sender<Arc<MomentSnapshot>>),
    /// Any answer, as a sign of life.
    Ping(oneshot::Sender<()>),
}

impl MetricsRequest {
    /// Answers with the current state of the engine.
    pub fn answer(self, engine: &Engine) {
        // Nobody waits if the server has ended.
        match self {
            Self::Snapshot(reply) => {
                let numbers = engine.metrics(clock::now());
                drop(reply.send(Arc::new(MomentSnapshot { numbers, anchor: TimeAnchor::now() })));
            }
            Self::Ping(reply) => drop(reply.send(())),
        }
    }
}

/// End of the event loop.
#[derive(Debug)]
pub struct MetricsFeed(mpsc::Receiver<MetricsRequest>);

impl MetricsFeed {
    /// Returns the next request; never, after the server has ended. Cancel-safe: dropping the future loses nothing.
    pub async fn request(&mut self) -> MetricsRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// End of the server.
#[derive(Debug)]
pub(crate) struct Requester(mpsc::Sender<MetricsRequest>);

/// Returns the two ends of the channel.
pub(crate) fn channel() -> (Requester, MetricsFeed) {
    let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
    (Requester(sender), MetricsFeed(receiver))
}

/// Reason why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The event loop did not answer in time.
    Late,
    /// Too many clients wait already.
    Full,
    /// The agent ends.
    Ending,
}

/// Requests of one kind, whose clients share the answers.
#[derive(Clone, Debug)]
pub(crate) struct SharedRequests<T>(mpsc::Sender<oneshot::Sender<T>>);

impl Requester {
    /// Starts requests of one kind, in the running tokio runtime.
    pub(crate) fn shared<T: Clone + Send + 'static>(
        &self,
        kind: fn(oneshot::Sender<T>) -> MetricsRequest,
    ) -> SharedRequests<T> {
        let (wait, mut waiting) = mpsc::channel::<oneshot::Sender<T>>(MAX_WAITING);
        let requests = self.0.clone();
        tokio::spawn(async move {
            while let Some(first) = waiting.recv().await {
                let (reply, answer) = oneshot::channel();
                if requests.send(kind(reply)).await.is_err() {
                    return;
                }
                // However long it takes: a second request would only be one more for a busy event loop.
                let Ok(answer) = answer.await else { return };
                drop(first.send(answer.clone()));
                while let Ok(other) = waiting.try_recv() {
                    drop(other.send(answer.clone()));
                }
            }
        });
        SharedRequests(wait)
    }
}

impl<T> SharedRequests<T> {
    /// Returns the answer of the event loop.
    pub(crate) async fn ask(&self, patience: Duration) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoAnswer::Full,
            mpsc::error::TrySendError::Closed(_) => NoAnswer::Ending,
        })?;
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(NoAnswer::Ending),
            Err(_) => Err(NoAnswer::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn clients_that_come_meanwhile_share_one_answer() {
        let (requester, mut feed) = channel();
        let pings = requester.shared(MetricsRequest::Ping);
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let pings = pings.clone();
                tokio::spawn(async move { pings.ask(Duration::from_secs(5)).await })
            })
            .collect();
        let MetricsRequest::Ping(reply) = feed.request().await else { panic!("a ping") };
        // All of them wait by now.
        tokio::time::sleep(PATIENCE).await;
        reply.send(()).unwrap();
        for client in clients {
            assert_eq!(client.await.unwrap(), Ok(()));
        }
        assert!(feed.0.try_recv().is_err(), "no second request");
    }

    #[tokio::test]
    async fn a_silent_event_loop_gets_one_request_and_clients_give_up() {
        let (requester, mut feed) = channel();
        let pings = requester.shared(MetricsRequest::Ping);
        for _ in 0..3 {
            assert_eq!(pings.ask(PATIENCE).await, Err(NoAnswer::Late));
        }
        let MetricsRequest::Ping(reply) = feed.request().await else { panic!("a ping") };
        assert!(feed.0.try_recv().is_err(), "no second request");
        reply.send(()).unwrap();
        let next = tokio::spawn(async move { pings.ask(Duration::from_secs(5)).await });
        let MetricsRequest::Ping(reply) = feed.request().await else { panic!("a ping") };
        reply.send(()).unwrap();
        assert_eq!(next.await.unwrap(), Ok(()), "it recovers");
    }

    #[tokio::test]
    async fn no_more_clients_wait_than_the_limit() {
        let (requester, _feed) = channel();
        let pings = requester.shared(MetricsRequest::Ping);
        let ask = || {
            let pings = pings.clone();
            tokio::spawn(async move { pings.ask(Duration::from_millis(300)).await })
        };
        let mut refused = 0;
        for client in (0..MAX_WAITING + 10).map(|_| ask()).collect::<Vec<_>>() {
            refused += usize::from(client.await.unwrap() == Err(NoAnswer::Full));
        }
        // The task that asks holds one more.
        assert!((9..=10).contains(&refused), "{refused}");
    }

    #[tokio::test]
    async fn after_the_event_loop_there_is_no_answer() {
        let (requester, feed) = channel();
        let pings = requester.shared(MetricsRequest::Ping);
        drop(feed);
        assert_eq!(pings.ask(Duration::from_secs(5)).await, Err(NoAnswer::Ending));
    }
}
