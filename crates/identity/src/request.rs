//! A fresh P-256 key and the request to have it certified.

use std::sync::Arc;

use model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A key made for one certificate, and its request. The key never leaves the process.
pub(crate) struct Request {
    pub(crate) key: Arc<dyn SigningKey>,
    pub(crate) csr_pem: String,
}

impl Request {
    pub(crate) fn new(id: &SpiffeId) -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // An empty subject makes the alternative name critical (RFC 5280, 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)?];
        let csr_pem = params.serialize_request(&pair)?.pem()?;
        Ok(Self {
            key: signing_key(&pair),
            csr_pem,
        })
    }
}

pub(crate) fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(id.to_string().try_into()?))
}

pub(crate) fn signing_key(pair: &KeyPair) -> Arc<dyn SigningKey> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    any_ecdsa_type(&der).expect("a P-256 key just generated or checked is one rustls can use")
}
