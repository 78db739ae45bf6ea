//! One delta stream: requests in, responses out, one at a time and only when asked for.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Caller, Shared,
    snapshot::Snapshot,
    subscription::{Subscription, Update},
};
use crate::{
    ResourceType,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

/// Requests taken in one go before answering, so that subscriptions sent together are answered
/// in push order.
const BATCH: usize = 16;

static STREAMS: AtomicU64 = AtomicU64::new(0);

pub(super) struct Session {
    stream: u64,
    caller: Caller,
    node: String,
    requests: Streaming<DeltaDiscoveryRequest>,
    snapshots: watch::Receiver<Option<Snapshot>>,
    shared: Arc<Shared>,
    authorizations: Option<Subscription>,
    addresses: Option<Subscription>,
    /// At most one round of responses: the next is made when these are taken.
    outbox: VecDeque<DeltaDiscoveryResponse>,
    nonce: u64,
}

enum End {
    Client,
    Publisher,
}

impl Session {
    pub(super) fn new(
        caller: Caller,
        requests: Streaming<DeltaDiscoveryRequest>,
        snapshots: watch::Receiver<Option<Snapshot>>,
        shared: Arc<Shared>,
    ) -> Self {
        shared.statistics.stream_opened();
        Self {
            stream: STREAMS.fetch_add(1, Relaxed),
            caller,
            node: String::new(),
            requests,
            snapshots,
            shared,
            authorizations: None,
            addresses: None,
            outbox: VecDeque::new(),
            nonce: 0,
        }
    }

    /// The next response; none when the stream is over.
    pub(super) async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                if let Some(kind) = ResourceType::from_url(&response.type_url) {
                    self.shared.statistics.sent(kind, &response);
                }
                return Some(Ok(response));
            }
            match self.wait().await {
                Ok(()) => self.fill_outbox(),
                Err(End::Client) => return None,
                Err(End::Publisher) => {
                    return Some(Err(Status::unavailable("the controller is stopping")));
                }
            }
        }
    }

    /// Waits for a reason to look at what is to be sent.
    async fn wait(&mut self) -> Result<(), End> {
        tokio::select! {
            biased;
            request = self.requests.message() => {
                self.receive(request)?;
                for _ in 1..BATCH {
                    let Some(request) = self.requests.message().now_or_never() else { break };
                    self.receive(request)?;
                }
                Ok(())
            }
            changed = self.snapshots.changed() => changed.map_err(|_| End::Publisher),
        }
    }

    fn receive(
        &mut self,
        request: Result<Option<DeltaDiscoveryRequest>, Status>,
    ) -> Result<(), End> {
        match request {
            Ok(Some(request)) => {
                self.handle(request);
                Ok(())
            }
            Ok(None) => Err(End::Client),
            Err(status) => {
                debug!(caller = %self.caller.0, node = self.node, %status, "xds stream broke");
                Err(End::Client)
            }
        }
    }

    fn handle(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(node) = &request.node {
            self.node.clone_from(&node.id);
        }
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            // An answer, so that a client which waits for all its types is not held up; not to
            // its acknowledgement, which would begin a loop.
            if request.response_nonce.is_empty() {
                let response = self.response(request.type_url, Update::default());
                self.outbox.push_back(response);
            }
            return;
        };
        self.note_answer(kind, &request);
        let subscription = match kind {
            ResourceType::Authorization => &mut self.authorizations,
            ResourceType::Address => &mut self.addresses,
        };
        match subscription {
            Some(subscription) => subscription.change(&request),
            None => {
                info!(
                    caller = %self.caller.0, node = self.node, kind = ?kind,
                    held = request.initial_resource_versions.len(), "client subscribed"
                );
                *subscription = Some(Subscription::open(request));
            }
        }
    }

    /// Keeps a refusal; an acknowledgement ends one.
    fn note_answer(&self, kind: ResourceType, request: &DeltaDiscoveryRequest) {
        let rejections = &self.shared.rejections;
        if let Some(status) = &request.error_detail {
            warn!(
                caller = %self.caller.0, node = self.node, kind = ?kind,
                nonce = request.response_nonce, reason = status.message,
                "client refused configuration"
            );
            rejections.send_modify(|rejections| {
                rejections.record(self.stream, &self.caller, &self.node, kind, status);
            });
        } else if !request.response_nonce.is_empty() {
            rejections.send_if_modified(|rejections| rejections.accepted(self.stream, kind));
        }
    }

    /// Makes the responses that bring the client up to date. Removed policies come last: a
    /// workload that still names a policy which is gone denies, so references go first.
    fn fill_outbox(&mut self) {
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else {
            return;
        };
        let update = |subscription: &mut Option<Subscription>, kind| {
            let subscription = subscription.as_mut()?;
            Some(subscription.update(snapshot.table(kind))).filter(Update::is_needed)
        };
        let mut authorizations = update(&mut self.authorizations, ResourceType::Authorization);
        let addresses = update(&mut self.addresses, ResourceType::Address);
        let mut dropped = None;
        if let (Some(policies), Some(_)) = (&mut authorizations, &addresses)
            && !policies.removed.is_empty()
        {
            dropped = Some(Update {
                removed: std::mem::take(&mut policies.removed),
                ..Update::default()
            });
            authorizations = authorizations.filter(Update::is_needed);
        }
        for (kind, update) in [
            (ResourceType::Authorization, authorizations),
            (ResourceType::Address, addresses),
            (ResourceType::Authorization, dropped),
        ] {
            if let Some(update) = update {
                self.forget_rejections(kind, &update);
                let response = self.response(kind.url().to_owned(), update);
                self.outbox.push_back(response);
            }
        }
    }

    fn forget_rejections(&self, kind: ResourceType, update: &Update) {
        self.shared.rejections.send_if_modified(|rejections| {
            let sent = update
                .resources
                .iter()
                .map(|resource| resource.name.as_str());
            let removed = update.removed.iter().map(String::as_str);
            rejections.sent(self.stream, kind, sent.chain(removed))
        });
    }

    fn response(&mut self, type_url: String, update: Update) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources: update.resources,
            type_url,
            nonce: self.nonce.to_string(),
            removed_resources: update.removed,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.statistics.stream_closed();
        self.shared
            .rejections
            .send_if_modified(|rejections| rejections.close(self.stream));
    }
}
