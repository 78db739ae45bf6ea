//! What clients refused: the controller turns this into conditions on the objects.

use std::collections::BTreeMap;

use prost::Message as _;

use super::Caller;
use crate::{
    ResourceType,
    proto::{ambit::RefusedResource, discovery::Status},
};

/// A client's words are kept for people to read; these bound what one stream can make us keep.
const MAX_RESOURCES: usize = 1000;
const MAX_REASON: usize = 1024;

/// One refusal in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    pub caller: Caller,
    /// The node id the client gave itself.
    pub node: String,
    pub kind: ResourceType,
    /// The resource, when the client named it apart from the text (Istio's do not).
    pub resource: Option<String>,
    pub reason: String,
}

/// The refusals in force on all open streams.
#[derive(Debug, Clone, Default)]
pub struct Rejections(BTreeMap<u64, BTreeMap<(ResourceType, Option<String>), Rejection>>);

impl Rejections {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rejection> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// Nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn record(
        &mut self,
        stream: u64,
        caller: &Caller,
        node: &str,
        kind: ResourceType,
        status: &Status,
    ) {
        let mut refused: Vec<_> = status
            .details
            .iter()
            .filter(|detail| detail.type_url.ends_with("/ambit.xds.RefusedResource"))
            .filter_map(|detail| RefusedResource::decode(detail.value.as_slice()).ok())
            .map(|refused| (Some(refused.name), refused.reason))
            .collect();
        if refused.is_empty() {
            refused.push((None, status.message.clone()));
        }
        let held = self.0.entry(stream).or_default();
        for (resource, reason) in refused.into_iter().take(MAX_RESOURCES) {
            if held.len() >= MAX_RESOURCES {
                break;
            }
            let rejection = Rejection {
                caller: caller.clone(),
                node: node.to_owned(),
                kind,
                resource: resource.clone(),
                reason: reason.chars().take(MAX_REASON).collect(),
            };
            held.insert((kind, resource), rejection);
        }
    }

    /// Forgets refusals of resources that are sent anew or removed. Returns whether any was held.
    pub(super) fn sent<'name>(
        &mut self,
        stream: u64,
        kind: ResourceType,
        names: impl Iterator<Item = &'name str>,
    ) -> bool {
        self.forget(stream, names.map(|name| (kind, Some(name.to_owned()))))
    }

    /// Forgets a refusal that named no resource, once the client takes a later push of the type:
    /// there is no better sign.
    pub(super) fn accepted(&mut self, stream: u64, kind: ResourceType) -> bool {
        self.forget(stream, [(kind, None)].into_iter())
    }

    fn forget(
        &mut self,
        stream: u64,
        keys: impl Iterator<Item = (ResourceType, Option<String>)>,
    ) -> bool {
        let Some(held) = self.0.get_mut(&stream) else {
            return false;
        };
        let before = held.len();
        for key in keys {
            held.remove(&key);
        }
        let changed = held.len() != before;
        if held.is_empty() {
            self.0.remove(&stream);
        }
        changed
    }

    pub(super) fn close(&mut self, stream: u64) -> bool {
        self.0.remove(&stream).is_some()
    }
}
