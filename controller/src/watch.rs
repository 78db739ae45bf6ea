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
pub use view::{PodOnNode, View};

#[cfg(test)]
pub(crate) mod for_test {
    //! Objects from YAML, for the tests of every module.

    use super::{
        Object,
        document::{Reading, read},
    };

    /// The objects of a stream of documents, all of which must be good.
    #[track_caller]
    pub(crate) fn objects(yaml: &str) -> Vec<Object> {
        let file = std::path::Path::new("test.yaml").into();
        let documents = read(&file, yaml).into_iter();
        documents
            .filter_map(|document| match document.reading {
                Reading::Object(object) => Some(object),
                Reading::Ignored(_) => None,
                Reading::Refused { fault, .. } => panic!("{fault}"),
            })
            .collect()
    }
}
