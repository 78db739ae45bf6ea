//! Handshakes over an in-memory duplex: the good one, and each way it must fail.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::{NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    LeafError,
    forge::{Forge, Leaf},
    provider::{VERSIONS, provider},
    testing::{self, id},
};

type Outcome<S> = Result<(S, SpiffeId), HandshakeError>;

/// Both ends of one handshake. The client also reads once, which is how it learns of a refusal.
async fn shake(
    client: &WorkloadCertificate,
    server: &WorkloadCertificate,
    expected: &[SpiffeId],
) -> (
    Outcome<ClientStream<DuplexStream>>,
    Outcome<ServerStream<DuplexStream>>,
) {
    let (near, far) = duplex(64 * 1024);
    let connecting = async {
        let (mut stream, peer) = connect(near, client, expected).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok((stream, peer))
    };
    let accepting = async {
        let (mut stream, peer) = accept(far, server).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok((stream, peer))
    };
    tokio::join!(connecting, accepting)
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn web() -> SpiffeId {
    id("shop", "web")
}

fn cart() -> SpiffeId {
    id("shop", "cart")
}

/// The client presents this, and the server refuses it.
async fn client_refused(leaf: Leaf) -> HandshakeError {
    let forge = Forge::new();
    let client = forge.certificate(&web(), leaf);
    let server = forge.certificate(&cart(), Leaf::new(&[CART]));
    let (near, far) = shake(&client, &server, &[cart()]).await;
    assert!(
        matches!(near, Err(HandshakeError::RefusedByPeer { .. })),
        "the client is told: {near:?}"
    );
    far.expect_err("the server accepted the client")
}

/// The server presents this, and the client refuses it.
async fn server_refused(leaf: Leaf, expected: &[SpiffeId]) -> HandshakeError {
    let forge = Forge::new();
    let client = forge.certificate(&web(), Leaf::new(&[WEB]));
    let server = forge.certificate(&cart(), leaf);
    let (near, far) = shake(&client, &server, expected).await;
    assert!(
        matches!(far, Err(HandshakeError::RefusedByPeer { .. })),
        "the server is told: {far:?}"
    );
    near.expect_err("the client accepted the server")
}

#[track_caller]
fn check_refused(error: HandshakeError, refused: PeerRefused) {
    assert_eq!(error.blame(), Blame::Peer);
    match error {
        HandshakeError::Refused(got) => assert_eq!(got, refused),
        other => panic!("refused for another reason: {other:?}"),
    }
}

#[track_caller]
fn check_unverified(error: HandshakeError) {
    assert!(
        matches!(error, HandshakeError::Certificate(_)),
        "refused for another reason: {error:?}"
    );
    assert_eq!(error.blame(), Blame::Peer);
}

#[tokio::test]
async fn two_workloads_of_one_authority_learn_each_others_names() {
    let authority = testing::authority();
    let client = testing::certificate(&authority, &web());
    let server = testing::certificate(&authority, &cart());
    let (near, far) = shake(&client, &server, &[id("shop", "other"), cart()]).await;
    let (near, seen_by_client) = near.unwrap();
    let (far, seen_by_server) = far.unwrap();
    assert_eq!(seen_by_client, cart());
    assert_eq!(seen_by_server, web());
    assert_eq!(server_certificate(&near).as_ref(), Some(server.info()));
    assert_eq!(client_certificate(&far).as_ref(), Some(client.info()));
}

#[tokio::test]
async fn the_contracts_parameters_are_negotiated() {
    let authority = testing::authority();
    let client = testing::certificate(&authority, &web());
    let server = testing::certificate(&authority, &cart());
    let (near, far) = shake(&client, &server, &[cart()]).await;
    let ((near, _), (far, _)) = (near.unwrap(), far.unwrap());
    let ends: [&CommonState; 2] = [near.get_ref().1, far.get_ref().1];
    for end in ends {
        let group = end.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(end.alpn_protocol(), Some(&b"h2"[..]));
        let suite = end.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    }
    assert_eq!(far.get_ref().1.server_name(), None);
}

#[tokio::test]
async fn configurations_are_built_once() {
    let authority = testing::authority();
    let held = testing::certificate(&authority, &web());
    let first = held.client_config(&[cart()]);
    assert!(std::sync::Arc::ptr_eq(
        &first,
        &held.client_config(&[cart()])
    ));
    assert!(!std::sync::Arc::ptr_eq(
        &first,
        &held.client_config(&[web()])
    ));
}

#[tokio::test]
async fn a_client_with_two_uri_names_is_refused() {
    let error = client_refused(Leaf::new(&[WEB, "spiffe://cluster.local/ns/shop/sa/admin"])).await;
    check_refused(error, LeafError::UriCount { count: 2 }.into());
}

#[tokio::test]
async fn a_server_with_two_uri_names_is_refused_even_if_one_is_expected() {
    let error = server_refused(Leaf::new(&[CART, WEB]), &[cart()]).await;
    check_refused(error, LeafError::UriCount { count: 2 }.into());
}

#[tokio::test]
async fn a_peer_without_a_uri_name_is_refused() {
    let none = || PeerRefused::from(LeafError::UriCount { count: 0 });
    check_refused(client_refused(Leaf::new(&[])).await, none());
    check_refused(server_refused(Leaf::new(&[]), &[cart()]).await, none());
}

#[tokio::test]
async fn a_uri_of_another_shape_is_refused() {
    let error = client_refused(Leaf::new(&["spiffe://cluster.local/shop/web"])).await;
    let shape = matches!(
        error,
        HandshakeError::Refused(PeerRefused::NoIdentity(LeafError::Identity(_)))
    );
    assert!(shape, "{error:?}");
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let foreign = "spiffe://far.away/ns/shop/sa/web";
    let refused = PeerRefused::TrustDomain {
        id: foreign.parse().unwrap(),
        own: model::TrustDomain::default(),
    };
    check_refused(client_refused(Leaf::new(&[foreign])).await, refused);
}

#[tokio::test]
async fn a_server_that_is_not_expected_is_refused() {
    let expected = vec![id("shop", "other"), id("legacy", "cart")];
    let error = server_refused(Leaf::new(&[CART]), &expected).await;
    let id = cart();
    check_refused(error, PeerRefused::Unexpected { id, expected });
}

#[tokio::test]
async fn nobody_is_good_enough_when_nobody_is_expected() {
    let error = server_refused(Leaf::new(&[CART]), &[]).await;
    let refused = PeerRefused::Unexpected {
        id: cart(),
        expected: vec![],
    };
    check_refused(error, refused);
}

#[tokio::test]
async fn an_expired_or_future_certificate_is_refused_by_the_other_side() {
    let hour = Duration::from_secs(3600);
    // Both validities fail our own check as well, so the bad end is driven below it.
    for (not_before, not_after) in [
        (SystemTime::now() - 2 * hour, SystemTime::now() - hour),
        (SystemTime::now() + hour, SystemTime::now() + 2 * hour),
    ] {
        let forge = Forge::new();
        let leaf = Leaf {
            not_before,
            not_after,
            ..Leaf::new(&[WEB])
        };
        let client = forge.certificate(&web(), leaf);
        let server = forge.certificate(&cart(), Leaf::new(&[CART]));
        let (near, far) = duplex(64 * 1024);
        let connector = TlsConnector::from(client.client_config(&[cart()]));
        let name = ServerName::try_from("unused.example").unwrap();
        let (_near, far) = tokio::join!(connector.connect(name, near), accept(far, &server));
        check_unverified(far.expect_err("the server accepted the client"));
    }
}

#[tokio::test]
async fn our_own_certificate_is_not_used_when_it_has_ended() {
    let forge = Forge::new();
    let leaf = Leaf {
        not_after: SystemTime::now() - Duration::from_secs(1),
        ..Leaf::new(&[WEB])
    };
    let expired = forge.certificate(&web(), leaf);
    let (near, far) = duplex(1024);
    for error in [
        connect(near, &expired, &[cart()]).await.unwrap_err(),
        accept(far, &expired).await.unwrap_err(),
    ] {
        assert!(matches!(error, HandshakeError::OwnCertificate { .. }));
        assert_eq!(error.blame(), Blame::Ourselves);
    }
}

#[tokio::test]
async fn a_peer_of_another_root_is_refused() {
    let (ours, theirs) = (Forge::new(), Forge::new());
    let both = format!("{}{}", ours.root_pem, theirs.root_pem);
    let server = ours.certificate(&cart(), Leaf::new(&[CART]));
    let client = theirs.trusting(&both, &web(), Leaf::new(&[WEB]));
    let (_, far) = shake(&client, &server, &[cart()]).await;
    check_unverified(far.expect_err("the server accepted the client"));

    let client = ours.certificate(&web(), Leaf::new(&[WEB]));
    let server = theirs.trusting(&both, &cart(), Leaf::new(&[CART]));
    let (near, _) = shake(&client, &server, &[cart()]).await;
    check_unverified(near.expect_err("the client accepted the server"));
}

#[tokio::test]
async fn roots_may_be_several() {
    let (old, new) = (Forge::new(), Forge::new());
    let both = format!("{}{}", old.root_pem, new.root_pem);
    let client = old.trusting(&both, &web(), Leaf::new(&[WEB]));
    let server = new.trusting(&both, &cart(), Leaf::new(&[CART]));
    let (near, far) = shake(&client, &server, &[cart()]).await;
    assert_eq!((near.unwrap().1, far.unwrap().1), (cart(), web()));
}

#[tokio::test]
async fn a_certificate_for_another_use_is_refused() {
    let only = |usage| vec![usage];
    let leaf = Leaf {
        usages: only(ExtendedKeyUsagePurpose::ServerAuth),
        ..Leaf::new(&[WEB])
    };
    check_unverified(client_refused(leaf).await);
    let leaf = Leaf {
        usages: only(ExtendedKeyUsagePurpose::ClientAuth),
        ..Leaf::new(&[CART])
    };
    check_unverified(server_refused(leaf, &[cart()]).await);
}

#[tokio::test]
async fn an_authoritys_certificate_is_no_workloads() {
    let leaf = Leaf {
        is_ca: IsCa::Ca(BasicConstraints::Unconstrained),
        ..Leaf::new(&[WEB])
    };
    check_unverified(client_refused(leaf).await);
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused() {
    let padded = |uri| Leaf {
        padding: 9,
        ..Leaf::new(&[uri])
    };
    let refused = || PeerRefused::ChainTooLong { presented: 10 };
    check_refused(client_refused(padded(WEB)).await, refused());
    check_refused(server_refused(padded(CART), &[cart()]).await, refused());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = testing::authority();
    let server = testing::certificate(&authority, &cart());
    let (near, far) = duplex(64 * 1024);
    let verifier = crate::verify::ServerVerifier::new(server.roots().clone(), vec![cart()]);
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let name = ServerName::try_from("unused.example").unwrap();
    let (_near, far) = tokio::join!(connector.connect(name, near), accept(far, &server));
    assert!(matches!(far, Err(HandshakeError::NoCertificate)), "{far:?}");
}

#[tokio::test]
async fn a_peer_that_agrees_on_no_protocol_is_refused() {
    let authority = testing::authority();
    let client = testing::certificate(&authority, &web());
    let server = testing::certificate(&authority, &cart());
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let (near, far) = duplex(64 * 1024);
        let mut config = rustls::ClientConfig::clone(&client.client_config(&[cart()]));
        config.alpn_protocols = offered;
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let name = ServerName::try_from("unused.example").unwrap();
        let (_near, far) = tokio::join!(connector.connect(name, near), accept(far, &server));
        assert!(matches!(far, Err(HandshakeError::NoHttp2)), "{far:?}");
    }
}

/// A ClientHello as TLS 1.2 has it: no extension at all, so no `supported_versions`.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0); // no session
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2c]); // ECDHE-ECDSA with AES-GCM
    body.extend([1, 0]); // no compression
    let mut message = vec![1, 0, 0, body.len().try_into().unwrap()];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, message.len().try_into().unwrap()];
    record.extend(message);
    record
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused_with_an_alert() {
    let authority = testing::authority();
    let server = testing::certificate(&authority, &cart());
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(&tls12_hello()).await.unwrap();
    let error = accept(far, &server).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Protocol(_)), "{error:?}");
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    let fatal_alert = [21, 3, 3, 0, 2, 2];
    assert!(answer.starts_with(&fatal_alert), "{answer:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_nobodys_certificate() {
    let authority = testing::authority();
    let held = testing::certificate(&authority, &web());
    let (near, far) = duplex(1024);
    drop(far);
    let error = connect(near, &held, &[cart()]).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Transport(_)), "{error:?}");
    assert_eq!(error.blame(), Blame::Network);
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let authority = testing::authority();
    let server = testing::certificate(&authority, &cart());
    let (mut near, far) = duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await
        .unwrap();
    let error = accept(far, &server).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Protocol(_)), "{error:?}");
}
