//! Hop 7 of 7: what the daemon tells of its connections and of itself, as metrics and logs.
//!
//! One [`Flow`] a connection feeds the access log and the `istio_tcp_*` metrics, so that they
//! cannot tell different stories. It decides nothing, and it never makes a worker wait: not for
//! a full pipe behind the log, not for a scrape.

mod access;
mod flow;
mod labels;
pub mod log;
mod metrics;
mod process;
mod traffic;

use std::sync::Arc;

pub use flow::{
    Claims, Flow, HboneAddr, OpenFlow, Outcome, Peer, Refusal, Reporter, ResponseFlag, Security,
    ServiceName, Who,
};
pub use metrics::{Direction, Metrics, PoolGauges, Redirected};
pub use traffic::Traffic;

/// All metrics of one daemon. Clones are handles of the same.
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

struct Shared {
    flows: traffic::Flows,
    metrics: Metrics,
}

impl Telemetry {
    /// Metrics that are all zero.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                flows: traffic::Flows::new(),
                metrics: Metrics::new(),
            }),
        }
    }

    /// The metrics that are not about connections.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Everything, in Prometheus' text format: the body of `/metrics` and `/stats/prometheus`.
    pub fn expose(&self) -> String {
        let mut text = self.shared.flows.expose();
        self.shared.metrics.expose(&mut text);
        text
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// The `content-type` of [`Telemetry::expose`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[cfg(test)]
mod tests;
