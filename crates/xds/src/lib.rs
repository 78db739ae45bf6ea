//! Steps 3 and 4 of the way of a configuration: the wire between the controller and the daemons.
//!
//! [`server`] publishes what the controller compiled, [`client`] keeps a daemon's index up to
//! date, [`ca`] carries certificate requests, and [`convert`] is the only door between wire
//! messages and `model`. The crate decides no policy and makes no TLS: streams of bytes are the
//! caller's ([`channel`]).

pub mod ca;
pub mod channel;
pub mod client;
pub mod convert;
pub mod proto;
mod resource_type;
pub mod server;
#[cfg(test)]
mod testing;

pub use channel::credentials;
pub use resource_type::ResourceType;

/// An error of the caller's own, carried through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest message either end takes: the first push of a large mesh is one message.
const MAX_MESSAGE: usize = 200 * 1024 * 1024;
