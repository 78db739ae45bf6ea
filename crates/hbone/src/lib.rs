//! Hop 4 of 7, the tunnel: TCP connections as HTTP/2 CONNECT streams (HBONE).
//!
//! [`client`] and [`server`] speak the protocol over any byte stream, [`relay()`] moves the bytes
//! between a stream and a socket, [`pool::Pool`] shares client connections. No TLS, no identity
//! and no policy here: who may connect is decided before a request is made or accepted.

mod authority;
mod buffer;
pub mod client;
mod error;
mod headers;
mod held;
mod keepalive;
mod paced;
pub mod pool;
mod read_ahead;
mod relay;
mod request;
pub mod server;
mod settings;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use error::{ConnectError, Error, RequestError};
pub use headers::{Baggage, Forwarded, Traceparent};
pub use read_ahead::ReadAhead;
pub use relay::{IntoSocket, RelayEnd, Side, Socket, TcpSocket, Traffic, relay};
pub use request::ConnectRequest;
pub use settings::Settings;
pub use tunnel::Tunnel;
