//! Groups of metrics, and how a metric is made and registered.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// From 100 us to 13 s.
const BUCKETS: [f64; 12] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 13.0,
];

/// Counters of what comes from the controller.
pub(super) struct Xds {
    pub(super) terminations: IntCounterVec,
    pub(super) messages: IntCounterVec,
    pub(super) bytes: IntCounterVec,
}

impl Xds {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        Self {
            terminations: make.counters(
                "istio_xds_connection_terminations_total",
                "Connections to the controller that ended.",
                &["reason"],
            ),
            messages: make.counters(
                "istio_xds_message_total",
                "Messages received from the controller.",
                &["url"],
            ),
            bytes: make.counters(
                "istio_xds_message_bytes_total",
                "Bytes of messages received from the controller.",
                &["url"],
            ),
        }
    }
}

/// How many pods are served, and have been.
pub(super) struct Pods {
    pub(super) active: IntGauge,
    pub(super) pending: IntGauge,
    pub(super) started: IntCounter,
    pub(super) stopped: IntCounter,
}

impl Pods {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        let name = |rest| format!("workload_manager_{rest}");
        Self {
            active: make.gauge(&name("active_proxy_count"), "Pods that are served."),
            pending: make.gauge(
                &name("pending_proxy_count"),
                "Pods enrolled but not served yet.",
            ),
            started: make.counter(&name("proxies_started_total"), "Pods taken into service."),
            stopped: make.counter(&name("proxies_stopped_total"), "Pods taken out of service."),
        }
    }
}

/// Gauges of the tunnel pools, by worker.
pub(super) struct Pools {
    pub(super) connections: IntGaugeVec,
    pub(super) streams: IntGaugeVec,
    pub(super) connecting: IntGaugeVec,
}

impl Pools {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        let gauges = |name, help| make.gauges(name, help, &["worker"]);
        Self {
            connections: gauges("ambit_pool_connections", "Connections that tunnels share."),
            streams: gauges("ambit_pool_streams", "Open tunnels."),
            connecting: gauges("ambit_pool_connecting", "Connections under way."),
        }
    }
}

/// Makes metrics that are registered. Names are constants of this file, each there once, so
/// making one cannot fail.
pub(super) struct Maker<'a>(pub(super) &'a Registry);

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

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered(Histogram::with_opts(options))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered(HistogramVec::new(options, labels))
    }
}
