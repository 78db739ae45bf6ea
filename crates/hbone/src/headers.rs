//! The typed headers of a CONNECT request and its answer.

mod baggage;
mod forwarded;
mod traceparent;

pub use baggage::Baggage;
pub use forwarded::Forwarded;
pub use traceparent::Traceparent;
