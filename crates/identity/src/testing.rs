//! Identities for tests: an authority in memory, and certificates without a network.
//!
//! Never in a product: the feature `testing` is for dev-dependencies.

use std::{sync::Arc, time::Duration};

use model::{SpiffeId, TrustDomain};

use crate::{
    Authority, Clock, IssueError, IssuedChain, Issuer, WorkloadCertificate, request::Request,
};

/// An authority for `cluster.local` that keeps nothing.
pub fn authority() -> Authority {
    Authority::in_memory(&TrustDomain::default(), Clock::system())
}

/// The identity of a service account of `cluster.local`. Panics when it cannot be one.
pub fn id(namespace: &str, service_account: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::default(), namespace, service_account)
        .expect("the names can stand in an identity")
}

/// A certificate for `id` of one hour.
pub fn certificate(authority: &Authority, id: &SpiffeId) -> WorkloadCertificate {
    certificate_for(authority, id, Duration::from_secs(3600))
}

/// A certificate for `id` with the life given, on the authority's clock.
pub fn certificate_for(authority: &Authority, id: &SpiffeId, ttl: Duration) -> WorkloadCertificate {
    let request = Request::new(id).expect("a key can be made");
    let issued = authority
        .sign(&request.csr_pem, id, ttl)
        .expect("the authority signs for its own trust domain");
    WorkloadCertificate::from_issued(request.key, id, &issued, authority.clock())
        .expect("what the authority issues is good")
}

/// Signs whatever it is asked to, with the life given.
#[derive(Clone)]
pub struct LocalIssuer {
    pub authority: Arc<Authority>,
    pub ttl: Duration,
}

impl Issuer for LocalIssuer {
    async fn issue(&self, csr_pem: String, id: &SpiffeId) -> Result<IssuedChain, IssueError> {
        self.authority
            .sign(&csr_pem, id, self.ttl)
            .map_err(|error| IssueError::Denied {
                reason: error.to_string(),
            })
    }
}
