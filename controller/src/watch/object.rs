//! Names, labels and the closed set of objects the controller reads.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    authorization_policy::AuthorizationPolicy,
    core::{Gateway, Namespace, Node, Pod, Service},
    entry::{ServiceEntry, WorkloadEntry},
    peer_authentication::PeerAuthentication,
};

/// Labels, and the pairs a selector asks for.
pub(crate) type Labels = BTreeMap<String, String>;

/// Whether labels hold every pair of a selector.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    /// Builds a name from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return out.write_str(&self.name);
        }
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds the controller compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Node,
    Gateway,
    Service,
    Pod,
    WorkloadEntry,
    ServiceEntry,
    AuthorizationPolicy,
    PeerAuthentication,
}

/// The name of an object among all objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} {}", self.kind, self.name)
    }
}

/// One object, valid in all its fields.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Gateway(Arc<Gateway>),
    Service(Arc<Service>),
    Pod(Arc<Pod>),
    WorkloadEntry(Arc<WorkloadEntry>),
    ServiceEntry(Arc<ServiceEntry>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
}

impl Object {
    /// The name it is held under.
    pub fn key(&self) -> ObjectKey {
        let (kind, name) = match self {
            Self::Namespace(object) => (Kind::Namespace, &object.name),
            Self::Node(object) => (Kind::Node, &object.name),
            Self::Gateway(object) => (Kind::Gateway, &object.name),
            Self::Service(object) => (Kind::Service, &object.name),
            Self::Pod(object) => (Kind::Pod, &object.name),
            Self::WorkloadEntry(object) => (Kind::WorkloadEntry, &object.name),
            Self::ServiceEntry(object) => (Kind::ServiceEntry, &object.name),
            Self::AuthorizationPolicy(object) => (Kind::AuthorizationPolicy, &object.name),
            Self::PeerAuthentication(object) => (Kind::PeerAuthentication, &object.name),
        };
        ObjectKey {
            kind,
            name: name.clone(),
        }
    }
}

/// What a source says about one object.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectChange {
    Set(Object),
    Removed(ObjectKey),
}

/// A field whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldFault {
    pub field: String,
    pub reason: String,
}

impl FieldFault {
    pub(crate) fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            reason: reason.to_string(),
        }
    }
}

/// Age of an object, for "the oldest wins"; what has no timestamp is the youngest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(i128);

impl Created {
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let time = metadata.creation_timestamp.as_ref();
        Self(time.map_or(i128::MAX, |time| time.0.as_nanosecond()))
    }
}

/// Whether an object lives in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Namespaced,
    ClusterScoped,
}

/// The name in the metadata, with the namespace Kubernetes would default to.
pub(crate) fn object_name(
    metadata: &ObjectMeta,
    placement: Placement,
) -> Result<ObjectName, FieldFault> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = match placement {
        Placement::Namespaced => metadata.namespace.as_deref().unwrap_or("default"),
        Placement::ClusterScoped => "",
    };
    check_name("metadata.name", name, 253)?;
    if placement == Placement::Namespaced {
        check_name("metadata.namespace", namespace, 63)?;
    }
    Ok(ObjectName::new(namespace, name))
}

/// RFC 1123 as Kubernetes applies it. Generated policies are named outside of it on purpose.
pub(crate) fn check_name(field: &str, name: &str, longest: usize) -> Result<(), FieldFault> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let valid = bytes.len() <= longest
        && bytes.iter().copied().all(allowed)
        && ends(bytes.first())
        && ends(bytes.last());
    if valid {
        return Ok(());
    }
    Err(FieldFault::new(
        field,
        format!("{name:?} is not a name of lower-case letters, digits, '-' and '.'"),
    ))
}
