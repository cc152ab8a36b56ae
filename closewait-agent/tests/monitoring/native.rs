//! Debian's Prometheus (`.ci/packages engines`) scrapes an agent's page, with native histograms and without: quantiles of native
//! histograms are as near to the dwell times as documented, and everything else is the same.
//!
//! CI sets `CLOSEWAIT_REQUIRE_ENGINES=1`: then a missing Prometheus is a failure.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use closewait::{
    clock::{self, TimeAnchor},
    metrics::{AgentFacts, ListenAddress, MetricsRequest, MetricsServer, MomentSnapshot},
};
use closewait_common::histogram::{BUCKETS, index};
use closewait_engine::{
    Config, Engine,
    model::{Counters, Observation},
    snapshot::{
        exits::{DwellExemplar, exponential::MAX_ERROR},
        metrics::{GroupLabels, MetricPlace, MetricsSnapshot, StuckNumbers},
    },
    time::BootTime,
};
use serde_json::Value;
use tests_support::{clock::poll_until, engine::has_engine, http};
use tokio::sync::oneshot;

/// Maximum time until Prometheus starts, or has scraped what it should.
const PATIENCE: Duration = Duration::from_secs(60);
/// Name that tries to end its label and its line.
const HOSTILE: &str = "a\"} 1\nb\\\u{202e}é";
/// Metric of the dwell times.
const DWELL: &str = "closewait_dwell_seconds";

/// Returns the numbers of an agent of a kernel that counted these dwell times, with a group that has a hostile name.
fn numbers(dwells: &[Duration]) -> MetricsSnapshot {
    let mut counters = Counters { dwell: vec![0; BUCKETS], ..Counters::default() };
    for dwell in dwells {
        counters.dwell[index(u64::try_from(dwell.as_nanos()).expect("a dwell time"))] += 1;
    }
    let at = clock::now();
    let mut engine = Engine::new(Config::default(), at);
    engine.handle(Observation::Counters { at, counters: Box::new(counters) });
    let mut numbers = engine.metrics(at);
    let group = GroupLabels { service: Some(HOSTILE.to_owned()), place: MetricPlace::Port(80) };
    numbers.stuck.each.push((group, StuckNumbers { stuck: 7, oldest: Some(BootTime(1_500_000_000)) }));
    // An example in the bucket of 100 ms.
    let dwell = Duration::from_millis(70);
    numbers.dwell.exemplars[2] = Some(DwellExemplar { cookie: 4711, netns: Some(42), dwell, at });
    numbers
}

/// Agent's server, on a thread of its own.
struct Served {
    address: SocketAddr,
    moment: Arc<Mutex<Arc<MomentSnapshot>>>,
    stop: Option<oneshot::Sender<()>>,
    event_loop: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn start(dwells: &[Duration]) -> Self {
        let listener = ListenAddress::Tcp("127.0.0.1:0".parse().expect("an address")).bind().expect("a listener");
        let address = listener.local_address().expect("an address");
        let mut server = MetricsServer::start(listener, AgentFacts::default(), None).expect("a server");
        let moment = Arc::new(Mutex::new(moment(dwells)));
        let shown = Arc::clone(&moment);
        let (stop, mut stopped) = oneshot::channel::<()>();
        let event_loop = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = &mut stopped => break,
                        request = server.request() => match request {
                            MetricsRequest::Snapshot(reply) => {
                                drop(reply.send(Arc::clone(&shown.lock().expect("no panic"))));
                            }
                            MetricsRequest::Ping(reply) => drop(reply.send(())),
                        },
                    }
                }
            });
            server.finish(Duration::from_secs(2));
        });
        Self { address, moment, stop: Some(stop), event_loop: Some(event_loop) }
    }

    /// Shows other dwell times from now on.
    fn show(&self, dwells: &[Duration]) {
        *self.moment.lock().expect("no panic") = moment(dwells);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _panicked = self.event_loop.take().map(thread::JoinHandle::join);
    }
}

fn moment(dwells: &[Duration]) -> Arc<MomentSnapshot> {
    Arc::new(MomentSnapshot { numbers: numbers(dwells), anchor: TimeAnchor::now() })
}

/// Running Prometheus on loopback, which scrapes an agent every second.
struct Prometheus {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts it with these features; `None` if it is not installed.
    fn start(agent: SocketAddr, features: &str) -> Option<Self> {
        let is_there = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !has_engine("prometheus", is_there.is_ok()) {
            return None;
        }
        // Free at this moment: it takes no port 0.
        let port = http::free_port().expect("a port");
        let folder = env::temp_dir().join(format!("closewait-native-{}-{port}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        let config = folder.join("config.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [{{ job_name: closewait, static_configs: [{{ targets: ['{agent}'] }}] }}]\n"
        );
        fs::write(&config, text).expect("a file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg(format!("--enable-feature={features}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).expect("a log"))
            .spawn()
            .expect("Prometheus");
        let server = Self { child, port, folder };
        server.wait("it does not answer", || server.get("/-/ready").is_some());
        Some(server)
    }

    fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(poll_until(PATIENCE, done), "Prometheus: {what}: {}", log());
    }

    /// Returns the body of an answer with status 200.
    fn get(&self, path: &str) -> Option<String> {
        http::get(self.port, path).ok()
    }

    fn data(&self, path: &str, query: &str) -> Value {
        let encoded = http::percent_encoded(query);
        let answer = self.get(&format!("/api/v1/{path}{encoded}")).unwrap_or_else(|| panic!("no answer to {query}"));
        serde_json::from_str::<Value>(&answer).expect("JSON")["data"].take()
    }

    /// Returns the samples of an expression by their labels.
    fn query(&self, expression: &str) -> BTreeMap<String, f64> {
        let data = self.data("query?query=", expression);
        let sample = |series: &Value| Some((series["metric"].to_string(), series["value"][1].as_str()?.parse().ok()?));
        data["result"].as_array().expect("series").iter().filter_map(sample).collect()
    }

    /// Returns the value of an expression; `None` without a series.
    fn number(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() <= 1, "{expression}: {found:?}");
        found.into_values().next()
    }

    /// Waits until a scrape has brought this number of dwell times.
    fn wait_for(&self, expression: &str, dwells: usize) {
        self.wait(&format!("{expression} is not {dwells}"), || self.number(expression) == Some(dwells as f64));
    }

    /// Checks quantiles of an expression against the dwell times themselves.
    fn check_quantiles(&self, expression: &str, dwells: &[Duration]) {
        let mut sorted: Vec<_> = dwells.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        for per_cent in [1_usize, 10, 25, 50, 75, 90, 99, 100] {
            let query = format!("histogram_quantile({}, {expression})", per_cent as f64 / 100.0);
            let found = self.number(&query).unwrap_or_else(|| panic!("{query} is empty"));
            // Between two values, either is right: versions of Prometheus differ.
            let rank = sorted.len() * per_cent;
            let (low, high) = (sorted[rank.div_ceil(100) - 1], sorted[(rank / 100).min(sorted.len() - 1)]);
            // The bucket of 0 ns ends at 2^-128 s.
            let is_near = found >= low * (1.0 - MAX_ERROR) && found <= (high * (1.0 + MAX_ERROR)).max(1e-38);
            assert!(is_near, "{query}: {found} s for {low} to {high} s");
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _unused = self.child.kill();
        let _unused = self.child.wait();
        let _unused = fs::remove_dir_all(&self.folder);
    }
}

/// Returns dwell times of equal ratios.
fn dwells(first: f64, ratio: f64, count: i32) -> Vec<Duration> {
    (0..count).map(|number| Duration::from_secs_f64(first * ratio.powi(number))).collect()
}

#[test]
fn quantiles_of_native_histograms_are_as_near_as_documented() {
    // From 20 µs to four days.
    let before = dwells(2e-5, 1.08, 310);
    let agent = Served::start(&before);
    let Some(prometheus) = Prometheus::start(agent.address, "native-histograms,exemplar-storage") else { return };
    let count = format!("histogram_count({DWELL})");
    prometheus.wait_for(&count, before.len());
    prometheus.check_quantiles(DWELL, &before);
    let sum: f64 = before.iter().map(Duration::as_secs_f64).sum();
    let found = prometheus.number(&format!("histogram_sum({DWELL})")).expect("a sum");
    assert!((found / sum - 1.0).abs() < 0.016, "{found} for {sum}");
    // The example arrives with the native histogram.
    let found = prometheus.data(&format!("query_exemplars?start=0&end={}&query=", u32::MAX), DWELL);
    let labels = &found[0]["exemplars"][0]["labels"];
    assert_eq!((labels["cookie"].as_str(), labels["netns"].as_str()), (Some("4711"), Some("42")), "{found}");
    // Later dwell times, some of them in new buckets: their quantiles alone.
    let later = [dwells(3e-4, 1.3, 30), dwells(40.0, 1.11, 57), vec![Duration::ZERO; 5]].concat();
    agent.show(&[&before[..], &later].concat());
    prometheus.wait_for(&count, before.len() + later.len());
    let increase = format!("increase({DWELL}[1m])");
    prometheus.wait("no increase", || prometheus.number(&format!("histogram_count({increase})")) > Some(0.0));
    prometheus.check_quantiles(&increase, &later);
    let fraction = prometheus.number(&format!("histogram_fraction(0, 1, {increase})")).expect("a fraction");
    let exact = later.iter().filter(|dwell| dwell.as_secs() == 0).count() as f64 / later.len() as f64;
    assert!((fraction - exact).abs() < 0.02, "{fraction} for {exact}");
}

#[test]
fn with_and_without_native_histograms_prometheus_has_the_same_series() {
    let dwells = dwells(2e-5, 1.3, 70);
    let agent = Served::start(&dwells);
    let Some(native) = Prometheus::start(agent.address, "native-histograms") else { return };
    let Some(classic) = Prometheus::start(agent.address, "exemplar-storage") else { return };
    native.wait_for(&format!("histogram_count({DWELL})"), dwells.len());
    classic.wait_for(&format!("{DWELL}_count"), dwells.len());
    // These differ from scrape to scrape.
    let others = format!("{{__name__=~\"closewait_.+\",__name__!~\"closewait_agent_(cpu|memory).*|{DWELL}.*\"}}");
    let (of_native, of_classic) = (native.query(&others), classic.query(&others));
    assert_eq!(of_native, of_classic);
    let hostile = |series: &String| serde_json::from_str::<Value>(series).expect("labels")["service"] == HOSTILE;
    assert_eq!(of_native.iter().filter(|(series, value)| hostile(series) && **value == 7.0).count(), 1);
    for name in ["closewait_agent_cpu_seconds_total", "closewait_agent_memory_bytes", "closewait_build_info"] {
        assert!(native.number(name).is_some() && classic.number(name).is_some(), "{name}");
    }
    // A Prometheus without the feature gets the classic buckets as before, and no other one does.
    assert_eq!(classic.number(DWELL), None);
    assert_eq!(classic.number(&format!("{DWELL}_bucket{{le=\"+Inf\"}}")), Some(dwells.len() as f64));
    assert_eq!(native.query(&format!("{{__name__=~\"{DWELL}_.+\"}}")), BTreeMap::new());
    for (of, quantile) in [(&native, DWELL.to_owned()), (&classic, format!("{DWELL}_bucket"))] {
        assert!(of.number(&format!("histogram_quantile(0.5, {quantile})")).is_some(), "{quantile}");
    }
}
