//! Between wire messages and `model`: what comes from the wire is checked here, once.
//!
//! A fault names the resource and the field. Nothing is repaired on the way in except what the
//! protocol defines as a default; a resource is taken whole or not at all.

mod authorization;
mod fields;
mod resource;
mod service;
mod workload;

#[cfg(test)]
mod tests;

pub use fields::Problem;
pub use resource::{DecodeError, Decoded, decode, encode, name};

/// Why a message was refused. The resource it came in is named by whoever decodes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    /// The field, with the indices of lists: `rules[0].clauses[1].matches[0].source_ips[2]`.
    pub path: String,
    pub problem: Problem,
}
