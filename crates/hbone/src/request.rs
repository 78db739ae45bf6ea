//! A CONNECT request as both ends see it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header::HeaderName, request};

use crate::{Authority, Baggage, Forwarded, RequestError, Traceparent};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// Where to connect, and what the client says about the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    pub authority: Authority,
    pub baggage: Option<Baggage>,
    pub forwarded: Option<Forwarded>,
    pub traceparent: Option<Traceparent>,
    /// The client's network, when it came through a gateway.
    pub network: Option<Arc<str>>,
}

impl ConnectRequest {
    /// A request with nothing said but the target.
    pub fn new(authority: impl Into<Authority>) -> Self {
        Self {
            authority: authority.into(),
            baggage: None,
            forwarded: None,
            traceparent: None,
            network: None,
        }
    }

    pub(crate) fn to_http(&self) -> Result<Request<()>, http::Error> {
        let uri = Uri::try_from(self.authority.to_string())?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let network = self.network.as_deref();
        let values = [
            (BAGGAGE, self.baggage.as_ref().and_then(Baggage::to_header)),
            (
                FORWARDED,
                self.forwarded.as_ref().and_then(Forwarded::to_header),
            ),
            (
                TRACEPARENT,
                self.traceparent.and_then(Traceparent::to_header),
            ),
            (
                NETWORK,
                network.and_then(|name| HeaderValue::try_from(name).ok()),
            ),
        ];
        for (name, value) in values {
            if let Some(value) = value {
                request.headers_mut().insert(name, value);
            }
        }
        Ok(request)
    }

    pub(crate) fn from_http(head: &request::Parts) -> Result<Self, RequestError> {
        if head.method != Method::CONNECT {
            return Err(RequestError::Method(head.method.clone()));
        }
        let authority = head.uri.authority().ok_or(RequestError::NoAuthority)?;
        let authority = authority
            .as_str()
            .parse()
            .map_err(RequestError::Authority)?;
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Self {
            authority,
            baggage: baggage(&head.headers),
            forwarded: text(FORWARDED).and_then(Forwarded::parse),
            traceparent: text(TRACEPARENT).and_then(Traceparent::parse),
            network: text(NETWORK).map(Into::into),
        })
    }
}

/// Adds what a workload says of itself.
pub(crate) fn insert_baggage(headers: &mut HeaderMap, baggage: &Baggage) {
    if let Some(value) = baggage.to_header() {
        headers.insert(BAGGAGE, value);
    }
}

/// What the other end said of itself.
pub(crate) fn baggage(headers: &HeaderMap) -> Option<Baggage> {
    let value = headers.get(BAGGAGE)?.to_str().ok()?;
    Some(Baggage::parse(value))
}
