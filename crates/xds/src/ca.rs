//! The certificate call: a daemon asks the controller for a certificate in a workload's name.
//!
//! Carries requests and answers only: keys, chains and their verification are `identity`'s, and
//! whether the caller may have that identity is the controller's to decide.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use model::{SpiffeError, SpiffeId};
use prost_types::{Struct, Value, value::Kind};
use tokio::time::timeout;
use tonic::{Request, metadata::MetadataMap, transport::Channel};

use crate::{BoxError, proto::ca::istio_certificate_service_client::IstioCertificateServiceClient};

pub use crate::proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};

/// Signing takes milliseconds; a controller that needs longer than this is gone.
const DEADLINE: Duration = Duration::from_secs(10);

const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot make the credentials for the controller")]
    Metadata(#[source] BoxError),
    #[error("the controller did not answer within {0:?}")]
    Deadline(Duration),
    #[error("the controller refused to sign for {identity}")]
    Refused {
        identity: SpiffeId,
        #[source]
        status: tonic::Status,
    },
    #[error("the controller answered with {0} certificates: a leaf and the roots are the least")]
    Chain(usize),
}

/// The calling end. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    service: IstioCertificateServiceClient<Channel>,
    metadata: Arc<dyn Fn() -> Result<MetadataMap, BoxError> + Send + Sync>,
}

impl Client {
    /// A client over `channel`, which should reconnect by itself ([`crate::channel::lazy`]).
    /// `metadata` is asked for every call, so that a renewed token is picked up.
    pub fn new(
        channel: Channel,
        metadata: impl Fn() -> Result<MetadataMap, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            service: IstioCertificateServiceClient::new(channel),
            metadata: Arc::new(metadata),
        }
    }

    /// Has `csr_pem` signed in the name of `impersonated`. The answer is PEM: the leaf,
    /// intermediates, last the roots.
    pub async fn sign(
        &self,
        csr_pem: String,
        validity: Duration,
        impersonated: &SpiffeId,
    ) -> Result<Vec<String>, SignError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem,
            validity_duration: i64::try_from(validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonation(impersonated)),
        });
        *request.metadata_mut() = (self.metadata)().map_err(SignError::Metadata)?;
        let mut service = self.service.clone();
        let answer = timeout(DEADLINE, service.create_certificate(request))
            .await
            .map_err(|_| SignError::Deadline(DEADLINE))?
            .map_err(|status| SignError::Refused {
                identity: impersonated.clone(),
                status,
            })?;
        let chain = answer.into_inner().cert_chain;
        if chain.len() < 2 {
            return Err(SignError::Chain(chain.len()));
        }
        Ok(chain)
    }
}

fn impersonation(identity: &SpiffeId) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: [(IMPERSONATED.to_owned(), value)].into(),
    }
}

/// Why a request's impersonated identity cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    #[error("the metadata field {IMPERSONATED} is not text")]
    NotText,
    #[error("the metadata field {IMPERSONATED} is not an identity")]
    Identity(#[from] SpiffeError),
}

/// The identity a request asks for, if it asks for another than the caller's own.
pub fn impersonated(
    request: &IstioCertificateRequest,
) -> Result<Option<SpiffeId>, ImpersonationError> {
    let field = request
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.fields.get(IMPERSONATED));
    match field.map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => Ok(Some(text.parse()?)),
        Some(_) => Err(ImpersonationError::NotText),
    }
}
