//! Thread that exports: events in batches, and metrics at an interval.

use std::{future::pending, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse},
    resource::v1::Resource,
};
use prost::Message as _;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout_at},
};

use super::{
    LastExport,
    delivery::{Delivered, Delivery, RetryPolicy},
    logs::{self, QueuedEvent},
    metrics::{self, CountStarts},
    queue::EventReceiver,
    settings::{OtlpSettings, SignalSettings},
};
use crate::{
    clock,
    metrics::{
        AgentFacts, ExportLosses, MetricsRequest, MomentSnapshot, ProcessUsage, Requester, SharedRequests,
        readings::ReadingsSource,
    },
};

/// Maximum time for the event loop to answer.
const LOOP_PATIENCE: Duration = Duration::from_secs(2);
/// Effect of metrics that are not exported: they are totals since the start.
const LATER_TOTALS: &str = "these numbers are dropped, and the next export has newer totals";
/// Interval between two messages about dropped events.
const LOSS_INTERVAL: Duration = Duration::from_secs(60);

/// Sizes and times of the export.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExportTiming {
    /// Maximum number of events in a request.
    pub(super) batch_events: usize,
    /// Size of the lines of JSON after which a request is sent, bytes.
    pub(super) batch_bytes: usize,
    /// Maximum time that an event waits for others.
    pub(super) batch_delay: Duration,
    /// Time until the first export of metrics, if the interval is not shorter.
    pub(super) first_metrics: Duration,
    /// Delays between attempts.
    pub(super) retry: RetryPolicy,
}

impl Default for ExportTiming {
    fn default() -> Self {
        Self {
            batch_events: 512,
            batch_bytes: 1 << 20,
            batch_delay: Duration::from_secs(5),
            first_metrics: Duration::from_secs(5),
            retry: RetryPolicy::default(),
        }
    }
}

/// Everything that the thread needs.
#[derive(Debug)]
pub(super) struct ExportThread {
    pub(super) settings: OtlpSettings,
    pub(super) resource: Resource,
    /// Name of this run of the agent.
    pub(super) instance: String,
    pub(super) starts: CountStarts,
    pub(super) timing: ExportTiming,
    pub(super) requester: Requester,
    pub(super) events: EventReceiver,
    pub(super) last: oneshot::Receiver<LastExport>,
    pub(super) facts: Arc<AgentFacts>,
    pub(super) losses: ExportLosses,
}

impl ExportThread {
    /// Exports until the agent ends, and then for its patience.
    pub(super) async fn run(self) {
        let Self { settings, resource, instance, starts, timing, requester, events, last, facts, losses } = self;
        let (end, is_ending) = watch::channel(false);
        let OtlpSettings { metrics, logs, interval, .. } = settings;
        let delivery = |settings: SignalSettings| Delivery::new(settings, timing.retry, is_ending.clone());
        let logs = logs.map(|settings| LogsExport {
            delivery: delivery(settings),
            events,
            resource: resource.clone(),
            instance,
            timing,
        });
        let metrics = metrics.map(|settings| MetricsExport {
            delivery: delivery(settings),
            snapshots: requester.shared(MetricsRequest::Snapshot),
            resource,
            facts,
            starts,
            losses: logs.is_some().then(|| losses.clone()),
            interval,
        });
        let (last_moment, moment) = oneshot::channel();
        let exports = async {
            tokio::join!(
                async {
                    if let Some(logs) = logs {
                        logs.run().await;
                    }
                },
                async {
                    if let Some(metrics) = metrics {
                        metrics.run(moment, timing.first_metrics).await;
                    }
                },
            );
        };
        let ending = async {
            // Without an end, the event loop failed: there is nobody to wait for this thread.
            let Ok(LastExport { moment, patience }) = last.await else { return };
            let until = Instant::now() + patience;
            end.send_replace(true);
            // Only an export of metrics receives it.
            drop(last_moment.send(moment));
            tokio::time::sleep_until(until).await;
        };
        tokio::select! {
            () = exports => {}
            () = ending => {}
            () = report_losses(&losses) => {}
        }
    }
}

/// Reports dropped events once a minute, and never returns.
async fn report_losses(losses: &ExportLosses) {
    let mut reported = 0;
    loop {
        sleep(LOSS_INTERVAL).await;
        let dropped = losses.get();
        if dropped > reported {
            log::warn!(
                "OTLP: {} events were dropped in the last minute, because the collector did not take them ({dropped} since the start)\n\
                 hint: check the log of the collector",
                dropped - reported
            );
            reported = dropped;
        }
    }
}

/// Export of events.
struct LogsExport {
    delivery: Delivery,
    events: EventReceiver,
    resource: Resource,
    instance: String,
    timing: ExportTiming,
}

impl LogsExport {
    /// Exports all events until the queue ends.
    async fn run(mut self) {
        while let Some(batch) = self.batch().await {
            let request = logs::request(&batch, &self.resource, &self.instance);
            let loss = format!("{} events count as dropped", batch.len());
            let refused = match self.delivery.deliver(request.encode_to_vec(), None, &loss).await {
                Delivered::Accepted(ExportLogsServiceResponse { partial_success }) => {
                    let partial = partial_success.unwrap_or_default();
                    self.delivery.partly(partial.rejected_log_records, &partial.error_message)
                }
                Delivered::Failed => batch.len(),
            };
            self.events.settle(&batch, refused);
        }
    }

    /// Returns the next events: as many as fit into a request, or as came within the delay; `None` after the last one.
    async fn batch(&mut self) -> Option<Vec<QueuedEvent>> {
        let first = self.events.next().await?;
        let until = Instant::now() + self.timing.batch_delay;
        let mut bytes = first.json.len();
        let mut batch = vec![first];
        while batch.len() < self.timing.batch_events && bytes < self.timing.batch_bytes {
            // The queue ends with the agent, and with it the delay.
            let Ok(Some(event)) = timeout_at(until, self.events.next()).await else { break };
            bytes += event.json.len();
            batch.push(event);
        }
        Some(batch)
    }
}

/// Export of metrics.
struct MetricsExport {
    delivery: Delivery,
    snapshots: SharedRequests<Arc<MomentSnapshot>>,
    resource: Resource,
    facts: Arc<AgentFacts>,
    starts: CountStarts,
    losses: Option<ExportLosses>,
    interval: Duration,
}

impl MetricsExport {
    /// Exports at the interval, and the last numbers at the end.
    async fn run(mut self, last: oneshot::Receiver<Arc<MomentSnapshot>>, first: Duration) {
        let mut ticks = interval_at(Instant::now() + first.min(self.interval), self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let regular = async {
            loop {
                ticks.tick().await;
                match self.snapshots.ask(LOOP_PATIENCE).await {
                    // After the interval, newer totals are due.
                    Ok(moment) => self.export(moment, Some(self.interval)).await,
                    Err(why) => log::debug!("OTLP: no numbers for metrics: {why:?}"),
                }
            }
        };
        let last = async {
            match last.await {
                Ok(moment) => moment,
                Err(_) => pending().await,
            }
        };
        let last = tokio::select! {
            biased;
            last = last => last,
            () = regular => return,
        };
        self.export(last, None).await;
    }

    async fn export(&mut self, moment: Arc<MomentSnapshot>, patience: Option<Duration>) {
        let anchor = moment.anchor;
        let now = anchor.wall(clock::now());
        let source = ReadingsSource {
            moment,
            facts: Arc::clone(&self.facts),
            usage: ProcessUsage::read(),
            export_losses: self.losses.as_ref().map(ExportLosses::get),
        };
        let request = metrics::request(&source.readings(), &self.resource, self.starts, now);
        let delivered = self.delivery.deliver(request.encode_to_vec(), patience, LATER_TOTALS).await;
        let Delivered::Accepted(ExportMetricsServiceResponse { partial_success: Some(partial) }) = delivered else {
            return;
        };
        self.delivery.partly(partial.rejected_data_points, &partial.error_message);
    }
}
