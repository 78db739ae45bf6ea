//! What a certificate says of itself. Believe it only after its chain was verified.

use std::time::{Duration, SystemTime};

use model::{SpiffeError, SpiffeId};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

/// Why a certificate names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("the certificate is not valid DER")]
    Encoding,
    #[error("the certificate has more than one subject alternative name extension, or a bad one")]
    AlternativeNames,
    #[error("the certificate has {count} URI names instead of one")]
    UriCount { count: usize },
    #[error("the certificate's URI name is no workload identity")]
    Identity(#[source] SpiffeError),
}

/// Serial number and validity of a certificate, for logs and dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Lower-case hexadecimal, as Istio's tools print it.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl CertificateInfo {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, LeafError> {
        let certificate = parse(der)?;
        let validity = certificate.validity();
        Ok(Self {
            serial: format!("{:x}", certificate.tbs_certificate.serial),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        })
    }

    /// Whether the certificate has begun and not ended.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// The identity a leaf carries: its one URI name. DNS and address names are not looked at.
pub(crate) fn spiffe_id(der: &[u8]) -> Result<SpiffeId, LeafError> {
    let certificate = parse(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::AlternativeNames)?
        .map(|extension| &extension.value.general_names[..])
        .unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a URI that this parser cannot read and another can.
            GeneralName::Invalid(..) => return Err(LeafError::AlternativeNames),
            _ => {}
        }
    }
    let [uri] = uris[..] else {
        return Err(LeafError::UriCount { count: uris.len() });
    };
    uri.parse().map_err(LeafError::Identity)
}

/// The subject public key, as the bits of the key itself.
pub(crate) fn public_key(der: &[u8]) -> Result<Vec<u8>, LeafError> {
    let certificate = parse(der)?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(LeafError::Encoding),
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    let since = Duration::from_secs(time.timestamp().try_into().unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}
