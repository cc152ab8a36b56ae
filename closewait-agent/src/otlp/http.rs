//! One request to a collector, and the meaning of the response.
//!
//! Each request has its own connection. An idle one would be in CLOSE_WAIT here when the collector closes it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::settings::{SecretHeaders, SignalSettings};
use crate::clock::{self, TimeAnchor};
use closewait_engine::text::harmless;

/// Maximum number of bytes of a response's body that are read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// Maximum number of bytes of a response's status line and headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Maximum number of headers of a response.
const MAX_HEADERS: usize = 64;
/// Usual port of OTLP over gRPC, which this exporter does not speak.
const GRPC_PORT: u16 = 4317;
/// Maximum length of a text from the collector in a message, characters.
const MAX_TEXT_CHARS: usize = 200;

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PostOutcome {
    /// The collector took it. Contains the body of the response.
    Accepted(Bytes),
    /// Another attempt may succeed.
    Retry {
        why: PostFailure,
        /// Delay that the collector asks for.
        after: Option<Duration>,
    },
    /// The collector will not take it, or it is unknown whether it has taken it.
    Refused(PostFailure),
}

/// Reason for a failed request, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PostFailure {
    pub(super) cause: String,
    /// Next step.
    pub(super) hint: &'static str,
}

/// Error of a response, `google.rpc.Status` without its details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Sends one request, and waits for the response until its time limit or `end`. Dropping the future closes the connection.
pub(super) async fn post(settings: &SignalSettings, body: Bytes, end: Option<Instant>) -> PostOutcome {
    let began = Instant::now();
    let deadline = end.map_or(began + settings.timeout, |end| end.min(began + settings.timeout));
    let again = |cause: String| {
        // A server of gRPC closes the connection, or waits for a preface of HTTP/2.
        let hint = if settings.url.port == GRPC_PORT {
            "port 4317 is usually gRPC: name the port for OTLP over HTTP, usually 4318"
        } else {
            "check that the collector runs, and that it listens at this address"
        };
        PostOutcome::Retry { why: PostFailure { cause, hint }, after: None }
    };
    // Without nanoseconds, for people.
    let limit = deadline - began;
    let limit = humantime::format_duration(limit - Duration::from_nanos(u64::from(limit.subsec_nanos() % 1_000_000)));
    let mut connection = JoinSet::new();
    let response = match timeout_at(deadline, respond(settings, body, &mut connection)).await {
        Ok(Ok(response)) => response,
        Ok(Err(cause)) => return again(cause),
        Err(_) => return again(format!("no response within {}", limit)),
    };
    let (status, after) = (response.status(), retry_after(response.headers()));
    let kind = BodyKind::of(response.headers());
    let body = match timeout_at(deadline, Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(format!("its response broke off, or is longer than {} KiB", MAX_RESPONSE_BYTES / 1024)),
        Err(_) => Err(format!("its response did not end within {}", limit)),
    };
    if status.is_success() {
        return match (body, kind) {
            (Err(cause), _) => PostOutcome::Refused(no_collector(&cause)),
            (Ok(body), kind) if is_page(kind, &body) => {
                PostOutcome::Refused(no_collector("its response is a web page"))
            }
            // A collector that answers in another format tells nothing that the agent needs.
            (Ok(body), kind) => PostOutcome::Accepted(if kind == BodyKind::Protobuf { body } else { Bytes::new() }),
        };
    }
    let details = (kind == BodyKind::Protobuf).then(|| RpcStatus::decode(body.ok()?).ok()).flatten();
    let details = details.map(|status| status.message).filter(|text| !text.is_empty());
    let details = details.map(|text| format!(": {}", shown(&text, &settings.headers))).unwrap_or_default();
    let cause = format!("the collector answered {}{details}", status.as_u16());
    let why = PostFailure { cause, hint: hint(status) };
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => PostOutcome::Retry { why, after },
        _ => PostOutcome::Refused(why),
    }
}

/// Returns the reason for a success that cannot be believed. Another attempt could store the same twice.
pub(super) fn no_collector(what: &str) -> PostFailure {
    PostFailure {
        cause: format!(
            "the collector answered with a success, but {what}, so it is unknown whether it took the request"
        ),
        hint: "check the URL: perhaps another server, or a proxy, answers in place of the collector",
    }
}

/// Format of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyKind {
    /// That of OTLP.
    Protobuf,
    /// Page for a browser, which no collector sends.
    Page,
    Other,
}

impl BodyKind {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/x-protobuf" => Self::Protobuf,
            "text/html" | "application/xhtml+xml" => Self::Page,
            _ => Self::Other,
        }
    }
}

/// Whether a response is a page for a browser: a server may leave out its type.
fn is_page(kind: BodyKind, body: &[u8]) -> bool {
    match kind {
        BodyKind::Protobuf => false,
        BodyKind::Page => !body.is_empty(),
        BodyKind::Other => body.trim_ascii_start().starts_with(b"<"),
    }
}

/// Returns the next step after a response with an error.
fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            "check the URL: a collector usually takes /v1/metrics and /v1/logs, which the agent appends to the endpoint"
        }
        StatusCode::PAYLOAD_TOO_LARGE => "raise the maximum size of a request in the collector's settings",
        _ if status.is_redirection() => "name the final URL: the agent follows no redirection",
        _ => "check the log of the collector",
    }
}

async fn respond(
    settings: &SignalSettings,
    body: Bytes,
    connection: &mut JoinSet<()>,
) -> Result<Response<Incoming>, String> {
    let url = &settings.url;
    // The name is looked up on a thread of the runtime.
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
    let stream = stream.map_err(|error| format!("connecting failed: {error}"))?;
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS);
    let failed = |error: hyper::Error| format!("the connection failed: {error}");
    let (mut sender, driver) = http.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    connection.spawn(async move {
        // An error of the connection is one of the request, too.
        drop(driver.await);
    });
    let mut request = Request::post(url.path.as_str()).body(Full::new(body)).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("OTel-OTLP-Exporter-closewait/", env!("CARGO_PKG_VERSION"))),
    );
    for (name, value) in &settings.headers.0 {
        headers.insert(name, value.clone());
    }
    let authority = HeaderValue::from_str(&url.authority).map_err(|error| error.to_string())?;
    headers.insert(HOST, authority);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    if settings.gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    sender.send_request(request).await.map_err(failed)
}

/// Returns the delay in `Retry-After`: seconds, or an HTTP date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = TimeAnchor::now().wall(clock::now());
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

/// Returns a text of the collector as it can be shown to people: not at all if it repeats a part of a header, which may be secret.
pub(super) fn shown(text: &str, headers: &SecretHeaders) -> String {
    if headers.are_in(text) {
        return "its text is not shown: it repeats a part of a header".to_owned();
    }
    let short: String = text.chars().take(MAX_TEXT_CHARS).collect();
    harmless(short.as_bytes())
}
