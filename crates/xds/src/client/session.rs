//! One stream, from connecting to its end.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use model::{Index, ResourceKey};
use prost::Message as _;
use prost_types::Any;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, metadata::MetadataMap, transport::Channel};
use tracing::{debug, info, warn};

use super::{Client, State, state::Outcome};
use crate::{
    BoxError, MAX_MESSAGE, ResourceType,
    convert::DecodeError,
    proto::{
        ambit::RefusedResource,
        discovery::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
};

/// For the connection, and again for the stream on it.
const DEADLINE: Duration = Duration::from_secs(10);

/// A response with more resources is parsed on a thread of its own, not to hold up the tasks that
/// share the client's runtime.
const LARGE: usize = 256;

/// Acknowledgements under way; there is one for each response.
const REQUESTS: usize = 16;

/// Refused resources told one by one in a NACK; the text says how many there are.
const MAX_DETAILS: usize = 100;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot connect to the controller")]
    Connect(#[source] BoxError),
    #[error("cannot make the credentials for the controller")]
    Metadata(#[source] BoxError),
    #[error("no answer from the controller within {0:?}")]
    Deadline(Duration),
    #[error("the controller refused the stream")]
    Open(#[source] tonic::Status),
    #[error("the stream broke")]
    Broken(#[source] tonic::Status),
    #[error("the stream takes no more requests")]
    RequestsClosed,
}

impl Client {
    /// Runs one stream to its end. `synced` is set once everything was received in full.
    pub(super) async fn session<Connect, Connecting, Metadata>(
        &mut self,
        connect: &Connect,
        metadata: &Metadata,
        synced: &mut bool,
    ) -> Result<(), SessionError>
    where
        Connect: Fn() -> Connecting,
        Connecting: Future<Output = Result<Channel, BoxError>>,
        Metadata: Fn() -> Result<MetadataMap, BoxError>,
    {
        let late = |_| SessionError::Deadline(DEADLINE);
        let channel = timeout(DEADLINE, connect()).await.map_err(late)?;
        let channel = channel.map_err(SessionError::Connect)?;
        let mut service =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);

        // The first requests are there before the stream is: some servers answer nothing, not
        // even headers, until they have read one.
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for kind in ResourceType::ALL {
            let request = self.state.open(kind, (&self.node).into());
            requests
                .try_send(request)
                .expect("the queue is empty and holds one of each type");
        }
        let mut request = Request::new(ReceiverStream::new(outgoing));
        *request.metadata_mut() = metadata().map_err(SessionError::Metadata)?;
        let opening = service.delta_aggregated_resources(request);
        let opened = timeout(DEADLINE, opening).await.map_err(late)?;
        let mut responses = opened.map_err(SessionError::Open)?.into_inner();

        let mut awaited = Vec::from(ResourceType::ALL);
        while let Some(response) = responses.message().await.map_err(SessionError::Broken)? {
            let Some(kind) = ResourceType::from_url(&response.type_url) else {
                warn!(
                    type_url = response.type_url,
                    "response of a type nobody asked for"
                );
                continue;
            };
            let answer = self.take(kind, response).await;
            requests
                .send(answer)
                .await
                .map_err(|_| SessionError::RequestsClosed)?;
            awaited.retain(|waiting| *waiting != kind);
            if awaited.is_empty() && !*synced {
                *synced = true;
                if !self.ready.send_replace(true) {
                    info!("received the whole configuration");
                }
            }
        }
        Ok(())
    }

    /// Applies a response and makes its ACK or NACK.
    async fn take(
        &mut self,
        kind: ResourceType,
        response: DeltaDiscoveryResponse,
    ) -> DeltaDiscoveryRequest {
        let count = response.resources.len();
        let bytes = response
            .resources
            .iter()
            .map(|resource| resource.resource.len())
            .sum();
        self.statistics.received(kind, count, bytes);
        debug!(kind = ?kind, resources = count, removed = response.removed_resources.len(), "push");

        let nonce = response.nonce.clone();
        let state = std::mem::take(&mut self.state);
        let index = self.index.clone();
        let applied = if count < LARGE {
            apply(state, &index, kind, response)
        } else {
            let work = tokio::task::spawn_blocking(move || apply(state, &index, kind, response));
            match work.await {
                Ok(applied) => applied,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Only a runtime that is shutting down cancels the work, and this with it.
                    Err(_) => std::future::pending().await,
                },
            }
        };
        self.state = applied.state;
        self.statistics.refused_some(kind, applied.refused.len());
        if !applied.keys.is_empty() {
            // Nobody may be listening.
            drop(self.changes.send(applied.keys.into()));
        }
        for error in &applied.refused {
            warn!(kind = ?kind, %error, "refused a resource");
        }
        DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            response_nonce: nonce,
            error_detail: refusal(&applied.refused, count),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

struct Applied {
    state: State,
    keys: Vec<ResourceKey>,
    refused: Vec<DecodeError>,
}

fn apply(
    mut state: State,
    index: &ArcSwap<Index>,
    kind: ResourceType,
    response: DeltaDiscoveryResponse,
) -> Applied {
    let Outcome { change, refused } = state.receive(kind, response);
    let set = change.upsert.iter().map(model::Resource::key);
    let keys: Vec<_> = set.chain(change.remove.iter().cloned()).collect();
    if !keys.is_empty() {
        index.store(Arc::new(index.load().apply(change)));
    }
    Applied {
        state,
        keys,
        refused,
    }
}

/// The error report of a NACK; none is an ACK.
fn refusal(refused: &[DecodeError], count: usize) -> Option<Status> {
    let first = refused.first()?;
    let others = refused.len() - 1;
    let mut message = format!("refused {} of {count} resources: {first}", refused.len());
    if others > 0 {
        message.push_str(&format!(" (and {others} more)"));
    }
    let detail = |error: &DecodeError| Any {
        type_url: "type.googleapis.com/ambit.xds.RefusedResource".to_owned(),
        value: RefusedResource {
            name: error.name.clone(),
            reason: error.fault.to_string(),
        }
        .encode_to_vec(),
    };
    Some(Status {
        code: Code::InvalidArgument.into(),
        message,
        details: refused.iter().take(MAX_DETAILS).map(detail).collect(),
    })
}
