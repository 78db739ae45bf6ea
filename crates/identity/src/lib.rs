//! Identities: who a workload is, how it proves it, and who signs the proof.
//!
//! The only crate that knows rustls. [`accept`] and [`connect`] are mutual TLS between
//! workloads; [`Store`] keeps one fresh certificate per identity; [`Authority`] signs them in
//! the controller; [`ServerTls`] and [`ClientTls`] are the control plane's own TLS. It opens no
//! socket and decides no policy: a verified [`model::SpiffeId`] is all it says about a peer.

mod authority;
mod certificate;
mod clock;
mod control_plane;
mod handshake;
mod issue;
mod leaf;
mod pem;
mod provider;
mod request;
mod roots;
mod store;
mod verify;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod forge;
#[cfg(test)]
mod garbage;

pub use authority::{Authority, AuthorityError, RootInfo, RootNumber, SignError};
pub use certificate::WorkloadCertificate;
pub use clock::Clock;
pub use control_plane::{ClientTls, ServerTls, TlsError};
pub use handshake::{
    Blame, ClientStream, HandshakeError, ServerStream, accept, client_certificate, connect,
    server_certificate,
};
pub use issue::{FetchError, IssueError, IssuedChain, IssuedError, Issuer};
pub use leaf::{CertificateInfo, LeafError};
pub use roots::RootsError;
pub use store::{CertificateStatus, Config, IdentityError, Keeper, Store};
pub use verify::PeerRefused;
