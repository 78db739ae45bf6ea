//! Step 3 of a configuration: what was compiled, handed out; and the services on the same port.
//!
//! `pipeline` is the one owner of the configuration: it alone compiles and publishes. The
//! services only read its snapshots and send it reports.

pub(crate) mod accept;
pub(crate) mod admin;
pub(crate) mod enrolment;
pub(crate) mod metrics;
pub(crate) mod pipeline;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::{Request, Status, metadata::MetadataMap};
use xds::server::Caller;

use crate::{
    ca::token::{NodeName, TokenKey},
    compile::authorization::Note,
    watch::{DocumentStatus, ObjectName, View},
};

/// The newest state, for those who only read it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) view: ArcSwap<View>,
    pub(crate) documents: ArcSwap<Vec<DocumentStatus>>,
    pub(crate) policy_notes: ArcSwap<Vec<(ObjectName, Note)>>,
}

/// The node a call comes from.
pub(crate) fn authenticate(key: &TokenKey, metadata: &MetadataMap) -> Result<NodeName, Status> {
    let header = metadata.get("authorization").map(|value| value.to_str());
    let header = header.and_then(Result::ok);
    key.authenticate(header)
        .map_err(|error| Status::unauthenticated(error.to_string()))
}

/// The check that opens an xDS stream: any node may read the configuration of the mesh.
pub(crate) fn xds_caller(
    key: Arc<TokenKey>,
) -> impl Fn(Request<()>) -> std::future::Ready<Result<Caller, Status>> + Send + Sync + 'static {
    move |request| {
        let node = authenticate(&key, request.metadata());
        std::future::ready(node.map(|node| Caller(format!("node {node}").into())))
    }
}
