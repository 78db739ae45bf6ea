//! What is kept, what is signed, and how roots are exchanged.

use std::{fs, os::unix::fs::PermissionsExt};

use rcgen::{CertificateParams, PKCS_ECDSA_P384_SHA384};
use tempfile::TempDir;
use x509_parser::{extensions::GeneralName, prelude::*};

use super::*;
use crate::{
    ClientTls, HandshakeError, WorkloadCertificate, accept, connect, pem,
    request::Request,
    testing::{self, id},
};

const HOUR: Duration = Duration::from_secs(3600);

fn kept() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(&folder).unwrap();
    (folder, authority)
}

fn open(folder: &TempDir) -> Result<Authority, AuthorityError> {
    Authority::load_or_create(folder.path(), &TrustDomain::default())
}

fn web() -> SpiffeId {
    id("shop", "web")
}

fn leaf_der(issued: &IssuedChain) -> Vec<u8> {
    pem::certificates(&issued.certificates_pem[0]).unwrap()[0].to_vec()
}

#[test]
fn the_root_is_made_once_and_kept() {
    let (folder, authority) = kept();
    let bundle = authority.bundle_pem();
    assert_eq!(open(&folder).unwrap().bundle_pem(), bundle);
    let life = authority.roots()[0].info.clone();
    let years = life
        .not_after
        .duration_since(life.not_before)
        .unwrap()
        .as_secs()
        / 31_557_600;
    assert!((9..=10).contains(&years), "{years} years");
}

#[test]
fn keys_are_for_the_owner_only() {
    let (folder, _) = kept();
    let path = folder.path().join("root-1.key.pem");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = open(&folder).err().unwrap();
    let exposed = matches!(error, AuthorityError::ExposedKey { mode: 0o640, .. });
    assert!(exposed, "{error:?}");
}

#[test]
fn a_folder_that_cannot_be_trusted_is_refused_and_never_started_afresh() {
    #[track_caller]
    fn check(spoil: impl Fn(&Path), fits: impl Fn(&AuthorityError) -> bool) {
        let (folder, _) = kept();
        spoil(folder.path());
        let error = open(&folder).err().unwrap();
        assert!(fits(&error), "{error:?}");
    }
    check(
        |folder| fs::write(folder.join("root-1.pem"), "nonsense").unwrap(),
        |error| matches!(error, AuthorityError::Root { .. }),
    );
    check(
        |folder| fs::write(folder.join("root-1.key.pem"), "nonsense").unwrap(),
        |error| matches!(error, AuthorityError::Key { .. }),
    );
    check(
        |folder| fs::write(folder.join("active"), "nonsense").unwrap(),
        |error| matches!(error, AuthorityError::ActiveFile { .. }),
    );
    check(
        |folder| fs::write(folder.join("active"), "7").unwrap(),
        |error| matches!(error, AuthorityError::NoSuchRoot { root: 7 }),
    );
    check(
        |folder| fs::remove_file(folder.join("root-1.key.pem")).unwrap(),
        |error| matches!(error, AuthorityError::NoSuchRoot { root: 1 }),
    );
    check(
        |folder| {
            let (other, _) = kept();
            let key = "root-1.key.pem";
            fs::copy(other.path().join(key), folder.join(key)).unwrap();
        },
        |error| matches!(error, AuthorityError::KeyMismatch { .. }),
    );
}

#[test]
fn a_start_interrupted_before_the_root_was_activated_is_completed() {
    let (folder, authority) = kept();
    fs::remove_file(folder.path().join("active")).unwrap();
    assert_eq!(open(&folder).unwrap().bundle_pem(), authority.bundle_pem());
    fs::remove_file(folder.path().join("root-1.pem")).unwrap();
    assert_ne!(open(&folder).unwrap().bundle_pem(), authority.bundle_pem());
}

#[test]
fn a_root_without_a_key_is_trusted_and_never_signs() {
    let (folder, authority) = kept();
    fs::write(
        folder.path().join("root-9.pem"),
        testing::authority().bundle_pem(),
    )
    .unwrap();
    let reopened = open(&folder).unwrap();
    assert_eq!(reopened.roots().len(), 2);
    assert!(reopened.bundle_pem().starts_with(&authority.bundle_pem()));
    let error = reopened.activate(9).unwrap_err();
    assert!(matches!(error, AuthorityError::NoSuchRoot { root: 9 }));
    assert_eq!(reopened.prepare_rotation().unwrap(), 10);
}

#[test]
fn a_leaf_has_what_the_caller_says_and_nothing_of_the_request() {
    let authority = testing::authority();
    let asked = Request::new(&id("shop", "admin")).unwrap();
    let issued = authority.sign(&asked.csr_pem, &web(), HOUR).unwrap();
    let der = leaf_der(&issued);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    let only = GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(names.value.general_names, [only]);
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    let again = authority.sign(&asked.csr_pem, &web(), HOUR).unwrap();
    let serial = |issued| CertificateInfo::parse(&leaf_der(issued)).unwrap().serial;
    assert_ne!(serial(&issued), serial(&again));
    assert_eq!(
        issued.certificates_pem.last(),
        Some(&authority.bundle_pem())
    );
}

#[test]
fn lives_are_capped_and_short_ones_are_not_eaten_by_backdating() {
    #[track_caller]
    fn check(ttl: Duration, before: Duration, after: Duration) {
        let authority = testing::authority();
        let request = Request::new(&web()).unwrap();
        let now = SystemTime::now();
        let issued = authority.sign(&request.csr_pem, &web(), ttl).unwrap();
        let info = CertificateInfo::parse(&leaf_der(&issued)).unwrap();
        // X.509 counts whole seconds, and one may begin in between.
        let close = |got: Duration, wanted: Duration| {
            assert!(
                got.abs_diff(wanted) <= Duration::from_secs(1),
                "{got:?} {wanted:?}"
            );
        };
        close(now.duration_since(info.not_before).unwrap(), before);
        close(info.not_after.duration_since(now).unwrap(), after);
    }
    let (minute, day) = (Duration::from_secs(60), 24 * HOUR);
    check(day, minute, day);
    check(1000 * day, minute, 90 * day);
    check(
        Duration::from_secs(10),
        Duration::from_secs(1),
        Duration::from_secs(10),
    );
}

#[test]
fn what_must_not_be_signed_is_not() {
    #[track_caller]
    fn check(csr: &str, id: &SpiffeId, ttl: Duration, fits: impl Fn(&SignError) -> bool) {
        let error = testing::authority().sign(csr, id, ttl).unwrap_err();
        assert!(fits(&error), "{error:?}");
    }
    let request = Request::new(&web()).unwrap().csr_pem;
    let foreign = "spiffe://far.away/ns/shop/sa/web".parse().unwrap();
    check(&request, &foreign, HOUR, |error| {
        matches!(error, SignError::TrustDomain { .. })
    });
    check(&request, &web(), Duration::ZERO, |error| {
        matches!(error, SignError::Life)
    });
    check("nonsense", &web(), HOUR, |error| {
        matches!(error, SignError::Request(_))
    });
    check(&"x".repeat(20_000), &web(), HOUR, |error| {
        matches!(error, SignError::TooLong)
    });

    let wide = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let wide = CertificateParams::default()
        .serialize_request(&wide)
        .unwrap();
    check(&wide.pem().unwrap(), &web(), HOUR, |error| {
        matches!(error, SignError::KeyType)
    });
}

#[test]
fn a_request_not_signed_by_its_own_key_is_refused() {
    let request = Request::new(&web()).unwrap().csr_pem;
    // The fourth line of the base64 lies within the key and the names, all of them signed.
    let mut lines: Vec<String> = request.lines().map(str::to_owned).collect();
    let swapped = if lines[3].starts_with('A') { "B" } else { "A" };
    lines[3].replace_range(..1, swapped);
    let error = testing::authority()
        .sign(&lines.join("\n"), &web(), HOUR)
        .unwrap_err();
    assert!(matches!(error, SignError::Request(_)), "{error:?}");
}

async fn can_talk(client: &WorkloadCertificate, server: &WorkloadCertificate) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let expected = [server.id().clone()];
    let (near, far) = tokio::join!(connect(near, client, &expected), accept(far, server));
    near.is_ok() && far.is_ok()
}

#[tokio::test]
async fn rotation_leaves_no_moment_in_which_two_certificates_cannot_talk() {
    let (folder, authority) = kept();
    let before = testing::certificate(&authority, &web());
    let next = authority.prepare_rotation().unwrap();
    let prepared = testing::certificate(&authority, &web());
    assert_eq!(authority.active_root(), 1);
    assert!(can_talk(&before, &prepared).await && can_talk(&prepared, &before).await);

    authority.activate(next).unwrap();
    let activated = testing::certificate(&authority, &web());
    assert!(can_talk(&prepared, &activated).await && can_talk(&activated, &prepared).await);
    assert!(
        !can_talk(&before, &activated).await,
        "it had only the old root"
    );

    let reopened = open(&folder).unwrap();
    assert_eq!(reopened.active_root(), next);
    assert_eq!(reopened.bundle_pem(), authority.bundle_pem());
    assert!(matches!(
        authority.retire(next),
        Err(AuthorityError::StillActive { root: 2 })
    ));
    authority.retire(1).unwrap();
    assert_eq!(open(&folder).unwrap().roots().len(), 1);
    assert!(!folder.path().join("root-1.key.pem").exists());
    let last = testing::certificate(&authority, &web());
    assert!(can_talk(&activated, &last).await);
}

/// Whether a daemon under `roots` trusts the controller when it asks for `name`.
async fn reaches(tls: &ServerTls, roots: &str, clock: &Clock, name: &str) -> Result<(), TlsError> {
    let client = ClientTls::with_clock(roots, clock)?;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (near, far) = tokio::join!(client.connect(near, name), tls.accept(far));
    let stream = near?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(far.is_ok());
    Ok(())
}

#[tokio::test]
async fn the_controller_is_known_by_its_names_under_the_meshs_roots() {
    let authority = Arc::new(testing::authority());
    let clock = Clock::system();
    let names = ["ambit-controller.ambit-system.svc", "10.96.0.9", "fd00::9"].map(String::from);
    let tls = authority.controller_acceptor(&names).unwrap();
    let roots = authority.bundle_pem();
    for name in &names {
        reaches(&tls, &roots, &clock, name).await.unwrap();
    }
    let wrong_name = reaches(&tls, &roots, &clock, "other.svc")
        .await
        .unwrap_err();
    let wrong_root = testing::authority().bundle_pem();
    let wrong_root = reaches(&tls, &wrong_root, &clock, &names[0])
        .await
        .unwrap_err();
    for error in [wrong_name, wrong_root] {
        let unverified = matches!(error, TlsError::Handshake(HandshakeError::Certificate(_)));
        assert!(unverified, "{error:?}");
    }
    assert!(matches!(
        authority.controller_acceptor(&[]),
        Err(TlsError::NoName)
    ));
}

#[tokio::test(start_paused = true)]
async fn the_controllers_certificate_outlives_itself_and_a_rotation() {
    let clock = Clock::following_tokio();
    let authority = Arc::new(Authority::in_memory(&TrustDomain::default(), clock.clone()));
    let name = "ambit-controller.ambit-system.svc";
    let tls = authority.controller_acceptor(&[name.to_owned()]).unwrap();
    tokio::time::advance(24 * 100 * HOUR).await;
    reaches(&tls, &authority.bundle_pem(), &clock, name)
        .await
        .unwrap();
    let next = authority.prepare_rotation().unwrap();
    authority.activate(next).unwrap();
    authority.retire(1).unwrap();
    reaches(&tls, &authority.bundle_pem(), &clock, name)
        .await
        .unwrap();
}
