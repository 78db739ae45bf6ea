//! How a daemon begins, says that it is ready, serves its own pages and ends.
//!
//! Nothing here knows what the daemon does.

pub mod http;
mod readiness;
mod shutdown;

pub use readiness::{Readiness, Task};
pub use shutdown::Shutdown;
