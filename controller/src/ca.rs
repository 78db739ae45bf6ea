//! The certificate authority's rule: a node gets only identities of pods placed on it.
//!
//! [`token`] says which node calls, `authorize` what it may have, `limit` how often; the key
//! that signs is `identity`'s. Names in the request itself are never believed.

pub(crate) mod authorize;
pub(crate) mod limit;
pub(crate) mod service;
pub mod token;
