//! PEM texts to certificates. Other blocks, such as keys, are no certificates and are skipped.

use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};

const END: &str = "-----END CERTIFICATE-----";

/// All certificates of a text, in their order.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}

/// The text cut after each certificate, each with a final newline.
pub(crate) fn blocks(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_inclusive(END)
        .filter(|block| block.ends_with(END))
        .map(|block| format!("{}\n", block.trim_start()))
}
