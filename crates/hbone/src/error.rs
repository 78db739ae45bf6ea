//! What can go wrong with a tunnel, and with one request in it.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::{AuthorityError, Baggage};

/// Why a connection ended, or why one request on it was answered by this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection is over.
    #[error("the HTTP/2 connection failed")]
    Connection(#[source] h2::Error),
    /// The connection is over: the peer is gone or stuck.
    #[error("the peer left a PING unanswered for {0:?}")]
    Unresponsive(Duration),
    /// One request was answered 400; the connection goes on.
    #[error("a request was answered 400")]
    Request(#[source] RequestError),
}

impl Error {
    /// Whether the connection goes on.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Request(_))
    }
}

/// What is wrong with a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("the method is {0}, not CONNECT")]
    Method(Method),
    #[error("the request has no authority")]
    NoAuthority,
    #[error("the authority names no target")]
    Authority(#[source] AuthorityError),
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer answered, and not with 200.
    #[error("the peer answered {status}")]
    Refused {
        status: StatusCode,
        /// What the peer said of itself, if anything.
        baggage: Option<Box<Baggage>>,
    },
    /// The connection takes no more streams, and the request was not sent or not processed: it
    /// can be tried on another connection.
    #[error("the connection is closed or going away")]
    Closed(#[source] Option<h2::Error>),
    /// The peer reset the stream, or the connection failed while the answer was awaited.
    #[error("the stream failed before it was answered")]
    Stream(#[source] h2::Error),
}

impl ConnectError {
    /// Whether the peer has surely not acted on the request.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl From<h2::Error> for ConnectError {
    fn from(error: h2::Error) -> Self {
        // REFUSED_STREAM, and a GOAWAY that excludes the stream, mean "not processed" (RFC 9113
        // sections 6.8 and 8.7).
        if error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            Self::Closed(Some(error))
        } else {
            Self::Stream(error)
        }
    }
}
