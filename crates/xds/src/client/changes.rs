//! Notices of what changed, for whoever acts on changes (closing connections that became denied,
//! fetching certificates, answering probes).

use std::sync::Arc;

use model::ResourceKey;
use tokio::sync::broadcast;

pub(super) type Notice = Arc<[ResourceKey]>;

/// What one swap of the index changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These resources were set or removed.
    Keys(Arc<[ResourceKey]>),
    /// Notices were missed: look at everything.
    Everything,
}

impl Changed {
    /// A policy may have changed, or which policies a workload names.
    pub fn policies(&self) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|key| match key {
                ResourceKey::Authorization(_) | ResourceKey::Workload(_) => true,
                ResourceKey::Service(_) => false,
            }),
            Self::Everything => true,
        }
    }
}

/// A stream of [`Changed`].
#[derive(Debug)]
pub struct Changes(Option<broadcast::Receiver<Notice>>);

impl Changes {
    pub(super) fn new(sender: Option<broadcast::Sender<Notice>>) -> Self {
        Self(sender.map(|sender| sender.subscribe()))
    }

    /// The next change; none when the client has ended.
    pub async fn next(&mut self) -> Option<Changed> {
        match self.0.as_mut()?.recv().await {
            Ok(keys) => Some(Changed::Keys(keys)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Changed::Everything),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
