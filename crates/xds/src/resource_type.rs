//! The resource types that travel, and their type URLs.

use model::ResourceKey;

/// A resource type. The order is that of pushing: policies before the workloads that name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Authorization,
    Address,
}

impl ResourceType {
    /// Every type, in the order of pushing.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    /// The type URL, as in `DeltaDiscoveryRequest.type_url`.
    pub fn url(self) -> &'static str {
        match self {
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Address => "type.googleapis.com/istio.workload.Address",
        }
    }

    /// The type of this URL, if it is one of ours.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The type a resource of this key travels as.
    pub fn of(key: &ResourceKey) -> Self {
        match key {
            ResourceKey::Workload(_) | ResourceKey::Service(_) => Self::Address,
            ResourceKey::Authorization(_) => Self::Authorization,
        }
    }
}
