//! Who may be at the other end: a chain to our roots, and exactly one identity that fits.
//!
//! Chains, validity, key usage and basic constraints are webpki's; this adds the identity.
//! Host names play no part. There is no revocation yet.

use std::sync::Arc;

use model::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{LeafError, leaf, provider::provider, roots::Roots};

/// Certificates a peer may present: a leaf and as many intermediates as webpki would follow.
pub(crate) const MAX_PRESENTED: usize = 7;

/// Why a peer that proved its certificate is refused all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    #[error("it presented {presented} certificates, more than {MAX_PRESENTED}")]
    ChainTooLong { presented: usize },
    #[error("its certificate names no workload")]
    NoIdentity(#[from] LeafError),
    #[error("{id} is not of the trust domain {own}")]
    TrustDomain { id: SpiffeId, own: TrustDomain },
    #[error("{id} is not who was expected: {}", listed(expected))]
    Unexpected {
        id: SpiffeId,
        expected: Vec<SpiffeId>,
    },
}

fn listed(expected: &[SpiffeId]) -> String {
    if expected.is_empty() {
        return "nobody was, the destination has no known identity".to_owned();
    }
    let names: Vec<String> = expected.iter().map(ToString::to_string).collect();
    names.join(" or ")
}

impl From<PeerRefused> for Error {
    fn from(refused: PeerRefused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// Looks at clients: anyone of our own trust domain.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    own: TrustDomain,
}

impl ClientVerifier {
    pub(crate) fn new(roots: &Roots, own: TrustDomain) -> Self {
        let chain = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider())
            // A workload has one certificate: hints would only make the handshake longer.
            .clear_root_hint_subjects()
            .build()
            .expect("a root store is never empty, and there is no revocation list to be wrong");
        Self { chain, own }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_length(intermediates)?;
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let id = leaf::spiffe_id(end_entity).map_err(PeerRefused::from)?;
        if *id.trust_domain() != self.own {
            let own = self.own.clone();
            return Err(PeerRefused::TrustDomain { id, own }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Looks at servers: one of the identities the destination is known to have.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    roots: Roots,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Vec<SpiffeId>,
}

impl ServerVerifier {
    pub(crate) fn new(roots: Roots, expected: Vec<SpiffeId>) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self {
            roots,
            algorithms,
            expected,
        }
    }

    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        check_length(intermediates)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots.store,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let id = leaf::spiffe_id(end_entity).map_err(PeerRefused::from)?;
        if !self.expected.contains(&id) {
            let expected = self.expected.clone();
            return Err(PeerRefused::Unexpected { id, expected }.into());
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_length(intermediates: &[CertificateDer<'_>]) -> Result<(), PeerRefused> {
    let presented = intermediates.len() + 1;
    if presented > MAX_PRESENTED {
        return Err(PeerRefused::ChainTooLong { presented });
    }
    Ok(())
}
