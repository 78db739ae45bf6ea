//! The controller: turns manifests into what the daemons need, and signs their certificates.
//!
//! Its three steps are modules: [`watch`] reads objects, [`compile`] turns them into resources
//! by pure functions, [`serve`] hands those out over xDS. [`ca`] signs. [`daemon`] wires them,
//! for the binary and for tests that embed a controller.

pub mod ca;
pub mod compile;
pub mod config;
pub mod daemon;
pub(crate) mod enrolments;
pub mod serve;
pub(crate) mod store;
pub mod watch;
