//! TLS between daemons and the controller: one side has a certificate, the other a token.
//!
//! The controller's names are DNS names and addresses, checked as on the web, but under the
//! mesh's own roots. Authenticating the daemon is the caller's, by its token.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    Authority, ClientStream, Clock, HandshakeError, RootNumber, RootsError, ServerStream,
    SignError,
    certificate::without_resumption,
    pem,
    provider::{ALPN, VERSIONS, provider},
    request::signing_key,
    roots::Roots,
};

/// Why control plane TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the controller needs a DNS name or an address to be reached by")]
    NoName,
    #[error("cannot make the controller's key")]
    Key(#[source] rcgen::Error),
    #[error("cannot sign the controller's certificate for {names:?}")]
    Sign {
        names: Vec<String>,
        source: SignError,
    },
    #[error("the controller's roots are bad; is the bundle the one the controller signs with?")]
    Roots(#[from] RootsError),
    #[error("{name:?} is neither a DNS name nor an address")]
    ServerName { name: String },
    #[error("the controller could not be trusted or reached")]
    Handshake(#[from] HandshakeError),
}

/// The controller's end. Renews its certificate as connections come in.
pub struct ServerTls {
    authority: Arc<Authority>,
    names: Vec<String>,
    current: Mutex<Issued>,
}

#[derive(Clone)]
struct Issued {
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
    signed_by: RootNumber,
}

impl ServerTls {
    pub(crate) fn new(authority: Arc<Authority>, names: &[String]) -> Result<Self, TlsError> {
        if names.is_empty() {
            return Err(TlsError::NoName);
        }
        let current = Mutex::new(issue(&authority, names)?);
        Ok(Self {
            authority,
            names: names.to_vec(),
            current,
        })
    }

    /// Answers a handshake. The caller bounds the time.
    pub async fn accept<IO>(&self, io: IO) -> Result<ServerStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(TlsAcceptor::from(self.config()).accept(io).await?)
    }

    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.authority.clock().now() >= current.renew_at
            || self.authority.active_root() != current.signed_by;
        if due {
            match issue(&self.authority, &self.names) {
                Ok(renewed) => *current = renewed,
                // The old one is good for as long again.
                Err(error) => {
                    tracing::warn!(%error, "the controller's own certificate is not renewed");
                }
            }
        }
        current.config.clone()
    }
}

fn issue(authority: &Authority, names: &[String]) -> Result<Issued, TlsError> {
    let signed_by = authority.active_root();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Key)?;
    let (text, renew_at) = authority
        .sign_server(&key, names)
        .map_err(|source| TlsError::Sign {
            names: names.to_vec(),
            source,
        })?;
    let chain = pem::certificates(&text).expect("a certificate just made can be parsed");
    let certified = CertifiedKey::new(chain, signing_key(&key));
    let clock = Arc::new(authority.clock().clone());
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites for TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    without_resumption(&mut config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Issued {
        config: config.into(),
        renew_at,
        signed_by,
    })
}

/// A daemon's end.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Trusts a controller under these roots.
    pub fn new(roots_pem: &str) -> Result<Self, TlsError> {
        Self::with_clock(roots_pem, &Clock::system())
    }

    pub(crate) fn with_clock(roots_pem: &str, clock: &Clock) -> Result<Self, TlsError> {
        let roots = Roots::parse(roots_pem)?;
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
            .with_protocol_versions(VERSIONS)
            .expect("the provider has suites for TLS 1.3")
            .with_root_certificates(roots.store)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: config.into(),
        })
    }

    /// Begins a handshake with a controller of this DNS name or address. The caller bounds the
    /// time.
    pub async fn connect<IO>(&self, io: IO, server_name: &str) -> Result<ClientStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name =
            ServerName::try_from(server_name.to_owned()).map_err(|_| TlsError::ServerName {
                name: server_name.to_owned(),
            })?;
        let connector = TlsConnector::from(self.config.clone());
        let connected = connector.connect(name, io).await;
        Ok(connected.map_err(HandshakeError::from)?)
    }
}
