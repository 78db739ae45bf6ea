//! Step 1 of a configuration: objects from a source, as an immutable [`View`] of the mesh.
//!
//! A source sends [`ObjectChange`]s; objects are parsed and validated here, so that everything
//! behind this module is total. Nothing here knows what the objects are compiled into.

pub(crate) mod authorization_policy;
pub(crate) mod core;
pub(crate) mod directory;
pub(crate) mod document;
pub(crate) mod entry;
pub(crate) mod follow;
pub(crate) mod manifest;
pub(crate) mod object;
pub(crate) mod peer_authentication;
pub(crate) mod view;

pub use directory::{DocumentState, DocumentStatus, Instead};
pub use document::{Fault, FaultPlace};
pub use object::{Kind, Object, ObjectChange, ObjectKey, ObjectName};
pub use view::{Enrolled, View};
