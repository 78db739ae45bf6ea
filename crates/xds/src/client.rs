//! Step 4, the holding end: keeps a daemon's [`Index`] equal to what the controller publishes.
//!
//! One task owns the stream and is the only writer of the index. It parses a push off the data
//! path, takes the good resources, refuses the bad ones by name and swaps in the new snapshot.
//! While the controller is away the last snapshot stands. Connecting, TLS and credentials are the
//! caller's.

mod backoff;
mod changes;
mod session;
mod state;
mod statistics;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use model::{Index, chain};
use prost_types::{Struct, Value, value::Kind};
use tokio::sync::{broadcast, watch};
use tonic::{metadata::MetadataMap, transport::Channel};
use tracing::warn;

pub use changes::{Changed, Changes};
pub use session::SessionError;
pub use statistics::{Statistics, Termination};

use crate::{BoxError, proto::discovery};
use backoff::Backoff;
use state::State;

/// Notices kept for a subscriber that is slow to read them; beyond, it is told that anything may
/// have changed.
const NOTICES: usize = 64;

/// How the daemon introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: String,
    pub metadata: BTreeMap<String, String>,
}

impl Node {
    /// The node of a ztunnel pod, by the name istiod expects. Metadata is added by the caller.
    pub fn ztunnel(ip: IpAddr, pod: &str, namespace: &str) -> Self {
        Self {
            id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: BTreeMap::new(),
        }
    }
}

impl From<&Node> for discovery::Node {
    fn from(node: &Node) -> Self {
        let value = |text: &String| Value {
            kind: Some(Kind::StringValue(text.clone())),
        };
        let fields = node
            .metadata
            .iter()
            .map(|(name, text)| (name.clone(), value(text)));
        Self {
            id: node.id.clone(),
            metadata: Some(Struct {
                fields: fields.collect(),
            }),
        }
    }
}

/// What the rest of the daemon sees of the client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    ready: watch::Receiver<bool>,
    changes: broadcast::WeakSender<changes::Notice>,
    statistics: Arc<Statistics>,
}

impl Handle {
    /// Both types were received in full once, and taken.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until [`is_ready`](Self::is_ready). Never resolves when the client ends before.
    pub async fn ready(&self) {
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending().await
        }
    }

    /// Notices of what changes from now on. A notice follows the swap of the index it tells of.
    pub fn changes(&self) -> Changes {
        Changes::new(self.changes.upgrade())
    }

    /// The counters of the client.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }
}

/// The client, not yet running.
pub struct Client {
    node: Node,
    index: Arc<ArcSwap<Index>>,
    state: State,
    ready: watch::Sender<bool>,
    changes: broadcast::Sender<changes::Notice>,
    statistics: Arc<Statistics>,
}

impl Client {
    /// A client that will keep `index`, which nobody else may write.
    pub fn new(node: Node, index: Arc<ArcSwap<Index>>) -> (Self, Handle) {
        let client = Self {
            node,
            index,
            state: State::default(),
            ready: watch::Sender::new(false),
            changes: broadcast::Sender::new(NOTICES),
            statistics: Arc::default(),
        };
        let handle = Handle {
            ready: client.ready.subscribe(),
            changes: client.changes.downgrade(),
            statistics: client.statistics.clone(),
        };
        (client, handle)
    }

    /// Connects, and connects again, for ever. `connect` makes a channel for each stream;
    /// `metadata` is asked for each stream too, so that a renewed token is picked up
    /// ([`crate::credentials`]).
    pub async fn run<Connect, Connecting, Metadata>(
        mut self,
        connect: Connect,
        metadata: Metadata,
    ) -> Infallible
    where
        Connect: Fn() -> Connecting,
        Connecting: Future<Output = Result<Channel, BoxError>>,
        Metadata: Fn() -> Result<MetadataMap, BoxError>,
    {
        let mut backoff = Backoff::default();
        loop {
            let mut synced = false;
            let ended = self.session(&connect, &metadata, &mut synced).await;
            if synced {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            self.statistics.terminated(Termination::of(&ended));
            match ended {
                Ok(()) => tracing::debug!(?delay, "the controller ended the xds stream"),
                Err(error) => warn!(error = %chain(&error), ?delay, "xds stream failed"),
            }
            tokio::time::sleep(delay).await;
        }
    }
}
