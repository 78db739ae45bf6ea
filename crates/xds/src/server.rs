//! Step 3, the serving end: what the controller compiled, as delta xDS.
//!
//! A [`Publisher`] holds one immutable snapshot of marshalled resources. Every stream compares
//! the snapshot it sent last with the newest one when its client can take more, so a slow client
//! skips states instead of queueing them, and what did not change is not sent. Who may connect is
//! the controller's decision ([`Caller`]), and nothing here compiles or reads configuration.

mod rejections;
mod session;
mod snapshot;
mod statistics;
mod subscription;

#[cfg(test)]
mod tests;

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, future::BoxFuture, stream};
use model::Change;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    MAX_MESSAGE,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};

pub use rejections::{Rejection, Rejections};
pub use statistics::Statistics;

use session::Session;
use snapshot::Snapshot;

/// Who opened a stream, as the controller's authentication knows it; for example
/// `ambit-system/ztunnel on node-a`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(pub Arc<str>);

type Authenticate = dyn Fn(Request<()>) -> BoxFuture<'static, Result<Caller, Status>> + Send + Sync;

/// What all streams share.
struct Shared {
    rejections: watch::Sender<Rejections>,
    statistics: Statistics,
}

/// The source of all streams. Dropping it ends them, and refuses new ones.
pub struct Publisher {
    snapshots: watch::Sender<Option<Snapshot>>,
    shared: Arc<Shared>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Publisher {
    /// A publisher that has nothing to say yet. Streams are accepted and wait for the first
    /// [`publish`](Self::publish): an answer made of half a configuration would take from a
    /// reconnecting client what it still needs.
    pub fn new() -> Self {
        Self {
            snapshots: watch::Sender::new(None),
            shared: Arc::new(Shared {
                rejections: watch::Sender::default(),
                statistics: Statistics::default(),
            }),
        }
    }

    /// Adds `change` to the snapshot. The first call must hold the whole configuration. A change
    /// that changes nothing reaches nobody.
    pub fn publish(&self, change: &Change) {
        let change = snapshot::Marshalled::from(change);
        self.snapshots.send_if_modified(|current| {
            let next = current
                .as_ref()
                .unwrap_or(&Snapshot::default())
                .apply(change);
            let changed = next.is_some() || current.is_none();
            if let Some(next) = next {
                *current = Some(next);
            } else if current.is_none() {
                *current = Some(Snapshot::default());
            }
            changed
        });
    }

    /// The service to add to a gRPC server. `authenticate` sees the request's metadata and
    /// extensions before anything else is read.
    pub fn service<Check, Answer>(
        &self,
        authenticate: Check,
    ) -> AggregatedDiscoveryServiceServer<Server>
    where
        Check: Fn(Request<()>) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<Caller, Status>> + Send + 'static,
    {
        let server = Server {
            snapshots: self.snapshots.subscribe(),
            shared: self.shared.clone(),
            authenticate: Arc::new(move |request| Box::pin(authenticate(request))),
        };
        // A reconnecting client names all it holds.
        AggregatedDiscoveryServiceServer::new(server).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What connected clients refuse at the moment; changes are notified.
    pub fn rejections(&self) -> watch::Receiver<Rejections> {
        self.shared.rejections.subscribe()
    }

    /// What was sent so far.
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }
}

/// The gRPC service of a [`Publisher`].
#[derive(Clone)]
pub struct Server {
    snapshots: watch::Receiver<Option<Snapshot>>,
    shared: Arc<Shared>,
    authenticate: Arc<Authenticate>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let caller = (self.authenticate)(Request::from_parts(metadata, extensions, ())).await?;
        let session = Session::new(
            caller,
            requests,
            self.snapshots.clone(),
            self.shared.clone(),
        );
        // The session runs only while the transport asks for the next message, which is what
        // bounds its memory: there is no queue to fill.
        let responses = stream::unfold(session, |mut session| async move {
            session.next().await.map(|response| (response, session))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
