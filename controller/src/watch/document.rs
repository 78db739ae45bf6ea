//! Reads YAML documents into objects, one by one, so that a bad one is refused alone.

use std::{fmt, path::Path, sync::Arc};

use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::Value;

use super::{
    authorization_policy::AuthorizationPolicy,
    core::{Gateway, Namespace, Node, Pod, Service},
    entry::{ServiceEntry, WorkloadEntry},
    object::{FieldFault, Kind, Object, ObjectKey, Placement, object_name},
    peer_authentication::PeerAuthentication,
};

/// Where a document begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultPlace {
    pub file: Arc<Path>,
    pub line: usize,
}

impl fmt::Display for FaultPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub place: FaultPlace,
    pub field: Option<String>,
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.place)?;
        if let Some(field) = &self.field {
            write!(out, "{field}: ")?;
        }
        out.write_str(&self.reason)
    }
}

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) place: FaultPlace,
    pub(crate) reading: Reading,
}

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading {
    Object(Object),
    /// Nothing the node layer reads, and what it is.
    Ignored(String),
    Refused {
        fault: Fault,
        /// The object it would be, if that much can be read.
        key: Option<ObjectKey>,
        /// What holds in its place when there is no earlier version: a wider denial.
        stand_in: Option<Object>,
    },
}

/// Reads all documents of a file.
pub(crate) fn read(file: &Arc<Path>, text: &str) -> Vec<Document> {
    split(text)
        .into_iter()
        .filter_map(|(line, yaml)| read_one(file, line, yaml))
        .collect()
}

/// The documents of a stream and their first lines. A line of `---` can be nothing but a
/// document marker (YAML 1.2.2, 9.1.2), so splitting needs no parser, and a syntax error in one
/// document does not hide the next.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begin, mut begin_line, mut offset) = (0, 1, 0);
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line.strip_prefix("---").is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(|next: char| next.is_ascii_whitespace())
        });
        if is_marker && offset > begin {
            documents.push((begin_line, &text[begin..offset]));
            (begin, begin_line) = (offset, at + 1);
        }
        offset += line.len();
    }
    documents.push((begin_line, &text[begin..]));
    documents
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Compiled(Kind),
    Unused,
    Unknown,
}

fn known(api_version: &str, kind: &str) -> Known {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Namespace") => Known::Compiled(Kind::Namespace),
        ("", "Node") => Known::Compiled(Kind::Node),
        ("", "Pod") => Known::Compiled(Kind::Pod),
        ("", "Service") => Known::Compiled(Kind::Service),
        ("gateway.networking.k8s.io", "Gateway") => Known::Compiled(Kind::Gateway),
        ("networking.istio.io", "ServiceEntry") => Known::Compiled(Kind::ServiceEntry),
        ("networking.istio.io", "WorkloadEntry") => Known::Compiled(Kind::WorkloadEntry),
        ("security.istio.io", "AuthorizationPolicy") => Known::Compiled(Kind::AuthorizationPolicy),
        ("security.istio.io", "PeerAuthentication") => Known::Compiled(Kind::PeerAuthentication),
        ("", "ServiceAccount")
        | ("gateway.networking.k8s.io", "GatewayClass" | "HTTPRoute" | "ReferenceGrant") => {
            Known::Unused
        }
        _ => Known::Unknown,
    }
}

fn read_one(file: &Arc<Path>, line: usize, yaml: &str) -> Option<Document> {
    let place = FaultPlace {
        file: file.clone(),
        line: line + leading_lines(yaml),
    };
    let value: Value = match serde_yaml_ng::from_str(yaml) {
        Ok(Value::Null) => return None,
        Ok(value) => value,
        Err(error) => {
            let reading = Reading::Refused {
                fault: yaml_fault(&place, line, &error),
                key: None,
                stand_in: None,
            };
            return Some(Document { place, reading });
        }
    };
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, word) = (text("apiVersion"), text("kind"));
    let reading = match known(api_version, word) {
        Known::Compiled(kind) => match parse(kind, yaml) {
            Ok(Some(object)) => Reading::Object(object),
            Ok(None) => Reading::Ignored(format!("{word} that stands for no workload")),
            Err(fault) => {
                let fault = fault.at(&place, line);
                Reading::Refused {
                    key: key_of(kind, &value),
                    stand_in: stand_in(kind, &value, &fault),
                    fault,
                }
            }
        },
        Known::Unused => Reading::Ignored(format!("{word} is not read by the node layer")),
        Known::Unknown => Reading::Ignored(format!("unknown kind {api_version:?} {word:?}")),
    };
    Some(Document { place, reading })
}

/// Lines before the first that says something, so that a place points at it.
fn leading_lines(yaml: &str) -> usize {
    let silent = |line: &&str| {
        let line = line.trim();
        line.is_empty() || line == "---" || line.starts_with('#')
    };
    yaml.lines().take_while(silent).count()
}

enum ParseFault {
    Yaml(serde_yaml_ng::Error),
    Field(FieldFault),
}

impl From<serde_yaml_ng::Error> for ParseFault {
    fn from(error: serde_yaml_ng::Error) -> Self {
        Self::Yaml(error)
    }
}

impl From<FieldFault> for ParseFault {
    fn from(fault: FieldFault) -> Self {
        Self::Field(fault)
    }
}

impl ParseFault {
    fn at(self, place: &FaultPlace, first_line: usize) -> Fault {
        match self {
            Self::Yaml(error) => yaml_fault(place, first_line, &error),
            Self::Field(FieldFault { field, reason }) => Fault {
                place: place.clone(),
                field: Some(field),
                reason,
            },
        }
    }
}

fn parse(kind: Kind, yaml: &str) -> Result<Option<Object>, ParseFault> {
    fn core<K: DeserializeOwned, T: TryFrom<K, Error = FieldFault>>(
        yaml: &str,
    ) -> Result<Arc<T>, ParseFault> {
        Ok(Arc::new(T::try_from(serde_yaml_ng::from_str(yaml)?)?))
    }
    Ok(Some(match kind {
        Kind::Namespace => Object::Namespace(core::<api::Namespace, Namespace>(yaml)?),
        Kind::Node => Object::Node(core::<api::Node, Node>(yaml)?),
        Kind::Pod => Object::Pod(core::<api::Pod, Pod>(yaml)?),
        Kind::Service => match Service::read(serde_yaml_ng::from_str(yaml)?)? {
            Some(service) => Object::Service(Arc::new(service)),
            None => return Ok(None),
        },
        Kind::Gateway => {
            #[derive(Deserialize)]
            struct Envelope {
                metadata: ObjectMeta,
            }
            let envelope: Envelope = serde_yaml_ng::from_str(yaml)?;
            Object::Gateway(Arc::new(Gateway::try_from(envelope.metadata)?))
        }
        Kind::WorkloadEntry => Object::WorkloadEntry(Arc::new(WorkloadEntry::read(yaml)??)),
        Kind::ServiceEntry => Object::ServiceEntry(Arc::new(ServiceEntry::read(yaml)??)),
        Kind::AuthorizationPolicy => {
            Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy::read(yaml)??))
        }
        Kind::PeerAuthentication => {
            Object::PeerAuthentication(Arc::new(PeerAuthentication::read(yaml)??))
        }
    }))
}

fn stand_in(kind: Kind, document: &Value, fault: &Fault) -> Option<Object> {
    match kind {
        Kind::AuthorizationPolicy => {
            let policy = AuthorizationPolicy::unreadable(document, &fault.to_string())?;
            Some(Object::AuthorizationPolicy(Arc::new(policy)))
        }
        Kind::PeerAuthentication => {
            let policy = PeerAuthentication::unreadable(document)?;
            Some(Object::PeerAuthentication(Arc::new(policy)))
        }
        Kind::Namespace
        | Kind::Node
        | Kind::Gateway
        | Kind::Service
        | Kind::Pod
        | Kind::WorkloadEntry
        | Kind::ServiceEntry => None,
    }
}

fn key_of(kind: Kind, document: &Value) -> Option<ObjectKey> {
    let metadata = serde_yaml_ng::from_value(document.get("metadata")?.clone()).ok()?;
    let placement = match kind {
        Kind::Namespace | Kind::Node => Placement::ClusterScoped,
        Kind::Gateway
        | Kind::Service
        | Kind::Pod
        | Kind::WorkloadEntry
        | Kind::ServiceEntry
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication => Placement::Namespaced,
    };
    let name = object_name(&metadata, placement).ok()?;
    Some(ObjectKey { kind, name })
}

/// The parser writes `PATH: REASON at line N column M`; the line counts from its document.
fn yaml_fault(place: &FaultPlace, first_line: usize, error: &serde_yaml_ng::Error) -> Fault {
    let message = error.to_string();
    let reason = match message.rfind(" at line ") {
        Some(end) => &message[..end],
        None => message.as_str(),
    };
    let line = error
        .location()
        .map_or(place.line, |at| first_line + at.line() - 1);
    let is_path = |text: &str| !text.is_empty() && !text.contains([' ', '`', '"']);
    let (field, reason) = match reason.split_once(": ") {
        Some((path, reason)) if is_path(path) => (Some(path.to_owned()), reason),
        _ => (None, reason),
    };
    Fault {
        place: FaultPlace {
            file: place.file.clone(),
            line,
        },
        field,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
