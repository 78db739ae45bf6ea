//! Hop 2: a pod of this node, and what the daemon holds in its name.
//!
//! A pod's listeners belong to one worker; what they accept is dealt to all ([`accept`]).

pub(crate) mod accept;
mod budget;
mod registry;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) use budget::{Budget, OverBudget, Ticket};
use model::{Index, Network, Workload};
pub(crate) use registry::{Pods, Registry};
use tokio::sync::watch;

/// Where a pod is in its life with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Captured and served.
    Serving,
    /// Un-enrolled: new connections go direct, tunnels that others still have are served.
    Leaving,
    /// Listeners are closed once their queues are empty; what is open goes on.
    Closing,
    /// Gone: everything is cut.
    Gone,
}

/// An enrolled pod.
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) sockets: redirect::PodSockets,
    pub(crate) budget: Budget,
    streams: AtomicUsize,
    phase: watch::Sender<Phase>,
}

impl Pod {
    pub(crate) fn new(
        name: PodName,
        addresses: Vec<IpAddr>,
        sockets: redirect::PodSockets,
        budget: Budget,
    ) -> Arc<Self> {
        Arc::new(Self {
            uid: name.uid,
            namespace: name.namespace,
            name: name.name,
            addresses,
            sockets,
            budget,
            streams: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Serving),
        })
    }

    /// The pod's workload, when the address it is known under still names this very pod.
    pub(crate) fn workload<'index>(
        &self,
        index: &'index Index,
        network: &Network,
    ) -> Option<&'index Arc<Workload>> {
        self.addresses
            .iter()
            .filter_map(|ip| index.workload_at(network, *ip))
            .find(|held| held.name == self.name && held.namespace == self.namespace)
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Resolves when the pod is gone: nothing may hold its network namespace any longer.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let mut phase = self.phase();
        async move {
            // An error means that the pod itself is dropped.
            drop(phase.wait_for(|phase| *phase == Phase::Gone).await);
        }
    }

    /// Moves on; a pod never goes back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Tunnelled connections to the pod that are open now.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Counts one tunnelled connection for as long as the guard lives.
    pub(crate) fn stream(self: &Arc<Self>) -> StreamGuard {
        self.streams.fetch_add(1, Ordering::Relaxed);
        StreamGuard(self.clone())
    }
}

/// The names of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodName {
    pub(crate) uid: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// The two addresses of a connection as it was accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// One open tunnelled connection.
pub(crate) struct StreamGuard(Arc<Pod>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
