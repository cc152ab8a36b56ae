//! HTTP server of `--listen`, on its own thread with its own runtime: no client can hold up the event loop.
//!
//! Each connection carries one request without a body, and ends after it. Everything is bounded: connections and answers
//! ([`Places`]), header bytes, time for the headers, and time for the whole connection.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    address::{ListeningSocket, MetricsListener},
    feed::{self, MetricsFeed, MetricsRequest, MomentSnapshot, NoAnswer, Requester, SharedRequests},
    losses::ExportLosses,
    places::{ConnectionPlace, Places},
    prometheus::PageFormat,
    readings::{AgentFacts, ReadingsSource},
    usage::ProcessUsage,
};
use crate::{control::SocketFile, host::in_time::InTime};

/// Maximum length of the request line and headers of a request, bytes: the least that hyper allows.
const MAX_HEADER_BYTES: usize = 8192;
/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 32;
/// Maximum time for the headers of a request.
const HEADER_PATIENCE: Duration = Duration::from_secs(3);
/// Maximum time of a connection.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// Maximum time for the event loop to answer.
const LOOP_PATIENCE: Duration = Duration::from_secs(2);
/// Delay after a failure to accept a connection, for example without a free descriptor.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// Server of a running agent. Its thread ends with the process.
#[derive(Debug)]
pub struct MetricsServer {
    feed: MetricsFeed,
    /// File of a Unix socket; `None` once its removal has started.
    file: Option<SocketFile>,
    /// Thread that removes the file.
    leaving: Option<InTime<()>>,
}

impl MetricsServer {
    /// Starts the thread. `export_losses` counts the events that an exporter drops, if there is one.
    ///
    /// # Errors
    ///
    /// If the kernel refuses another thread or epoll instance.
    pub fn start(
        listener: MetricsListener,
        facts: AgentFacts,
        export_losses: Option<ExportLosses>,
    ) -> anyhow::Result<Self> {
        let address = listener.to_string();
        let MetricsListener { socket, file } = listener;
        let (requester, feed) = feed::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the loop that serves metrics failed\nhint: check the limit on open files (ulimit -n)")?;
        let serve = move || runtime.block_on(serve(socket, requester, facts, export_losses));
        thread::Builder::new().name("metrics".to_owned()).spawn(serve).context(
            "starting the thread that serves metrics failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
        )?;
        log::info!("serving metrics at {address}");
        Ok(Self { feed, file, leaving: None })
    }

    /// Returns the next request to the event loop. Cancel-safe: dropping the future loses nothing.
    pub async fn request(&mut self) -> MetricsRequest {
        self.feed.request().await
    }

    /// Starts the removal of the file of a Unix socket.
    pub fn close(&mut self) {
        let Some(Ok(leaving)) = self.file.take().map(SocketFile::begin_to_leave) else { return };
        self.leaving = Some(leaving);
    }

    /// Waits until the file is removed, at most for `patience`.
    pub fn finish(mut self, patience: Duration) {
        self.close();
        if let Some(Err(why)) = self.leaving.take().map(|leaving| leaving.wait(patience)) {
            log::warn!("the socket of --listen stays: {why}; the next agent removes it");
        }
    }
}

/// State that all connections share.
struct ServerState {
    snapshots: SharedRequests<Arc<MomentSnapshot>>,
    pings: SharedRequests<()>,
    facts: Arc<AgentFacts>,
    export_losses: Option<ExportLosses>,
    /// Whether the event loop has answered once.
    is_ready: AtomicBool,
    /// Whether clients connect over TCP, where a browser can, too.
    is_tcp: bool,
    /// Last page: scrapers that get the same numbers share its memory.
    last_page: Mutex<Option<(Arc<MomentSnapshot>, PageFormat, Bytes)>>,
}

async fn serve(socket: ListeningSocket, requester: Requester, facts: AgentFacts, export_losses: Option<ExportLosses>) {
    let shared = Arc::new(ServerState {
        snapshots: requester.shared(MetricsRequest::Snapshot),
        pings: requester.shared(MetricsRequest::Ping),
        facts: Arc::new(facts),
        export_losses,
        is_ready: AtomicBool::new(false),
        is_tcp: matches!(socket, ListeningSocket::Tcp(_)),
        last_page: Mutex::new(None),
    });
    let failed = |error| log::error!("metrics cannot be served: epoll_ctl failed: {error}");
    match socket {
        ListeningSocket::Tcp(listener) => match TcpListener::from_std(listener) {
            Ok(listener) => accept_all(async || Ok(listener.accept().await?.0), &shared).await,
            Err(error) => failed(error),
        },
        ListeningSocket::Unix(listener) => match UnixListener::from_std(listener) {
            Ok(listener) => accept_all(async || Ok(listener.accept().await?.0), &shared).await,
            Err(error) => failed(error),
        },
    }
}

/// Serves the connections that `accept` returns.
async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    accept: impl AsyncFn() -> io::Result<S>,
    shared: &Arc<ServerState>,
) {
    let places = Places::new();
    loop {
        match accept().await {
            Ok(stream) => {
                let (place, leave) = places.take().await;
                begin(stream, place, leave, shared);
                // Whoever has sent a request gets its turn before the next connection takes its place.
                yield_now().await;
            }
            Err(error) => {
                log::debug!("accepting a client of --listen failed: {error}");
                // It may be a lack of descriptors.
                places.close_oldest();
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
}

/// Serves one connection in a task of its own, until it has to leave.
fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    place: ConnectionPlace,
    leave: oneshot::Receiver<()>,
    shared: &Arc<ServerState>,
) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let (shared, place) = (&shared, &place);
        let service = service_fn(move |request: Request<Incoming>| async move {
            place.begin_answer().await;
            let response = shared.respond(&request).await;
            place.send_answer();
            Ok::<_, Infallible>(response)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(MAX_HEADER_BYTES)
            .max_headers(MAX_HEADERS)
            // A client may say that it sends nothing more, and wait for the answer.
            .half_close(true)
            // One request per connection: an idle client holds no place.
            .keep_alive(false);
        let served = timeout(CONNECTION_PATIENCE, http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            served = served => match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("a client of --listen failed: {error}"),
                Err(_) => log::debug!("a client of --listen took too long"),
            },
            _ = leave => log::debug!("a client of --listen had to leave: others wait"),
        }
    });
}

impl ServerState {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if let Err((status, why)) = check(request, self.is_tcp) {
            let mut response = text(status, why);
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()).await,
            "/healthz" => self.alive(self.pings.ask(LOOP_PATIENCE).await),
            "/readyz" if self.is_ready.load(Ordering::Relaxed) => self.alive(Ok(())),
            "/readyz" => self.alive(self.pings.ask(LOOP_PATIENCE).await),
            _ => text(StatusCode::NOT_FOUND, "not found: this serves /metrics, /healthz and /readyz\n"),
        }
    }

    fn alive(&self, answer: Result<(), NoAnswer>) -> Response<Full<Bytes>> {
        match answer {
            Ok(()) => {
                self.is_ready.store(true, Ordering::Relaxed);
                text(StatusCode::OK, "ok\n")
            }
            Err(why) => unavailable(why),
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = PageFormat::negotiated(&accept.join(","));
        let moment = match self.snapshots.ask(LOOP_PATIENCE).await {
            Ok(moment) => moment,
            Err(why) => return unavailable(why),
        };
        let Some(page) = self.page(moment, format) else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "encoding the metrics failed: this is a bug in closewait\n",
            );
        };
        let mut response = Response::new(Full::new(page));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Returns the page of these numbers; `None` if the encoder fails.
    fn page(&self, moment: Arc<MomentSnapshot>, format: PageFormat) -> Option<Bytes> {
        let mut last = self.last_page.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, as_, page)) = &*last
            && Arc::ptr_eq(of, &moment)
            && *as_ == format
        {
            return Some(page.clone());
        }
        let source = ReadingsSource {
            moment: Arc::clone(&moment),
            facts: Arc::clone(&self.facts),
            usage: ProcessUsage::read(),
            export_losses: self.export_losses.as_ref().map(ExportLosses::get),
        };
        let page = format.page(source.readings()).ok()?;
        *last = Some((moment, format, page.clone()));
        Some(page)
    }
}

/// Checks a request. The error is a status and its reason.
fn check(request: &Request<Incoming>, is_tcp: bool) -> Result<(), (StatusCode, &'static str)> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible\n"));
    }
    if request.headers().contains_key(TRANSFER_ENCODING) || request.body().size_hint().upper() != Some(0) {
        return Err((StatusCode::BAD_REQUEST, "a request must not have a body\n"));
    }
    if is_tcp && !is_local_host(request.headers()) {
        let why =
            "the header Host must be an IP address or localhost: web pages must not read metrics through a browser\n";
        return Err((StatusCode::MISDIRECTED_REQUEST, why));
    }
    Ok(())
}

/// Whether the client has connected by an address or as `localhost`. A web page that lets its own name lead to this host, so that
/// the browser shows it the answers, has another.
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return headers.get(HOST).is_none() };
    let Ok(host) = host.to_str() else { return false };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.contains(':') => name,
        Some((name, port)) if is_port(port) && name.ends_with(']') => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn unavailable(why: NoAnswer) -> Response<Full<Bytes>> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        match why {
            NoAnswer::Late => "the event loop of the agent did not answer within 2s\n",
            NoAnswer::Full => "too many clients wait for the event loop of the agent\n",
            NoAnswer::Ending => "the agent ends\n",
        },
    )
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
