//! Which identity a node may have a certificate for. Pure; the caller is already known.

use model::{SpiffeId, TrustDomain};

use super::token::NodeName;
use crate::watch::View;

/// Why a certificate is not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request names no ImpersonatedIdentity: a node has no certificate of its own")]
    NoIdentity,
    #[error("{id} is of another trust domain than {own}")]
    TrustDomain { id: SpiffeId, own: TrustDomain },
    #[error("no running pod of {id} is placed on node {node}: check the pod's spec.nodeName")]
    NotPlaced { id: SpiffeId, node: NodeName },
}

/// The identity to sign for.
pub(crate) fn authorize(
    view: &View,
    trust_domain: &TrustDomain,
    node: &NodeName,
    impersonated: Option<SpiffeId>,
) -> Result<SpiffeId, Refusal> {
    let id = impersonated.ok_or(Refusal::NoIdentity)?;
    if id.trust_domain() != trust_domain {
        return Err(Refusal::TrustDomain {
            id,
            own: trust_domain.clone(),
        });
    }
    if view.runs_on(node.as_str(), id.namespace(), id.service_account()) {
        return Ok(id);
    }
    Err(Refusal::NotPlaced {
        id,
        node: node.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{ObjectChange, for_test::objects};

    const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node-a, serviceAccountName: web, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop}
spec: {nodeName: node-a, serviceAccountName: job, containers: []}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: node-b, serviceAccountName: cart, containers: []}
";

    fn refusal(node: &str, identity: Option<&str>) -> Option<String> {
        let mut view = View::default();
        for object in objects(PODS) {
            view.apply(ObjectChange::Set(object));
        }
        let node = NodeName::for_test(node);
        let identity = identity.map(|text| text.parse().unwrap());
        let verdict = authorize(&view, &TrustDomain::default(), &node, identity);
        verdict.err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn a_node_gets_the_identity_of_a_pod_placed_on_it() {
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(refusal("node-a", Some(id)), None);
    }

    #[track_caller]
    fn check_refused(node: &str, identity: Option<&str>, words: &str) {
        let reason = refusal(node, identity).expect("an identity was granted");
        assert!(reason.contains(words), "{reason:?} lacks {words:?}");
    }

    #[test]
    fn a_node_gets_no_other_identity() {
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        check_refused("node-b", Some(web), "no running pod");
        check_refused("", Some(web), "no running pod");
        let cart = "spiffe://cluster.local/ns/shop/sa/cart";
        check_refused("node-a", Some(cart), "no running pod");
        let ended = "spiffe://cluster.local/ns/shop/sa/job";
        check_refused("node-a", Some(ended), "no running pod");
        let namesake = "spiffe://cluster.local/ns/legacy/sa/web";
        check_refused("node-a", Some(namesake), "no running pod");
        let foreign = "spiffe://elsewhere/ns/shop/sa/web";
        check_refused("node-a", Some(foreign), "another trust domain");
        check_refused("node-a", None, "no ImpersonatedIdentity");
    }
}
