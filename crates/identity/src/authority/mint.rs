//! Makes certificates: roots, workloads' and the controller's own. Keeps nothing.

use std::time::{Duration, SystemTime};

use model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};

use super::{AuthorityError, Root, RootNumber};
use crate::{CertificateInfo, Clock, pem, request};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFE: Duration = DAY.saturating_mul(3652);
const LONGEST_LIFE: Duration = DAY.saturating_mul(90);
/// A request is a few hundred bytes.
const LONGEST_REQUEST: usize = 16 * 1024;
/// Clocks of a cluster differ by less; of a short life, a tenth must do.
const BACKDATED: Duration = Duration::from_secs(60);

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{id} is not of the trust domain {own}")]
    TrustDomain { id: SpiffeId, own: TrustDomain },
    #[error("the request is longer than {LONGEST_REQUEST} bytes")]
    TooLong,
    #[error("the request cannot be read, or is not signed by its own key")]
    Request(#[source] rcgen::Error),
    #[error("the request's key is not ECDSA on P-256")]
    KeyType,
    #[error(
        "the certificate would not live a second: the life asked for is too short, or the root has ended"
    )]
    Life,
    #[error("there is no root to sign with")]
    NoRoot,
    #[error("no random numbers could be had")]
    Random,
    #[error("the certificate cannot be made")]
    Sign(#[source] rcgen::Error),
}

pub(super) fn root(
    number: RootNumber,
    trust_domain: &TrustDomain,
    clock: &Clock,
) -> Result<Root, AuthorityError> {
    let now = clock.now();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Generate)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    // The time makes the roots of two installations differ in name, so none is tried in vain.
    let made = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    name.push(
        DnType::CommonName,
        format!("Ambit root {number} ({})", made.as_secs()),
    );
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, now - BACKDATED, now + ROOT_LIFE);
    let random = || AuthorityError::Generate(rcgen::Error::RingUnspecified);
    params.serial_number = Some(serial().ok_or_else(random)?);
    let certificate = params.self_signed(&key).map_err(AuthorityError::Generate)?;
    let info =
        CertificateInfo::parse(certificate.der()).expect("a certificate just made can be parsed");
    Ok(Root {
        number,
        pem: unix_lines(&certificate.pem()),
        info,
        issuer: Some(Issuer::new(params, key)),
    })
}

pub(super) fn workload(
    root: &Root,
    csr_pem: &str,
    id: &SpiffeId,
    ttl: Duration,
    now: SystemTime,
) -> Result<String, SignError> {
    if csr_pem.len() > LONGEST_REQUEST {
        return Err(SignError::TooLong);
    }
    let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(SignError::Request)?;
    let key = &request.public_key;
    // The algorithm is that of the signature; the length of the point tells the curve.
    if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != 65 {
        return Err(SignError::KeyType);
    }
    let mut params = leaf_params(root, ttl, now)?;
    params.subject_alt_names = vec![request::uri(id).map_err(SignError::Sign)?];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    sign(root, &params, key)
}

/// A certificate for the controller's own address, and when to make the next.
pub(super) fn server(
    root: &Root,
    key: &KeyPair,
    names: &[String],
    now: SystemTime,
) -> Result<(String, SystemTime), SignError> {
    let mut params = leaf_params(root, LONGEST_LIFE, now)?;
    params.subject_alt_names = CertificateParams::new(names)
        .map_err(SignError::Sign)?
        .subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let pem = sign(root, &params, key)?;
    let left = SystemTime::from(params.not_after).duration_since(now);
    Ok((pem, now + left.unwrap_or_default() / 2))
}

fn leaf_params(
    root: &Root,
    ttl: Duration,
    now: SystemTime,
) -> Result<CertificateParams, SignError> {
    let life = ttl.min(LONGEST_LIFE);
    let not_after = (now + life).min(root.info.not_after);
    let not_before = now - BACKDATED.min(life / 10);
    if not_after < now + Duration::from_secs(1) {
        return Err(SignError::Life);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial().ok_or(SignError::Random)?);
    set_life(&mut params, not_before, not_after);
    Ok(params)
}

fn sign(
    root: &Root,
    params: &CertificateParams,
    key: &impl PublicKeyData,
) -> Result<String, SignError> {
    let issuer = root.issuer.as_ref().ok_or(SignError::NoRoot)?;
    let certificate = params.signed_by(key, issuer).map_err(SignError::Sign)?;
    Ok(unix_lines(&certificate.pem()))
}

fn set_life(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    params.not_before = not_before.into();
    params.not_after = not_after.into();
}

/// 127 random bits and no leading zero byte (RFC 5280, 4.1.2.2: positive, at most 20 bytes).
fn serial() -> Option<SerialNumber> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}

/// One newline convention, whatever the encoder's, so that bundles compare byte by byte.
fn unix_lines(text: &str) -> String {
    pem::blocks(&text.replace('\r', "")).collect()
}
