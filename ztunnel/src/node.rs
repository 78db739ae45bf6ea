//! What all workers share: configuration snapshot, identities, pods and records.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use model::{Index, Workload};
use telemetry::Telemetry;
use tokio::{sync::watch, time::timeout};
use xds::client::Changes;

use crate::{
    config::DataConfig,
    control::Identities,
    pod::{Pod, Pods, Registry},
};

/// How far the daemon is towards its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    /// Nothing new is taken; what is open may end by itself.
    Draining,
    /// What is still open is cut.
    Cut,
}

/// How long a connection waits for its pod's workload to arrive from the controller, as in
/// Istio's ztunnel: a pod can be faster than its configuration.
const WORKLOAD_DEADLINE: Duration = Duration::from_secs(5);

/// The node's shared state.
pub(crate) struct Node {
    pub(crate) config: DataConfig,
    pub(crate) identities: Identities,
    pub(crate) pods: Registry,
    pub(crate) telemetry: Telemetry,
    index: Arc<ArcSwap<Index>>,
    xds: xds::client::Handle,
    stage: watch::Receiver<Stage>,
}

impl Node {
    pub(crate) fn new(
        config: DataConfig,
        identities: Identities,
        telemetry: Telemetry,
        index: Arc<ArcSwap<Index>>,
        xds: xds::client::Handle,
        stage: watch::Receiver<Stage>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            identities,
            pods: Registry::default(),
            telemetry,
            index,
            xds,
            stage,
        })
    }

    /// The configuration as it is now; to be held briefly, never across a wait.
    pub(crate) fn index(&self) -> Guard<Arc<Index>> {
        self.index.load()
    }

    pub(crate) fn pods(&self) -> Guard<Arc<Pods>> {
        self.pods.load()
    }

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }

    /// What changes in the configuration from now on.
    pub(crate) fn changes(&self) -> Changes {
        self.xds.changes()
    }

    /// The workload of an enrolled pod, once the controller has told of it.
    pub(crate) async fn workload_of(&self, pod: &Pod) -> Option<Arc<Workload>> {
        let find = || pod.workload(&self.index(), &self.config.network).cloned();
        if let Some(found) = find() {
            return Some(found);
        }
        let mut changes = self.changes();
        let arrives = async {
            loop {
                if let Some(found) = find() {
                    return Some(found);
                }
                changes.next().await?;
            }
        };
        timeout(WORKLOAD_DEADLINE, arrives).await.ok().flatten()
    }

    /// The workload that has an address on this node's network.
    pub(crate) fn workload_at(&self, ip: IpAddr) -> Option<Arc<Workload>> {
        self.index().workload_at(&self.config.network, ip).cloned()
    }
}
