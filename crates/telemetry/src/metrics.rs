//! The metrics that are not about a connection: the control plane, the pods, the process, and
//! how long things take. Names of the first three are Istio's, the others begin with `ambit_`.

mod families;

use std::time::Duration;

use families::{Maker, Pods, Pools, Xds};
use prometheus::{Histogram, HistogramVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

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

/// A worker's tunnels, as they are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolGauges {
    pub connections: usize,
    pub streams: usize,
    /// Connections under way.
    pub connecting: usize,
}

/// Metrics with a setter for each thing that the daemon tells.
pub struct Metrics {
    registry: Registry,
    build: IntGaugeVec,
    xds: Xds,
    pods: Pods,
    open_fds: IntGauge,
    max_fds: IntGauge,
    handshakes: HistogramVec,
    connects: HistogramVec,
    tunnel_opens: Histogram,
    pools: Pools,
    log_dropped: IntGauge,
    older: IntGauge,
    redirected: IntGaugeVec,
}

/// What became of a pod's connections in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Redirected<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub direction: Direction,
    /// A word such as `captured` or `refused`.
    pub outcome: &'static str,
    /// Since the pod was enrolled.
    pub connections: u64,
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
            xds: Xds::new(&make),
            pods: Pods::new(&make),
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
            redirected: make.gauges(
                "ambit_redirect_connections",
                "Connections of a pod since it was enrolled, by what the kernel did with them.",
                &["namespace", "pod", "direction", "outcome"],
            ),
            registry,
        }
    }

    /// Which program this is, in which version.
    pub fn build(&self, component: &str, version: &str) {
        self.build.with_label_values(&[component, version]).set(1);
    }

    /// Messages and bytes received from the controller for one type, since the start.
    pub fn xds_received(&self, url: &str, messages: u64, bytes: u64) {
        bring_up(&self.xds.messages.with_label_values(&[url]), messages);
        bring_up(&self.xds.bytes.with_label_values(&[url]), bytes);
    }

    /// Streams to the controller that ended for `reason`, since the start. The words are Istio's.
    pub fn xds_terminations(&self, reason: &str, total: u64) {
        bring_up(&self.xds.terminations.with_label_values(&[reason]), total);
    }

    /// What became of all pods' connections in the kernel, as it is now.
    pub fn redirected<'a>(&self, rows: impl Iterator<Item = Redirected<'a>>) {
        self.redirected.reset();
        for row in rows {
            let labels = [row.namespace, row.pod, row.direction.as_str(), row.outcome];
            let connections = i64::try_from(row.connections).unwrap_or(i64::MAX);
            self.redirected.with_label_values(&labels).set(connections);
        }
    }

    /// How many pods are served, and how many wait to be.
    pub fn pods(&self, active: usize, pending: usize) {
        self.pods.active.set(gauge(active));
        self.pods.pending.set(gauge(pending));
    }

    /// A pod was taken into service.
    pub fn pod_started(&self) {
        self.pods.started.inc();
    }

    /// A pod was taken out of service.
    pub fn pod_stopped(&self) {
        self.pods.stopped.inc();
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

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn word<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}

/// Counters that others keep are brought up to date when they are read.
fn bring_up(counter: &prometheus::IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
