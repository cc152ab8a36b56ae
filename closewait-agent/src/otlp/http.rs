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

use super::settings::SignalSettings;
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
    /// The collector took it. Contains the body of the response; empty if it did not arrive completely, or is too long.
    Accepted(Bytes),
    /// Another attempt may succeed.
    Retry {
        /// Reason, for people.
        why: String,
        /// Delay that the collector asks for.
        after: Option<Duration>,
    },
    /// The collector will not take it. Contains the reason, for people.
    Refused(String),
}

/// Error of a response, `google.rpc.Status` without its details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Sends one request. Dropping the future closes the connection.
pub(super) async fn post(settings: &SignalSettings, body: Bytes) -> PostOutcome {
    let deadline = Instant::now() + settings.timeout;
    let again = |why: String| {
        // A server of gRPC closes the connection, or waits for a preface of HTTP/2.
        let grpc = " (port 4317 is usually gRPC; OTLP over HTTP is usually on port 4318)";
        PostOutcome::Retry { why: if settings.url.port == GRPC_PORT { why + grpc } else { why }, after: None }
    };
    let mut connection = JoinSet::new();
    let response = match timeout_at(deadline, respond(settings, body, &mut connection)).await {
        Ok(Ok(response)) => response,
        Ok(Err(why)) => return again(why),
        Err(_) => return again(format!("no response within {}", humantime::format_duration(settings.timeout))),
    };
    let (status, after) = (response.status(), retry_after(response.headers()));
    let is_protobuf = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf");
    let body = timeout_at(deadline, Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if status.is_success() {
        return PostOutcome::Accepted(body);
    }
    let details = is_protobuf.then(|| RpcStatus::decode(body).ok()).flatten().map(|status| status.message);
    let details = details.filter(|text| !text.is_empty()).map(|text| format!(": {}", shown(&text)));
    let why = format!("the collector answered {}{}", status.as_u16(), details.unwrap_or_default());
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => PostOutcome::Retry { why, after },
        _ if status.is_redirection() => PostOutcome::Refused(format!("{why}, and redirects are not followed")),
        _ => PostOutcome::Refused(why),
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

/// Returns a text of the collector as it can be shown to people.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_TEXT_CHARS).collect();
    harmless(short.as_bytes())
}
