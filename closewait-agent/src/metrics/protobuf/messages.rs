//! Messages of `io.prometheus.client` (`metrics.proto` of prometheus/client_model 0.6), as far as the page of metrics needs them.
//!
//! All fields are optional there. Those that have a value are sent even if it is 0, because readers may ask whether they are there.

use prost::Message;

/// `MetricFamily`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FamilyMessage {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) help: Option<String>,
    #[prost(enumeration = "TypeMessage", optional, tag = "3")]
    pub(super) kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metrics: Vec<SeriesMessage>,
    #[prost(string, optional, tag = "5")]
    pub(super) unit: Option<String>,
}

/// `MetricType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum TypeMessage {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

/// `Metric`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SeriesMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelMessage>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<NumberMessage>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<NumberMessage>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<HistogramMessage>,
}

/// `LabelPair`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(super) struct LabelMessage {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

/// `Gauge` and `Counter`, which have the same field here.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct NumberMessage {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

/// `Histogram`: a classic one (tags up to 3), and a native one (from 5 on).
#[derive(Clone, PartialEq, Message)]
pub(super) struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) buckets: Vec<BucketMessage>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(super) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) spans: Vec<SpanMessage>,
    /// Difference of each bucket's count from that of the one before.
    #[prost(sint64, repeated, tag = "13")]
    pub(super) deltas: Vec<i64>,
}

/// `Bucket`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BucketMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(super) exemplar: Option<ExemplarMessage>,
}

/// `BucketSpan`: consecutive buckets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub(super) struct SpanMessage {
    /// Number of buckets between this span and the one before; of the first one, the index of its first bucket.
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

/// `Exemplar`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExemplarMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelMessage>,
    #[prost(double, optional, tag = "2")]
    pub(super) value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(super) timestamp: Option<TimestampMessage>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub(super) struct TimestampMessage {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}
