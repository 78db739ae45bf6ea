//! One workload's certificate, ready for handshakes.
//!
//! The TLS configurations are built once and shared by all connections: building one per
//! handshake is a cost the peer implementation pays.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use model::SpiffeId;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};

use crate::{
    CertificateInfo, Clock, IssuedChain, IssuedError, leaf, pem,
    provider::{ALPN, VERSIONS, provider},
    roots::Roots,
    verify::{ClientVerifier, ServerVerifier},
};

/// Sets of expected identities to keep a configuration for. A node talks to far fewer; the
/// bound is there because expectations come over the network.
const MAX_CLIENT_CONFIGS: usize = 4096;

/// A key, its certificate chain, and the roots to judge others by.
pub struct WorkloadCertificate {
    id: SpiffeId,
    info: CertificateInfo,
    renew_at: SystemTime,
    chain_pem: Vec<String>,
    roots: Roots,
    clock: Clock,
    resolver: Arc<SingleCertAndKey>,
    certified: CertifiedKey,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<Vec<SpiffeId>, Arc<ClientConfig>>>,
}

impl WorkloadCertificate {
    /// Takes what the authority issued for `key`, if it is for `id` and verifies.
    pub(crate) fn from_issued(
        key: Arc<dyn SigningKey>,
        id: &SpiffeId,
        issued: &IssuedChain,
        clock: &Clock,
    ) -> Result<Self, IssuedError> {
        let [chain @ .., roots] = &issued.certificates_pem[..] else {
            return Err(IssuedError::Incomplete { count: 0 });
        };
        let roots = Roots::parse(roots)?;
        let chain_pem: Vec<String> = chain.iter().flat_map(|text| pem::blocks(text)).collect();
        let mut chain = Vec::with_capacity(chain_pem.len());
        for block in &chain_pem {
            chain.extend(pem::certificates(block).map_err(IssuedError::Pem)?);
        }
        let Some(end_entity) = chain.first() else {
            return Err(IssuedError::Incomplete { count: 1 });
        };
        let got = leaf::spiffe_id(end_entity)?;
        if got != *id {
            let wanted = id.clone();
            return Err(IssuedError::WrongIdentity { wanted, got });
        }
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(IssuedError::WrongKey)?;
        let held = Self::assemble(id.clone(), certified, chain_pem, roots, clock.clone())?;
        held.verify_own_chain(&held.roots)?;
        Ok(held)
    }

    /// Puts the parts together without judging them.
    pub(crate) fn assemble(
        id: SpiffeId,
        certified: CertifiedKey,
        chain_pem: Vec<String>,
        roots: Roots,
        clock: Clock,
    ) -> Result<Self, IssuedError> {
        let end_entity = certified.cert.first();
        let info = CertificateInfo::parse(end_entity.ok_or(IssuedError::Incomplete { count: 1 })?)?;
        let renew_at = half_way(&info, clock.now());
        let resolver = Arc::new(SingleCertAndKey::from(certified.clone()));
        let server = server_config(&id, &roots, resolver.clone(), &clock);
        Ok(Self {
            id,
            info,
            renew_at,
            chain_pem,
            roots,
            clock,
            resolver,
            certified,
            server,
            clients: Mutex::default(),
        })
    }

    /// The same certificate, judging others by `roots`. Fails when it would not itself be
    /// accepted under them.
    pub(crate) fn with_roots(&self, roots: &Roots) -> Result<Self, IssuedError> {
        self.verify_own_chain(roots)?;
        let mut held = Self::assemble(
            self.id.clone(),
            self.certified.clone(),
            self.chain_pem.clone(),
            roots.clone(),
            self.clock.clone(),
        )?;
        held.renew_at = self.renew_at;
        Ok(held)
    }

    fn verify_own_chain(&self, roots: &Roots) -> Result<(), IssuedError> {
        let verifier = ServerVerifier::new(roots.clone(), vec![self.id.clone()]);
        let chain = &self.certified.cert;
        verifier
            .verify(&chain[0], &chain[1..], self.clock.unix())
            .map_err(IssuedError::Chain)
    }

    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Serial number and validity.
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.info.not_after
    }

    /// When a successor should be asked for: at half its life.
    pub fn renew_at(&self) -> SystemTime {
        self.renew_at
    }

    /// Whether it has begun and not ended.
    pub fn is_valid(&self) -> bool {
        self.info.is_valid_at(self.clock.now())
    }

    /// Leaf and intermediates as PEM, one each.
    pub fn chain_pem(&self) -> &[String] {
        &self.chain_pem
    }

    /// The trusted roots as PEM, one each.
    pub fn roots_pem(&self) -> &[String] {
        &self.roots.pem
    }

    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    pub(crate) fn server_config(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    pub(crate) fn client_config(&self, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get(expected) {
            return known.clone();
        }
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        let config = self.new_client_config(expected);
        clients.insert(expected.to_vec(), config.clone());
        config
    }

    fn new_client_config(&self, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let verifier = ServerVerifier::new(self.roots.clone(), expected.to_vec());
        let mut config =
            ClientConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
                .with_protocol_versions(VERSIONS)
                .expect("the provider has suites for TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The pod's address picks the certificate; a name on the wire would only tell others.
        config.enable_sni = false;
        // A resumed session would skip the verifier, and so outlive the roots it was judged by.
        config.resumption = Resumption::disabled();
        config.into()
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WorkloadCertificate")
            .field("id", &self.id)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

fn server_config(
    id: &SpiffeId,
    roots: &Roots,
    resolver: Arc<SingleCertAndKey>,
    clock: &Clock,
) -> Arc<ServerConfig> {
    let verifier = ClientVerifier::new(roots, id.trust_domain().clone());
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(resolver);
    without_resumption(&mut config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.into()
}

/// Tickets that no client uses are two messages for nothing.
pub(crate) fn without_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
}

/// Half the life of the certificate, or, if it came late, half of what is left.
fn half_way(info: &CertificateInfo, now: SystemTime) -> SystemTime {
    let half_after = |start: SystemTime| {
        let left = info.not_after.duration_since(start).unwrap_or_default();
        start + left / 2
    };
    let at = half_after(info.not_before);
    if at > now { at } else { half_after(now) }
}
