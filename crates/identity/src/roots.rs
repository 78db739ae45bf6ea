//! The certificates one trusts: one root, or several while they are exchanged.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem};

/// Why a text is no bundle of roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("the root bundle holds no certificate")]
    Empty,
    #[error("the root bundle is not PEM")]
    Pem(#[source] pem::Error),
    #[error("a root of the bundle cannot be used")]
    Root(#[source] rustls::Error),
}

#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) pem: Arc<[String]>,
    der: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    pub(crate) fn parse(text: &str) -> Result<Self, RootsError> {
        let der = crate::pem::certificates(text).map_err(RootsError::Pem)?;
        if der.is_empty() {
            return Err(RootsError::Empty);
        }
        let mut store = RootCertStore::empty();
        for root in &der {
            store.add(root.clone()).map_err(RootsError::Root)?;
        }
        Ok(Self {
            store: store.into(),
            pem: crate::pem::blocks(text).collect(),
            der: der.into(),
        })
    }

    /// Whether both trust the same, in whatever order.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let within = |one: &Self, two: &Self| one.der.iter().all(|root| two.der.contains(root));
        within(self, other) && within(other, self)
    }
}
