//! The call reaches a server as it was meant, and an answer without a chain is none.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::*;
use crate::{channel, testing::Network};

/// Signs for `web` only, with a chain that repeats what it was asked.
#[derive(Clone)]
struct Authority;

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").unwrap();
        let token = token.to_str().unwrap().to_owned();
        let request = request.into_inner();
        let identity = impersonated(&request).unwrap().unwrap();
        match identity.service_account() {
            "web" => Ok(Response::new(IstioCertificateResponse {
                cert_chain: vec![
                    format!("{} {} {identity}", request.csr, request.validity_duration),
                    token,
                ],
            })),
            "empty" => Ok(Response::new(IstioCertificateResponse::default())),
            _ => Err(Status::permission_denied("not on this node")),
        }
    }
}

async fn client() -> Client {
    let network = Network::default();
    network.serve(IstioCertificateServiceServer::new(Authority));
    let channel = network.channel().await.unwrap();
    Client::new(channel, || channel::credentials("secret\n", "Kubernetes"))
}

fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_carries_its_identity_lifetime_and_token() {
    let client = client().await;
    let day = Duration::from_secs(86_400);
    let chain = client
        .sign("csr".to_owned(), day, &identity("web"))
        .await
        .unwrap();
    assert_eq!(
        chain,
        [
            "csr 86400 spiffe://cluster.local/ns/shop/sa/web",
            "Bearer secret"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_identity_and_an_empty_chain_is_an_error() {
    let client = client().await;
    let sign = |account| {
        let client = &client;
        async move {
            client
                .sign("csr".to_owned(), Duration::from_secs(1), &identity(account))
                .await
        }
    };
    let refused = sign("other").await.unwrap_err();
    let SignError::Refused {
        identity: named,
        status,
    } = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (named, status.code()),
        (&identity("other"), Code::PermissionDenied)
    );
    assert!(matches!(sign("empty").await, Err(SignError::Chain(0))));
}

#[test]
fn an_impersonated_identity_is_absent_valid_or_an_error() {
    let request = |metadata| IstioCertificateRequest {
        metadata,
        ..Default::default()
    };
    let field = |kind| Struct {
        fields: [("ImpersonatedIdentity".to_owned(), Value { kind })].into(),
    };
    assert_eq!(impersonated(&request(None)), Ok(None));
    let text = Kind::StringValue("web".to_owned());
    let refused = impersonated(&request(Some(field(Some(text)))));
    assert!(matches!(refused, Err(ImpersonationError::Identity(_))));
    let number = Kind::NumberValue(1.0);
    let refused = impersonated(&request(Some(field(Some(number)))));
    assert_eq!(refused, Err(ImpersonationError::NotText));
}
