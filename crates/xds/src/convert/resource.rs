//! Whole resources: a name and the marshalled `Any` that travels under it.

use std::sync::Arc;

use bytes::Bytes;
use model::{Authorization, Resource, ResourceKey, Service, Workload};
use prost::Message as _;
use prost_types::Any;

use super::{FieldError, authorization};
use crate::{
    ResourceType,
    proto::{security, workload},
};

/// Why a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {fault}")]
pub struct DecodeError {
    pub name: String,
    pub fault: Fault,
}

/// What is wrong with a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("not a protobuf message of its type: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("holds a {0:?}, not what its response announced")]
    TypeUrl(String),
    #[error("holds neither a workload nor a service")]
    Empty,
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// What came out of the bytes of one resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Valid(Resource),
    /// Nothing can stand in for it: an earlier version stays.
    Refused(DecodeError),
    /// A policy: unless an earlier version is known, the stand-in denies in its place.
    RefusedPolicy {
        error: DecodeError,
        stand_in: Arc<Authorization>,
    },
}

/// Reads the marshalled `Any` of a resource called `name`.
pub fn decode(kind: ResourceType, name: &str, bytes: &[u8]) -> Decoded {
    let refused = |fault| DecodeError {
        name: name.to_owned(),
        fault,
    };
    match kind {
        ResourceType::Address => match address(bytes) {
            Ok(resource) => Decoded::Valid(resource),
            Err(fault) => Decoded::Refused(refused(fault)),
        },
        ResourceType::Authorization => {
            let message = unwrap::<security::Authorization>(kind, bytes);
            let policy = message
                .as_ref()
                .map_err(Fault::clone)
                .and_then(|message| Ok(Authorization::try_from(message)?));
            match policy {
                Ok(policy) => Decoded::Valid(Resource::Authorization(Arc::new(policy))),
                Err(fault) => {
                    let error = refused(fault);
                    let reason = error.fault.to_string();
                    let stand_in = authorization::unreadable(name, message.as_ref().ok(), &reason);
                    Decoded::RefusedPolicy {
                        error,
                        stand_in: Arc::new(stand_in),
                    }
                }
            }
        }
    }
}

fn unwrap<Message: prost::Message + Default>(
    kind: ResourceType,
    bytes: &[u8],
) -> Result<Message, Fault> {
    let any = Any::decode(bytes)?;
    if any.type_url != kind.url() {
        return Err(Fault::TypeUrl(any.type_url));
    }
    Ok(Message::decode(any.value.as_slice())?)
}

fn address(bytes: &[u8]) -> Result<Resource, Fault> {
    use workload::address::Type;
    let message = unwrap::<workload::Address>(ResourceType::Address, bytes)?;
    match message.r#type.ok_or(Fault::Empty)? {
        Type::Workload(message) => Ok(Resource::Workload(Arc::new(Workload::try_from(&message)?))),
        Type::Service(message) => Ok(Resource::Service(Arc::new(Service::try_from(&message)?))),
    }
}

/// The marshalled `Any` of a resource. Equal resources have equal bytes.
pub fn encode(resource: &Resource) -> Bytes {
    use workload::address::Type;
    let address = |value| {
        workload::Address {
            r#type: Some(value),
        }
        .encode_to_vec()
    };
    let value = match resource {
        Resource::Workload(workload) => address(Type::Workload((&**workload).into())),
        Resource::Service(service) => address(Type::Service((&**service).into())),
        Resource::Authorization(policy) => security::Authorization::from(&**policy).encode_to_vec(),
    };
    let any = Any {
        type_url: ResourceType::of(&resource.key()).url().to_owned(),
        value,
    };
    any.encode_to_vec().into()
}

/// The name a resource has on the wire.
pub fn name(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Workload(uid) => uid.to_string(),
        ResourceKey::Service(key) => key.to_string(),
        ResourceKey::Authorization(key) => key.to_string(),
    }
}
