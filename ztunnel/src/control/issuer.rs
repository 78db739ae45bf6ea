//! Gets certificates from the controller's CA.

use std::time::Duration;

use identity::{IssueError, IssuedChain};
use model::SpiffeId;
use xds::ca::SignError;

use super::Controller;

/// What is asked for, as Istio's ztunnel does; the CA may give less.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The CA call.
pub(crate) struct Issuer(xds::ca::Client);

impl Issuer {
    pub(crate) fn new(controller: &Controller) -> Self {
        let credentials = controller.clone();
        Self(xds::ca::Client::new(controller.lazy(), move || {
            credentials.credentials()
        }))
    }
}

impl identity::Issuer for Issuer {
    async fn issue(&self, csr_pem: String, id: &SpiffeId) -> Result<IssuedChain, IssueError> {
        let certificates_pem = self.0.sign(csr_pem, VALIDITY, id).await.map_err(refused)?;
        Ok(IssuedChain { certificates_pem })
    }
}

fn refused(error: SignError) -> IssueError {
    match error {
        SignError::Refused { status, .. } if status.code() == tonic::Code::PermissionDenied => {
            IssueError::Denied {
                reason: status.message().to_owned(),
            }
        }
        other => IssueError::Unavailable(Box::new(other)),
    }
}
