//! The certificate call: proves the caller, applies the rule, has the authority sign.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use identity::{Authority, IssuedChain, SignError};
use model::{SpiffeId, TrustDomain};
use tonic::{Request, Response, Status};
use xds::ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
    IstioCertificateServiceServer, impersonated,
};

use super::{
    authorize::{self, authorize},
    limit::Limits,
    token::{NodeName, TokenKey},
};
use crate::serve::{
    State, authenticate,
    metrics::{Denied, Signatures},
};

/// The gRPC service.
pub(crate) struct Service {
    pub(crate) key: Arc<TokenKey>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) state: Arc<State>,
    pub(crate) signatures: Arc<Signatures>,
    pub(crate) trust_domain: TrustDomain,
    /// The longest life a certificate is given.
    pub(crate) longest: Duration,
    pub(crate) limits: Mutex<Limits>,
}

impl Service {
    pub(crate) fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self)
    }

    fn allow(
        &self,
        node: &NodeName,
        request: &IstioCertificateRequest,
    ) -> Result<SpiffeId, (Denied, Status)> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.take(node, Instant::now()).map_err(|error| {
            (
                Denied::TooFast,
                Status::resource_exhausted(error.to_string()),
            )
        })?;
        drop(limits);
        let wanted = impersonated(request).map_err(|error| {
            (
                Denied::BadRequest,
                Status::invalid_argument(describe(&error)),
            )
        })?;
        authorize(&self.state.view.load(), &self.trust_domain, node, wanted).map_err(
            |refusal: authorize::Refusal| {
                let status = Status::permission_denied(refusal.to_string());
                (Denied::NotAllowed, status)
            },
        )
    }

    fn sign(
        &self,
        id: &SpiffeId,
        request: &IstioCertificateRequest,
    ) -> Result<IssuedChain, (Denied, Status)> {
        let asked = u64::try_from(request.validity_duration).map(Duration::from_secs);
        let life = match asked {
            Ok(asked) if !asked.is_zero() => asked.min(self.longest),
            Ok(_) | Err(_) => self.longest,
        };
        let signed = self.authority.sign(&request.csr, id, life);
        signed.map_err(|error| {
            let text = describe(&error);
            match error {
                SignError::TrustDomain { .. }
                | SignError::TooLong
                | SignError::Request(_)
                | SignError::KeyType
                | SignError::Life => (Denied::BadRequest, Status::invalid_argument(text)),
                SignError::NoRoot | SignError::Random | SignError::Sign(_) => {
                    (Denied::Failed, Status::internal(text))
                }
            }
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let node = authenticate(&self.key, request.metadata()).inspect_err(|status| {
            self.signatures.deny(Denied::Unauthenticated);
            tracing::warn!(reason = status.message(), "certificate denied");
        })?;
        let request = request.into_inner();
        let outcome = self
            .allow(&node, &request)
            .and_then(|id| Ok((self.sign(&id, &request)?, id)));
        match outcome {
            Ok((chain, id)) => {
                self.signatures.issued.fetch_add(1, Relaxed);
                record(&node, &id, &chain);
                let cert_chain = chain.certificates_pem;
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err((denied, status)) => {
                self.signatures.deny(denied);
                tracing::warn!(%node, reason = status.message(), "certificate denied");
                Err(status)
            }
        }
    }
}

fn record(node: &NodeName, id: &SpiffeId, chain: &IssuedChain) {
    match chain.leaf_info() {
        Ok(leaf) => {
            let life = leaf.not_after.duration_since(SystemTime::now());
            let life = life.unwrap_or_default();
            tracing::info!(%node, identity = %id, serial = leaf.serial, ?life, "certificate issued");
        }
        Err(error) => {
            tracing::error!(%node, identity = %id, %error, "what was signed is unreadable")
        }
    }
}

/// An error and its causes in one line, for a caller that sees only text.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
