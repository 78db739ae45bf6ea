//! Node tokens of the standalone mode: signed statements of which node a daemon is.
//!
//! Where there is no API server to vouch for a node, the controller does: an operator makes a
//! token with `ambit-controller token` and puts it where the daemon of that node reads it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::store;

/// What Istio's daemons ask a token for.
const AUDIENCE: &str = "istio-ca";
const SUBJECT_PREFIX: &str = "system:node:";
const FILE: &str = "token-key.pem";

/// The key that signs tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("the token key {path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the token key {path} is not a P-256 private key in PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("a token key cannot be generated")]
    Generate(#[source] rcgen::Error),
    #[error("a token cannot be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Why a caller is nobody.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("no bearer token in the authorization header")]
    Missing,
    #[error("the token is refused: {0}")]
    Refused(#[source] jsonwebtoken::errors::Error),
    #[error("the token's subject {subject:?} is not {SUBJECT_PREFIX}NODE")]
    NoNode { subject: String },
}

/// The name of a node, proven by a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &Arc<str> {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// Signs and checks node tokens.
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TokenKey")
    }
}

impl TokenKey {
    /// The key in `folder`, made when there is none.
    pub fn load_or_create(folder: &Path) -> Result<Self, TokenKeyError> {
        let path = folder.join(FILE);
        let file = |source| TokenKeyError::File {
            path: path.clone(),
            source,
        };
        store::create_folder(folder).map_err(file)?;
        let pair = match store::read(&path).map_err(file)? {
            Some(pem) => rcgen::KeyPair::from_pem(&pem).map_err(|source| TokenKeyError::Pem {
                path: path.clone(),
                source,
            })?,
            None => {
                let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                    .map_err(TokenKeyError::Generate)?;
                store::replace(&path, pair.serialize_pem().as_bytes()).map_err(file)?;
                pair
            }
        };
        Ok(Self {
            encoding: EncodingKey::from_ec_der(&pair.serialize_der()),
            decoding: DecodingKey::from_ec_der(pair.public_key_raw()),
        })
    }

    /// A token for a node.
    pub fn issue(
        &self,
        node: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, TokenKeyError> {
        let issued = now
            .duration_since(UNIX_EPOCH)
            .expect("the clock is past 1970");
        let claims = Claims {
            sub: format!("{SUBJECT_PREFIX}{node}"),
            aud: AUDIENCE.to_owned(),
            iat: issued.as_secs(),
            exp: (issued + ttl).as_secs(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encoding)
            .map_err(TokenKeyError::Sign)
    }

    /// The node an `authorization` header speaks for.
    pub(crate) fn authenticate(&self, header: Option<&str>) -> Result<NodeName, TokenError> {
        let token = header
            .and_then(|text| text.strip_prefix("Bearer "))
            .ok_or(TokenError::Missing)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.leeway = 0;
        let claims = jsonwebtoken::decode::<Claims>(token.trim(), &self.decoding, &validation)
            .map_err(TokenError::Refused)?
            .claims;
        match claims.sub.strip_prefix(SUBJECT_PREFIX) {
            Some(node) if !node.is_empty() => Ok(NodeName(node.into())),
            Some(_) | None => Err(TokenError::NoNode {
                subject: claims.sub,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    fn key() -> (TokenKey, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (TokenKey::load_or_create(folder.path()).unwrap(), folder)
    }

    #[test]
    fn a_token_names_its_node_also_to_the_next_controller() {
        let (key, folder) = key();
        let token = key.issue("node-a", HOUR, SystemTime::now()).unwrap();
        let again = TokenKey::load_or_create(folder.path()).unwrap();
        for key in [key, again] {
            let node = key.authenticate(Some(&bearer(&token))).unwrap();
            assert_eq!(&**node.as_str(), "node-a");
        }
    }

    #[test]
    fn the_key_is_private_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let (_, folder) = key();
        let metadata = std::fs::metadata(folder.path().join(FILE)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_token_is_nobody() {
        let (key, _folder) = key();
        for header in [None, Some(""), Some("Basic abc")] {
            let error = key.authenticate(header).unwrap_err();
            assert!(matches!(error, TokenError::Missing), "{header:?}");
        }
    }

    #[test]
    fn an_expired_token_is_refused() {
        let (key, _folder) = key();
        let token = key
            .issue("node-a", HOUR, SystemTime::now() - 2 * HOUR)
            .unwrap();
        assert!(matches!(
            key.authenticate(Some(&bearer(&token))).unwrap_err(),
            TokenError::Refused(_)
        ));
    }

    #[test]
    fn a_token_of_another_audience_subject_or_key_is_refused() {
        let (key, _folder) = key();
        let (other, _other_folder) = self::key();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let sign = |key: &TokenKey, sub: &str, aud: &str| {
            let claims = Claims {
                sub: sub.to_owned(),
                aud: aud.to_owned(),
                iat: now,
                exp: now + 60,
            };
            let header = Header::new(Algorithm::ES256);
            bearer(&jsonwebtoken::encode(&header, &claims, &key.encoding).unwrap())
        };
        let good = sign(&key, "system:node:node-a", AUDIENCE);
        assert!(key.authenticate(Some(&good)).is_ok());
        for bad in [
            sign(&key, "system:node:node-a", "vault"),
            sign(&key, "system:serviceaccount:shop:web", AUDIENCE),
            sign(&key, "system:node:", AUDIENCE),
            sign(&other, "system:node:node-a", AUDIENCE),
        ] {
            assert!(key.authenticate(Some(&bad)).is_err());
        }
    }
}
