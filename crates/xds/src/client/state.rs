//! What the client holds, by the names of the wire: which versions it can claim on a reconnect,
//! and what a response means for the index. Pure, no I/O.

use std::{collections::HashMap, sync::Arc};

use model::{Change, Resource, ResourceKey};

use crate::{
    ResourceType,
    convert::{self, DecodeError, Decoded},
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
};

/// What is held under one name.
#[derive(Debug)]
struct Held {
    key: ResourceKey,
    claim: Claim,
}

/// Whether a reconnect may say that it holds the resource.
#[derive(Debug)]
enum Claim {
    /// This version.
    Version(String),
    /// Not at all: what was sent last was refused, and must be sent again.
    Refused,
}

/// The holdings of one type.
#[derive(Debug, Default)]
struct Holdings {
    held: HashMap<Arc<str>, Held>,
    /// The next response is the first of its stream: it tells all that differs from our claim.
    first: bool,
}

/// The holdings of a client.
#[derive(Debug, Default)]
pub(super) struct State {
    authorizations: Holdings,
    addresses: Holdings,
}

/// What a response comes to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) change: Change,
    pub(super) refused: Vec<DecodeError>,
}

impl State {
    fn holdings(&mut self, kind: ResourceType) -> &mut Holdings {
        match kind {
            ResourceType::Authorization => &mut self.authorizations,
            ResourceType::Address => &mut self.addresses,
        }
    }

    /// The first request of a type on a new stream: everything, except what is held already.
    pub(super) fn open(&mut self, kind: ResourceType, node: Node) -> DeltaDiscoveryRequest {
        let holdings = self.holdings(kind);
        holdings.first = true;
        let claims = holdings
            .held
            .iter()
            .filter_map(|(name, held)| match &held.claim {
                Claim::Version(version) => Some((name.to_string(), version.clone())),
                Claim::Refused => None,
            });
        DeltaDiscoveryRequest {
            node: Some(node),
            type_url: kind.url().to_owned(),
            initial_resource_versions: claims.collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Takes in a response: parses it, and tells what it changes.
    pub(super) fn receive(
        &mut self,
        kind: ResourceType,
        response: DeltaDiscoveryResponse,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let holdings = self.holdings(kind);
        for name in &response.removed_resources {
            if let Some(held) = holdings.held.remove(name.as_str()) {
                outcome.change.remove.push(held.key);
            }
        }
        if std::mem::take(&mut holdings.first) {
            holdings.drop_unconfirmed(&response, &mut outcome.change);
        }
        for resource in response.resources {
            let decoded = convert::decode(kind, &resource.name, &resource.resource);
            holdings.take(resource.name, resource.version, decoded, &mut outcome);
        }
        outcome
    }
}

impl Holdings {
    /// What was not claimed and does not come again has gone while we were away: the server could
    /// not know that it had to be removed.
    fn drop_unconfirmed(&mut self, response: &DeltaDiscoveryResponse, change: &mut Change) {
        let gone: Vec<Arc<str>> = self
            .held
            .iter()
            .filter(|(name, held)| {
                matches!(held.claim, Claim::Refused)
                    && !response.resources.iter().any(|sent| sent.name == ***name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(held) = self.held.remove(&name) {
                change.remove.push(held.key);
            }
        }
    }

    fn take(&mut self, name: String, version: String, decoded: Decoded, outcome: &mut Outcome) {
        match decoded {
            Decoded::Valid(resource) => {
                self.hold(name, Claim::Version(version), resource, &mut outcome.change);
            }
            Decoded::Refused(error) => {
                if let Some(held) = self.held.get_mut(name.as_str()) {
                    held.claim = Claim::Refused;
                }
                outcome.refused.push(error);
            }
            Decoded::RefusedPolicy { error, stand_in } => {
                if let Some(held) = self.held.get_mut(name.as_str()) {
                    held.claim = Claim::Refused;
                } else {
                    let stand_in = Resource::Authorization(stand_in);
                    self.hold(name, Claim::Refused, stand_in, &mut outcome.change);
                }
                outcome.refused.push(error);
            }
        }
    }

    fn hold(&mut self, name: String, claim: Claim, resource: Resource, change: &mut Change) {
        let key = resource.key();
        let held = Held {
            key: key.clone(),
            claim,
        };
        let before = self.held.insert(name.into(), held);
        if let Some(before) = before.filter(|before| before.key != key) {
            change.remove.push(before.key);
        }
        change.upsert.push(resource);
    }
}
