//! Metrics of a running agent: one table, numbers of the engine, and their encodings.
//!
//! | file | content |
//! |---|---|
//! | `table` | the only list of metrics: name, kind, unit, help, labels, and the names for OTLP |
//! | `readings` | values of all metrics, made from the engine's `MetricsSnapshot`; independent of any format |
//! | `prometheus` | the format that a scraper accepts; readings as text: OpenMetrics 1.0 and the older text format |
//! | `protobuf` | readings in Prometheus' protobuf format, with native histograms |
//! | `feed` | requests to the event loop for readings: one at a time, with a time limit |
//! | `address`, `server` | the HTTP server of `--listen`, on its own thread |
//! | `places` | connections of the server: who has to leave when there are too many |
//! | `losses` | count of what the export over OTLP dropped |
//! | `usage` | CPU time and memory of this process |
//! | `page` | `docs/metrics.md`, made from the table |

mod address;
mod feed;
mod losses;
#[cfg(test)]
mod page;
mod places;
pub mod prometheus;
mod protobuf;
pub mod readings;
mod server;
pub mod table;
mod usage;

pub(crate) use self::feed::{Requester, SharedRequests, channel as request_channel};
pub use self::{
    address::{BindError, ListenAddress, MetricsListener},
    feed::{MetricsFeed, MetricsRequest, MomentSnapshot},
    losses::ExportLosses,
    readings::AgentFacts,
    server::MetricsServer,
    usage::ProcessUsage,
};
