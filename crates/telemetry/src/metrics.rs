//! The metrics that are not about a connection: the control plane, the pods, the process, and
//! how long things take. Names of the first three are Istio's, the others begin with `ambit_`.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::process;

/// Which side of a connection did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Why a connection to the controller ended. The words are Istio's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdsTermination {
    /// It could not be established.
    ConnectionError,
    /// It broke.
    Error,
    /// We ended it to connect anew.
    Reconnect,
    /// The controller ended it.
    Complete,
}

impl XdsTermination {
    fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// A worker's tunnels, as they are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolGauges {
    pub connections: usize,
    pub streams: usize,
    /// Connections under way.
    pub connecting: usize,
}

/// From 100 us to 13 s.
const BUCKETS: [f64; 12] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 13.0,
];

/// Metrics with a setter for each thing that the daemon tells.
pub struct Metrics {
    registry: Registry,
    build: IntGaugeVec,
    xds_terminations: IntCounterVec,
    xds_messages: IntCounterVec,
    xds_bytes: IntCounterVec,
    pods: IntGauge,
    pods_pending: IntGauge,
    pods_started: IntCounter,
    pods_stopped: IntCounter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    handshakes: HistogramVec,
    connects: HistogramVec,
    tunnel_opens: Histogram,
    pools: Pools,
    log_dropped: IntGauge,
    older: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let make = Maker(&registry);
        Self {
            build: make.gauges(
                "istio_build",
                "Version of this daemon.",
                &["component", "tag"],
            ),
            xds_terminations: make.counters(
                "istio_xds_connection_terminations_total",
                "Connections to the controller that ended.",
                &["reason"],
            ),
            xds_messages: make.counters(
                "istio_xds_message_total",
                "Messages received from the controller.",
                &["url"],
            ),
            xds_bytes: make.counters(
                "istio_xds_message_bytes_total",
                "Bytes of messages received from the controller.",
                &["url"],
            ),
            pods: make.gauge(
                "workload_manager_active_proxy_count",
                "Pods that are served.",
            ),
            pods_pending: make.gauge(
                "workload_manager_pending_proxy_count",
                "Pods that are enrolled but not served yet.",
            ),
            pods_started: make.counter(
                "workload_manager_proxies_started_total",
                "Pods taken into service.",
            ),
            pods_stopped: make.counter(
                "workload_manager_proxies_stopped_total",
                "Pods taken out of service.",
            ),
            open_fds: make.gauge("process_open_fds", "Open file descriptors."),
            max_fds: make.gauge("process_max_fds", "Limit of open file descriptors."),
            handshakes: make.histograms(
                "ambit_tls_handshake_duration_seconds",
                "Time of a TLS handshake.",
                &["direction", "result"],
            ),
            connects: make.histograms(
                "ambit_connect_duration_seconds",
                "Time of a TCP connect: to another node outbound, to the application inbound.",
                &["direction", "result"],
            ),
            tunnel_opens: make.histogram(
                "ambit_tunnel_open_duration_seconds",
                "Time from the decision to tunnel to the far side's answer.",
            ),
            pools: Pools::new(&make),
            log_dropped: make.gauge(
                "ambit_log_lines_dropped",
                "Log lines dropped because the log was not read fast enough.",
            ),
            older: make.gauge(
                "ambit_connections_before_enrolment",
                "Open connections of pods that are older than their enrolment: not protected.",
            ),
            registry,
        }
    }

    /// Which program this is, in which version.
    pub fn build(&self, component: &str, version: &str) {
        self.build.with_label_values(&[component, version]).set(1);
    }

    /// A message of this type URL came from the controller.
    pub fn xds_message(&self, url: &str, bytes: usize) {
        self.xds_messages.with_label_values(&[url]).inc();
        self.xds_bytes
            .with_label_values(&[url])
            .inc_by(bytes as u64);
    }

    /// A connection to the controller ended.
    pub fn xds_terminated(&self, reason: XdsTermination) {
        self.xds_terminations
            .with_label_values(&[reason.as_str()])
            .inc();
    }

    /// How many pods are served, and how many wait to be.
    pub fn pods(&self, active: usize, pending: usize) {
        self.pods.set(gauge(active));
        self.pods_pending.set(gauge(pending));
    }

    /// A pod was taken into service.
    pub fn pod_started(&self) {
        self.pods_started.inc();
    }

    /// A pod was taken out of service.
    pub fn pod_stopped(&self) {
        self.pods_stopped.inc();
    }

    /// A TLS handshake ended.
    pub fn handshake<T, E>(&self, direction: Direction, took: Duration, result: &Result<T, E>) {
        let labels = [direction.as_str(), word(result)];
        self.handshakes
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// A TCP connect ended.
    pub fn connect<T, E>(&self, direction: Direction, took: Duration, result: &Result<T, E>) {
        let labels = [direction.as_str(), word(result)];
        self.connects
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// A tunnel was opened, from a shared connection or through a new one.
    pub fn tunnel_opened(&self, took: Duration) {
        self.tunnel_opens.observe(took.as_secs_f64());
    }

    /// The tunnels of a worker.
    pub fn pool(&self, worker: usize, pool: PoolGauges) {
        let worker = [worker.to_string()];
        self.pools
            .connections
            .with_label_values(&worker)
            .set(gauge(pool.connections));
        self.pools
            .streams
            .with_label_values(&worker)
            .set(gauge(pool.streams));
        self.pools
            .connecting
            .with_label_values(&worker)
            .set(gauge(pool.connecting));
    }

    /// Lines the log has dropped since the start.
    pub fn log_lines_dropped(&self, dropped: u64) {
        self.log_dropped
            .set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }

    /// Connections that are open and older than their pod's enrolment.
    pub fn connections_before_enrolment(&self, open: usize) {
        self.older.set(gauge(open));
    }

    pub(crate) fn expose(&self, text: &mut String) {
        if let Some(open) = process::open_fds() {
            self.open_fds.set(gauge(open));
        }
        if let Some(limit) = process::max_fds() {
            self.max_fds.set(i64::try_from(limit).unwrap_or(i64::MAX));
        }
        TextEncoder::new()
            .encode_utf8(&self.registry.gather(), text)
            .expect("families made by this crate can be encoded");
    }
}

/// Gauges of the tunnel pools, by worker.
struct Pools {
    connections: IntGaugeVec,
    streams: IntGaugeVec,
    connecting: IntGaugeVec,
}

impl Pools {
    fn new(make: &Maker<'_>) -> Self {
        let gauges = |name, help| make.gauges(name, help, &["worker"]);
        Self {
            connections: gauges("ambit_pool_connections", "Connections that tunnels share."),
            streams: gauges("ambit_pool_streams", "Open tunnels."),
            connecting: gauges("ambit_pool_connecting", "Connections under way."),
        }
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn word<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}

/// Makes metrics that are registered. Names are constants of this file, each there once, so
/// making one cannot fail.
struct Maker<'a>(&'a Registry);

const SOUND: &str = "metric names are valid and unique";

impl Maker<'_> {
    fn registered<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<M>,
    ) -> M {
        let metric = made.expect(SOUND);
        self.0.register(Box::new(metric.clone())).expect(SOUND);
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered(Histogram::with_opts(options))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered(HistogramVec::new(options, labels))
    }
}
