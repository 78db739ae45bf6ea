//! The leaves both kinds of resources are made of, and the path to them for errors.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use model::{Network, NetworkAddress, SpiffeError};

use super::FieldError;
use crate::proto::workload as wire;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is required")]
    Missing,
    #[error("an address has 4 or 16 bytes, not {0}")]
    AddressLength(usize),
    #[error("a prefix of {length} bits does not fit {ip}")]
    Prefix { ip: IpAddr, length: u32 },
    #[error("a range cannot stand here")]
    UnexpectedRange,
    #[error("{0} is not a port")]
    Port(u32),
    #[error("{0} is not a value this version knows")]
    UnknownValue(i32),
    #[error("LEGACY_ISTIO_MTLS is not a protocol this mesh can tunnel by")]
    LegacyIstioMtls,
    #[error("{0:?} does not have the shape namespace/name")]
    NamespacedName(String),
    #[error(transparent)]
    Identity(#[from] SpiffeError),
}

impl Problem {
    pub(super) fn at(self, path: impl Into<String>) -> FieldError {
        FieldError {
            path: path.into(),
            problem: self,
        }
    }
}

impl FieldError {
    /// The same fault, seen from the message that holds the field `parent`.
    pub(super) fn within(mut self, parent: impl fmt::Display) -> Self {
        self.path = if self.path.is_empty() {
            parent.to_string()
        } else {
            format!("{parent}.{}", self.path)
        };
        self
    }
}

/// Converts every item of a list, naming the one that fails.
pub(super) fn each<Wire, Value>(
    field: &str,
    items: &[Wire],
    convert: impl Fn(&Wire) -> Result<Value, FieldError>,
) -> Result<Vec<Value>, FieldError> {
    items
        .iter()
        .enumerate()
        .map(|(at, item)| convert(item).map_err(|error| error.within(format!("{field}[{at}]"))))
        .collect()
}

/// Text that must not be empty.
pub(super) fn required(field: &str, value: &str) -> Result<Arc<str>, FieldError> {
    if value.is_empty() {
        return Err(Problem::Missing.at(field));
    }
    Ok(value.into())
}

/// An address of 4 or 16 bytes. IPv4 written as IPv6 is taken as the IPv4 address it means, which
/// is how the sockets of the data path name it.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, FieldError> {
    let ip = if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(octets)
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(octets).to_canonical()
    } else {
        return Err(Problem::AddressLength(bytes.len()).at("address"));
    };
    Ok(ip)
}

/// A range, with the bits beyond the prefix cleared. A range of IPv4 written as IPv6 is taken as
/// the IPv4 range it means: compared with IPv4 sources as it stands, it would never match.
pub(super) fn range(bytes: &[u8], length: u32) -> Result<IpNet, FieldError> {
    const MAPPED_PREFIX: u32 = 96;
    let ip = ip(bytes)?;
    let mapped = ip.is_ipv4() && bytes.len() == 16;
    let bits = if mapped {
        length.checked_sub(MAPPED_PREFIX)
    } else {
        Some(length)
    };
    bits.and_then(|bits| u8::try_from(bits).ok())
        .and_then(|bits| IpNet::new(ip, bits).ok())
        .map(|range| range.trunc())
        .ok_or_else(|| Problem::Prefix { ip, length }.at("length"))
}

pub(super) fn port(field: &str, value: u32) -> Result<u16, FieldError> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Problem::Port(value).at(field)),
    }
}

/// A port where zero means that there is none.
pub(super) fn optional_port(field: &str, value: u32) -> Result<Option<u16>, FieldError> {
    u16::try_from(value)
        .map(|port| Some(port).filter(|port| *port != 0))
        .map_err(|_| Problem::Port(value).at(field))
}

/// Both halves of `namespace/name`, neither of them empty.
pub(super) fn namespaced(value: &str) -> Option<(Arc<str>, Arc<str>)> {
    let (namespace, name) = value.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| (namespace.into(), name.into()))
}

/// A value of a wire enum; numbers from the future are refused, not guessed.
pub(super) fn known<Enum: TryFrom<i32>>(field: &str, value: i32) -> Result<Enum, FieldError> {
    Enum::try_from(value).map_err(|_| Problem::UnknownValue(value).at(field))
}

pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A single address; a range is refused.
pub(super) fn network_address(
    address: &wire::NetworkAddress,
) -> Result<NetworkAddress, FieldError> {
    if address.length.is_some() {
        return Err(Problem::UnexpectedRange.at("length"));
    }
    Ok(NetworkAddress {
        network: Network(address.network.as_str().into()),
        ip: ip(&address.address)?,
    })
}

impl From<&NetworkAddress> for wire::NetworkAddress {
    fn from(address: &NetworkAddress) -> Self {
        Self {
            network: address.network.0.to_string(),
            address: ip_bytes(address.ip),
            length: None,
        }
    }
}
