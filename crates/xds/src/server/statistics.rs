//! Counters of what went out, for the controller's metrics and for tests of "sent nothing again".

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{ResourceType, proto::discovery::DeltaDiscoveryResponse};

/// Counters over all streams since the start.
#[derive(Debug, Default)]
pub struct Statistics {
    authorization: Sent,
    address: Sent,
    /// Streams open at the moment.
    streams: AtomicU64,
}

#[derive(Debug, Default)]
struct Sent {
    responses: AtomicU64,
    resources: AtomicU64,
    removals: AtomicU64,
    bytes: AtomicU64,
}

impl Statistics {
    fn of(&self, kind: ResourceType) -> &Sent {
        match kind {
            ResourceType::Authorization => &self.authorization,
            ResourceType::Address => &self.address,
        }
    }

    /// Responses sent, empty ones included.
    pub fn responses(&self, kind: ResourceType) -> u64 {
        self.of(kind).responses.load(Relaxed)
    }

    /// Resources sent.
    pub fn resources(&self, kind: ResourceType) -> u64 {
        self.of(kind).resources.load(Relaxed)
    }

    /// Removals sent.
    pub fn removals(&self, kind: ResourceType) -> u64 {
        self.of(kind).removals.load(Relaxed)
    }

    /// Bytes of resources sent.
    pub fn bytes(&self, kind: ResourceType) -> u64 {
        self.of(kind).bytes.load(Relaxed)
    }

    /// Streams open at the moment.
    pub fn streams(&self) -> u64 {
        self.streams.load(Relaxed)
    }

    pub(super) fn stream_opened(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    pub(super) fn stream_closed(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    pub(super) fn sent(&self, kind: ResourceType, response: &DeltaDiscoveryResponse) {
        let sent = self.of(kind);
        let bytes: usize = response
            .resources
            .iter()
            .map(|held| held.resource.len())
            .sum();
        sent.responses.fetch_add(1, Relaxed);
        sent.resources
            .fetch_add(response.resources.len() as u64, Relaxed);
        sent.removals
            .fetch_add(response.removed_resources.len() as u64, Relaxed);
        sent.bytes.fetch_add(bytes as u64, Relaxed);
    }
}
