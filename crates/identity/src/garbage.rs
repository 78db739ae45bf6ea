//! Nothing a peer, an authority or a file can say makes the parsers panic.

use proptest::{collection::vec, prelude::*};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::{
    Clock, IssuedChain, WorkloadCertificate, leaf, pem,
    request::Request,
    roots::Roots,
    testing,
    verify::{ClientVerifier, ServerVerifier},
};

/// Judges `der` as both verifiers and all parsers would. Says whether anyone took it.
fn is_taken(roots: &Roots, der: Vec<u8>) -> bool {
    let id = testing::id("shop", "web");
    let now = Clock::system().unix();
    let end_entity = CertificateDer::from(der);
    let server = ServerVerifier::new(roots.clone(), vec![id.clone()]);
    let client = ClientVerifier::new(roots, id.trust_domain().clone());
    // Only that they return is asked of these.
    drop((
        leaf::spiffe_id(&end_entity),
        leaf::public_key(&end_entity),
        crate::CertificateInfo::parse(&end_entity),
    ));
    server.verify(&end_entity, &[], now).is_ok()
        || client.verify_client_cert(&end_entity, &[], now).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_der_is_refused(der in vec(any::<u8>(), 0..512)) {
        let roots = Roots::parse(&testing::authority().bundle_pem()).unwrap();
        prop_assert!(!is_taken(&roots, der));
    }

    #[test]
    fn a_certificate_with_one_byte_changed_is_refused(at in any::<usize>(), flip in 1..=255_u8) {
        let authority = testing::authority();
        let held = testing::certificate(&authority, &testing::id("shop", "web"));
        let mut der = pem::certificates(&held.chain_pem()[0]).unwrap()[0].to_vec();
        let at = at % der.len();
        der[at] ^= flip;
        prop_assert!(!is_taken(held.roots(), der));
    }

    #[test]
    fn a_truncated_certificate_is_refused(keep in 0.0..1.0_f64) {
        let authority = testing::authority();
        let held = testing::certificate(&authority, &testing::id("shop", "web"));
        let mut der = pem::certificates(&held.chain_pem()[0]).unwrap()[0].to_vec();
        der.truncate((der.len() as f64 * keep) as usize);
        prop_assert!(!is_taken(held.roots(), der));
    }

    #[test]
    fn garbage_pem_is_refused(texts in vec("(-----BEGIN CERTIFICATE-----\n)?\\PC{0,80}(\n-----END CERTIFICATE-----\n)?", 0..4)) {
        let id = testing::id("shop", "web");
        let request = Request::new(&id).unwrap();
        let authority = testing::authority();
        for text in &texts {
            prop_assert!(Roots::parse(text).is_err());
            let hour = std::time::Duration::from_secs(3600);
            prop_assert!(authority.sign(text, &id, hour).is_err());
        }
        let issued = IssuedChain { certificates_pem: texts };
        let taken = WorkloadCertificate::from_issued(request.key, &id, &issued, &Clock::system());
        prop_assert!(taken.is_err());
    }
}
