//! The question to a certificate authority, its answer, and what can be wrong with either.

use std::{error::Error, time::Duration};

use model::SpiffeId;

use crate::{CertificateInfo, LeafError, RootsError, pem};

/// The authority's answer: leaf, intermediates, and last the roots (one text, maybe several).
#[derive(Debug, Clone)]
pub struct IssuedChain {
    pub certificates_pem: Vec<String>,
}

impl IssuedChain {
    /// What the leaf says of itself, for logs.
    pub fn leaf_info(&self) -> Result<CertificateInfo, IssuedError> {
        let count = self.certificates_pem.len();
        let incomplete = || IssuedError::Incomplete { count };
        let text = self.certificates_pem.first().ok_or_else(incomplete)?;
        let leaf = pem::certificates(text).map_err(IssuedError::Pem)?;
        let leaf = leaf.first().ok_or_else(incomplete)?;
        Ok(CertificateInfo::parse(leaf)?)
    }
}

/// Why the authority gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate authority refused: {reason}")]
    Denied { reason: String },
    #[error("the certificate authority could not be asked; is the controller reachable?")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// Has requests signed: over gRPC in a daemon, in memory in tests.
pub trait Issuer: Send + Sync + 'static {
    /// Asks once; retries, deadlines and concurrency are the caller's.
    fn issue(
        &self,
        csr_pem: String,
        id: &SpiffeId,
    ) -> impl Future<Output = Result<IssuedChain, IssueError>> + Send;
}

/// Why a certificate that was issued is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    #[error("the answer has {count} elements, and needs a leaf and roots")]
    Incomplete { count: usize },
    #[error("the answer is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the roots of the answer are bad")]
    Roots(#[from] RootsError),
    #[error("the issued certificate names no workload")]
    Leaf(#[from] LeafError),
    #[error("the issued certificate is for {got} instead of {wanted}")]
    WrongIdentity { wanted: SpiffeId, got: SpiffeId },
    #[error("the issued certificate is for another key")]
    WrongKey(#[source] rustls::Error),
    #[error(
        "the issued certificate does not verify with the roots beside it; do the clocks agree?"
    )]
    Chain(#[source] rustls::Error),
}

/// Why one attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("the certificate authority answered with a certificate that is not acceptable")]
    Issued(#[from] IssuedError),
    #[error("the certificate authority did not answer within {0:?}")]
    Deadline(Duration),
    #[error("cannot make a key and its request")]
    Request(#[source] rcgen::Error),
    #[error("the attempt was lost; this is a defect")]
    Lost,
}
