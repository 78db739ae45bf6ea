//! Mutual TLS between workloads, over any byte stream.
//!
//! The caller bounds the time: a peer that stalls stalls these futures, and dropping them is
//! safe at every point. On failure the stream is dropped, so the caller's socket option decides
//! between FIN and RST.

#[cfg(test)]
mod tests;

use std::{error::Error, io, net::Ipv4Addr, time::SystemTime};

use model::SpiffeId;
use rustls::{AlertDescription, CertificateError, CommonState};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{CertificateInfo, PeerRefused, WorkloadCertificate, leaf, provider::ALPN};

/// A stream whose client is verified.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

/// A stream whose server is verified.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// Whose doing a failed handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The peer's certificate or behaviour.
    Peer,
    /// Our certificate, or what the peer thinks of it.
    Ourselves,
    /// The connection broke.
    Network,
}

/// Why there is no secure stream.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer is refused")]
    Refused(#[source] PeerRefused),
    #[error(
        "the peer's certificate does not verify; does it share our root, and do the clocks agree?"
    )]
    Certificate(#[source] rustls::Error),
    #[error("the peer presented no certificate; is it in the mesh?")]
    NoCertificate,
    #[error("the peer did not agree on the protocol h2")]
    NoHttp2,
    #[error("the peer speaks no TLS 1.3 of ours")]
    Protocol(#[source] rustls::Error),
    #[error(
        "the peer refused us with the alert {alert:?}; is our certificate in its trust domain, under its roots, and expected?"
    )]
    RefusedByPeer { alert: AlertDescription },
    #[error("our own certificate for {id} is not valid now")]
    OwnCertificate { id: SpiffeId, not_after: SystemTime },
    #[error("the connection broke during the TLS handshake")]
    Transport(#[source] io::Error),
}

impl HandshakeError {
    /// Whose doing it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused(_)
            | Self::Certificate(_)
            | Self::NoCertificate
            | Self::NoHttp2
            | Self::Protocol(_) => Blame::Peer,
            Self::RefusedByPeer { .. } | Self::OwnCertificate { .. } => Blame::Ourselves,
            Self::Transport(_) => Blame::Network,
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(ref other)) => {
                match other.0.downcast_ref::<PeerRefused>() {
                    Some(refused) => Self::Refused(refused.clone()),
                    None => Self::Certificate(error),
                }
            }
            rustls::Error::InvalidCertificate(_) => Self::Certificate(error),
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol => Self::NoHttp2,
            rustls::Error::AlertReceived(alert) => Self::RefusedByPeer { alert },
            _ => Self::Protocol(error),
        }
    }
}

/// Classifies an error of the stream too: in TLS 1.3 a client is done before the server has
/// looked at its certificate, so a refusal comes with the first read.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => tls.clone().into(),
            None => Self::Transport(error),
        }
    }
}

/// Answers a handshake in the name of `certificate`. The peer is of the same trust domain.
pub async fn accept<IO>(
    io: IO,
    certificate: &WorkloadCertificate,
) -> Result<(ServerStream<IO>, SpiffeId), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    check_own(certificate)?;
    let acceptor = TlsAcceptor::from(certificate.server_config().clone());
    let stream = acceptor.accept(io).await?;
    let peer = verified_peer(stream.get_ref().1)?;
    Ok((stream, peer))
}

/// Begins a handshake in the name of `certificate`. The peer is one of `expected`; if that is
/// empty, nobody is good enough.
pub async fn connect<IO>(
    io: IO,
    certificate: &WorkloadCertificate,
    expected: &[SpiffeId],
) -> Result<(ClientStream<IO>, SpiffeId), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    check_own(certificate)?;
    let connector = TlsConnector::from(certificate.client_config(expected));
    // The verifier ignores the name, and an address is never sent.
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let stream = connector.connect(name, io).await?;
    let peer = verified_peer(stream.get_ref().1)?;
    Ok((stream, peer))
}

/// Serial number and validity of the client's certificate, for the log.
pub fn client_certificate<IO>(stream: &ServerStream<IO>) -> Option<CertificateInfo> {
    peer_info(stream.get_ref().1)
}

/// Serial number and validity of the server's certificate, for the log.
pub fn server_certificate<IO>(stream: &ClientStream<IO>) -> Option<CertificateInfo> {
    peer_info(stream.get_ref().1)
}

fn check_own(certificate: &WorkloadCertificate) -> Result<(), HandshakeError> {
    if certificate.is_valid() {
        return Ok(());
    }
    Err(HandshakeError::OwnCertificate {
        id: certificate.id().clone(),
        not_after: certificate.not_after(),
    })
}

fn verified_peer(connection: &CommonState) -> Result<SpiffeId, HandshakeError> {
    // A peer that offers no ALPN at all is not refused by rustls.
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::NoHttp2);
    }
    let presented = connection.peer_certificates().unwrap_or_default();
    let end_entity = presented.first().ok_or(HandshakeError::NoCertificate)?;
    leaf::spiffe_id(end_entity).map_err(|error| HandshakeError::Refused(error.into()))
}

fn peer_info(connection: &CommonState) -> Option<CertificateInfo> {
    let end_entity = connection.peer_certificates()?.first()?;
    CertificateInfo::parse(end_entity).ok()
}
