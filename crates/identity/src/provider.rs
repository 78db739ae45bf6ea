//! The cryptography the mesh offers: TLS 1.3, AES-GCM, and a post-quantum key exchange first.

use std::sync::{Arc, LazyLock};

use rustls::{
    SupportedProtocolVersion,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    version::TLS13,
};

/// HTTP/2 is all that is spoken inside.
pub(crate) const ALPN: &[u8] = b"h2";

pub(crate) static VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// AES-256 first, as in Istio's ztunnel. ChaCha20 is left out: every machine that runs a mesh
/// has AES in hardware, and FIPS has no ChaCha20.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
});

pub(crate) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}
