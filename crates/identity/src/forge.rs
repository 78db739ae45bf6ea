//! Certificates no authority of ours would sign, to show that they are refused.

use std::time::{Duration, SystemTime};

use model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::sign::CertifiedKey;

use crate::{Clock, WorkloadCertificate, pem, request::signing_key, roots::Roots};

/// A root that signs anything.
pub(crate) struct Forge {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root_pem: String,
}

/// What to put into a leaf. The default is what a good one has.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    /// Certificates to present after the leaf, whatever they are.
    pub(crate) padding: usize,
}

impl Leaf {
    pub(crate) fn new(uris: &[&str]) -> Self {
        let now = SystemTime::now();
        Self {
            uris: uris.iter().map(ToString::to_string).collect(),
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            is_ca: IsCa::ExplicitNoCa,
            padding: 0,
        }
    }
}

impl Forge {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "forge");
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root_pem,
        }
    }

    /// A certificate that holds itself for `id`, and trusts this forge.
    pub(crate) fn certificate(&self, id: &SpiffeId, leaf: Leaf) -> WorkloadCertificate {
        self.trusting(&self.root_pem, id, leaf)
    }

    /// The same, but judging others by `roots_pem`.
    pub(crate) fn trusting(
        &self,
        roots_pem: &str,
        id: &SpiffeId,
        leaf: Leaf,
    ) -> WorkloadCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .chain([SanType::DnsName("ignored.example".try_into().unwrap())])
            .collect();
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        params.extended_key_usages = leaf.usages;
        params.is_ca = leaf.is_ca;
        let chain_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let mut chain = pem::certificates(&chain_pem).unwrap();
        for _ in 0..leaf.padding {
            chain.extend(pem::certificates(&self.root_pem).unwrap());
        }
        let certified = CertifiedKey::new(chain, signing_key(&key));
        let roots = Roots::parse(roots_pem).unwrap();
        WorkloadCertificate::assemble(
            id.clone(),
            certified,
            vec![chain_pem],
            roots,
            Clock::system(),
        )
        .unwrap()
    }
}
