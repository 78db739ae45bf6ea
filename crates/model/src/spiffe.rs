//! SPIFFE identities as the mesh writes them: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a string is not an identity of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The scheme is not `spiffe`.
    #[error("{0:?} does not begin with spiffe://")]
    Scheme(String),
    /// The path is not exactly `/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("the path of {0:?} is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Path(String),
    /// A segment is empty or holds a character outside `[A-Za-z0-9._-]` (SPIFFE-ID section 2).
    #[error("{field} {value:?} is empty or holds a character outside [A-Za-z0-9._-]")]
    Segment { field: &'static str, value: String },
}

fn segment(field: &'static str, value: &str) -> Result<Arc<str>, SpiffeError> {
    let valid = !value.is_empty()
        && value != "."
        && value != ".."
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if valid {
        Ok(value.into())
    } else {
        Err(SpiffeError::Segment {
            field,
            value: value.to_owned(),
        })
    }
}

/// The root of trust an identity belongs to, such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, which is also what an empty field on the wire means.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(value: &str) -> Result<Self, SpiffeError> {
        segment("trust domain", value).map(Self)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The identity of a workload: the one URI SAN of its certificate. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// Builds an identity from its parts; fails when one of them cannot stand in a SPIFFE path.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        Ok(Self {
            trust_domain,
            namespace: segment("namespace", namespace)?,
            service_account: segment("service account", service_account)?,
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(value: &str) -> Result<Self, SpiffeError> {
        let rest = value
            .strip_prefix("spiffe://")
            .ok_or_else(|| SpiffeError::Scheme(value.to_owned()))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(SpiffeError::Path(value.to_owned()));
        };
        Self::new(trust_domain.parse()?, namespace, service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        write!(
            out,
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_a_round_trip() {
        let text = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
    }

    #[test]
    fn anything_but_the_exact_shape_is_refused() {
        for bad in [
            "",
            "https://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe:///ns/shop/sa/web",
            "spiffe://cluster.local/sa/web/ns/shop",
            "spiffe://cluster.local/ns/../sa/web",
            "spiffe://cluster.local/ns/sh op/sa/web",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was accepted");
        }
    }
}
