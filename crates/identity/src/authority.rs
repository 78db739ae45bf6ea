//! The certificate authority of the controller.
//!
//! Signs what it is told to: whether a caller may have an identity is decided before. The
//! bundle may hold several roots, so that one can be distributed before it signs
//! ([`Authority::prepare_rotation`], then [`Authority::activate`] once every node has it).

mod files;
mod mint;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use model::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair};

use self::files::Home;
pub use self::mint::SignError;
use crate::{CertificateInfo, Clock, IssuedChain, LeafError, ServerTls, TlsError};

/// The number of a root: `root-N.pem`, counted from 1.
pub type RootNumber = u32;

/// Why the authority cannot keep or change its roots.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    ExposedKey { path: PathBuf, mode: u32 },
    #[error("{} holds no usable key", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{} holds no usable certificate", path.display())]
    Root { path: PathBuf, source: LeafError },
    #[error("the key beside {} is not that certificate's", path.display())]
    KeyMismatch { path: PathBuf },
    #[error("{} names no root", path.display())]
    ActiveFile { path: PathBuf },
    #[error("there is no root {root} with a key")]
    NoSuchRoot { root: RootNumber },
    #[error("root {root} signs; activate another first")]
    StillActive { root: RootNumber },
    #[error("cannot make a root")]
    Generate(#[source] rcgen::Error),
}

/// A root, for status and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootInfo {
    pub number: RootNumber,
    pub info: CertificateInfo,
    pub active: bool,
}

struct Root {
    number: RootNumber,
    pem: String,
    info: CertificateInfo,
    /// None for a root that is only trusted.
    issuer: Option<Issuer<'static, KeyPair>>,
}

struct Roots {
    /// By number.
    all: Vec<Root>,
    active: RootNumber,
}

impl Roots {
    fn find(&self, number: RootNumber) -> Option<&Root> {
        self.all.iter().find(|root| root.number == number)
    }

    /// The signing root's first, so that who reads only one certificate reads the right one.
    fn bundle_pem(&self) -> String {
        let (first, rest): (Vec<&Root>, Vec<&Root>) =
            self.all.iter().partition(|root| root.number == self.active);
        first
            .into_iter()
            .chain(rest)
            .map(|root| &root.pem[..])
            .collect()
    }
}

/// Signs certificates of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    clock: Clock,
    /// None keeps everything in memory.
    home: Option<Home>,
    roots: RwLock<Roots>,
}

impl Authority {
    /// The authority kept in `folder`; at the first start its root is made there.
    pub fn load_or_create(
        folder: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let clock = Clock::system();
        let home = Home::open(folder)?;
        let roots = match home.load()? {
            Some(roots) => roots,
            None => {
                let root = mint::root(1, trust_domain, &clock)?;
                home.save_root(&root)?;
                home.save_active(1)?;
                Roots {
                    all: vec![root],
                    active: 1,
                }
            }
        };
        Ok(Self {
            trust_domain: trust_domain.clone(),
            clock,
            home: Some(home),
            roots: RwLock::new(roots),
        })
    }

    /// An authority that keeps nothing.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory(trust_domain: &TrustDomain, clock: Clock) -> Self {
        let root = mint::root(1, trust_domain, &clock).expect("a root can be made");
        Self {
            trust_domain: trust_domain.clone(),
            clock,
            home: None,
            roots: RwLock::new(Roots {
                all: vec![root],
                active: 1,
            }),
        }
    }

    /// The domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All roots, the signing one first.
    pub fn bundle_pem(&self) -> String {
        self.read().bundle_pem()
    }

    /// All roots, by number.
    pub fn roots(&self) -> Vec<RootInfo> {
        let roots = self.read();
        let info = |root: &Root| RootInfo {
            number: root.number,
            info: root.info.clone(),
            active: root.number == roots.active,
        };
        roots.all.iter().map(info).collect()
    }

    /// Certifies the key of `csr_pem` as `id`. Nothing else of the request counts. The life is
    /// `ttl`, but at most 90 days and no longer than the root's.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Duration,
    ) -> Result<IssuedChain, SignError> {
        if id.trust_domain() != &self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(SignError::TrustDomain {
                id: id.clone(),
                own,
            });
        }
        let roots = self.read();
        let leaf = mint::workload(active(&roots)?, csr_pem, id, ttl, self.clock.now())?;
        Ok(IssuedChain {
            certificates_pem: vec![leaf, roots.bundle_pem()],
        })
    }

    /// The controller's own TLS, under these DNS names and addresses. Its certificate is signed
    /// here, and renewed as connections come in.
    pub fn controller_acceptor(self: &Arc<Self>, names: &[String]) -> Result<ServerTls, TlsError> {
        ServerTls::new(self.clone(), names)
    }

    /// Adds a root to the bundle that does not sign yet.
    pub fn prepare_rotation(&self) -> Result<RootNumber, AuthorityError> {
        let mut roots = self.write();
        let newest = roots.all.last().map_or(0, |root| root.number);
        let taken = self.home.as_ref().map_or(Ok(0), Home::highest_number)?;
        let number = newest.max(taken) + 1;
        let root = mint::root(number, &self.trust_domain, &self.clock)?;
        if let Some(home) = &self.home {
            home.save_root(&root)?;
        }
        roots.all.push(root);
        Ok(number)
    }

    /// Signs with this root from now on. Certificates of the others stay good.
    pub fn activate(&self, number: RootNumber) -> Result<(), AuthorityError> {
        let mut roots = self.write();
        let known = roots.find(number).filter(|root| root.issuer.is_some());
        if known.is_none() {
            return Err(AuthorityError::NoSuchRoot { root: number });
        }
        if let Some(home) = &self.home {
            home.save_active(number)?;
        }
        roots.active = number;
        Ok(())
    }

    /// Takes a root out of the bundle. What it signed is refused once the bundle has spread.
    pub fn retire(&self, number: RootNumber) -> Result<(), AuthorityError> {
        let mut roots = self.write();
        if roots.active == number {
            return Err(AuthorityError::StillActive { root: number });
        }
        if roots.find(number).is_none() {
            return Err(AuthorityError::NoSuchRoot { root: number });
        }
        if let Some(home) = &self.home {
            home.remove_root(number)?;
        }
        roots.all.retain(|root| root.number != number);
        Ok(())
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn active_root(&self) -> RootNumber {
        self.read().active
    }

    pub(crate) fn sign_server(
        &self,
        key: &KeyPair,
        names: &[String],
    ) -> Result<(String, SystemTime), SignError> {
        mint::server(active(&self.read())?, key, names, self.clock.now())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Roots> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Roots> {
        self.roots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn active(roots: &Roots) -> Result<&Root, SignError> {
    roots.find(roots.active).ok_or(SignError::NoRoot)
}
