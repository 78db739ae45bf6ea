//! Counters of the client; `telemetry` gives them their metric names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::SessionError;
use crate::ResourceType;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Termination {
    /// It was never established.
    ConnectionError,
    /// It broke.
    Error,
    /// The controller ended it in good order.
    Reconnect,
}

impl Termination {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::ConnectionError, Self::Error, Self::Reconnect];

    pub(super) fn of(ended: &Result<(), SessionError>) -> Self {
        match ended {
            Ok(()) => Self::Reconnect,
            Err(
                SessionError::Connect(_)
                | SessionError::Metadata(_)
                | SessionError::Deadline(_)
                | SessionError::Open(_),
            ) => Self::ConnectionError,
            Err(SessionError::Broken(_) | SessionError::RequestsClosed) => Self::Error,
        }
    }

    /// The value of the metric label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
        }
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Statistics {
    authorization: Received,
    address: Received,
    connection_errors: AtomicU64,
    errors: AtomicU64,
    reconnects: AtomicU64,
}

#[derive(Debug, Default)]
struct Received {
    messages: AtomicU64,
    bytes: AtomicU64,
    resources: AtomicU64,
    refused: AtomicU64,
}

impl Statistics {
    fn of(&self, kind: ResourceType) -> &Received {
        match kind {
            ResourceType::Authorization => &self.authorization,
            ResourceType::Address => &self.address,
        }
    }

    fn ended(&self, reason: Termination) -> &AtomicU64 {
        match reason {
            Termination::ConnectionError => &self.connection_errors,
            Termination::Error => &self.errors,
            Termination::Reconnect => &self.reconnects,
        }
    }

    /// Responses received.
    pub fn messages(&self, kind: ResourceType) -> u64 {
        self.of(kind).messages.load(Relaxed)
    }

    /// Bytes of resources received.
    pub fn bytes(&self, kind: ResourceType) -> u64 {
        self.of(kind).bytes.load(Relaxed)
    }

    /// Resources received, refused ones included.
    pub fn resources(&self, kind: ResourceType) -> u64 {
        self.of(kind).resources.load(Relaxed)
    }

    /// Resources refused.
    pub fn refused(&self, kind: ResourceType) -> u64 {
        self.of(kind).refused.load(Relaxed)
    }

    /// Streams that ended for this reason.
    pub fn terminations(&self, reason: Termination) -> u64 {
        self.ended(reason).load(Relaxed)
    }

    pub(super) fn received(&self, kind: ResourceType, resources: usize, bytes: usize) {
        let counters = self.of(kind);
        counters.messages.fetch_add(1, Relaxed);
        counters.resources.fetch_add(resources as u64, Relaxed);
        counters.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn refused_some(&self, kind: ResourceType, resources: usize) {
        self.of(kind).refused.fetch_add(resources as u64, Relaxed);
    }

    pub(super) fn terminated(&self, reason: Termination) {
        self.ended(reason).fetch_add(1, Relaxed);
    }
}
