//! The envelope and the typed values that Istio objects share.
//!
//! Values are parsed while they are read, so that a fault carries its own line and path.

use std::{fmt, marker::PhantomData, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::StringMatch;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny},
};

use super::object::Labels;

/// An object of a group of our own reading. An unknown field is a fault: it may be a constraint
/// that is spelled wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest<Spec> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Option<Spec>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// `spec.selector` of a policy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Selector {
    #[serde(default)]
    pub(crate) match_labels: Labels,
}

/// A text pattern: `*`, `abc*`, `*abc` or the text itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pattern(pub(crate) StringMatch);

/// An address, or a range of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IpBlock(pub(crate) IpNet);

/// A port, written as text or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortNumber(pub(crate) u16);

/// `NAMESPACE/NAME`, or `NAME` in the namespace of the policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Account {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl Pattern {
    /// Reads a pattern. A leading `spiffe://` is cut, because peers are compared without it:
    /// kept, it would make a DENY rule match nobody.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix("spiffe://").unwrap_or(text);
        if text.is_empty() {
            return Err("is empty");
        }
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => StringMatch::Presence,
            (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
            (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
            (None, None) => StringMatch::Exact(text.into()),
        };
        match &pattern {
            StringMatch::Presence => Ok(Self(pattern)),
            StringMatch::Exact(rest) | StringMatch::Prefix(rest) | StringMatch::Suffix(rest) => {
                if rest.contains('*') {
                    return Err("may hold '*' only as its first or last character");
                }
                Ok(Self(pattern))
            }
        }
    }
}

impl IpBlock {
    /// Reads an address or a CIDR range.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        net.map(Self)
            .map_err(|_| "is neither an IP address nor a CIDR range")
    }
}

impl PortNumber {
    /// Reads a port.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text.parse() {
            Ok(0) | Err(_) => Err("is not a port"),
            Ok(number) => Ok(Self(number)),
        }
    }
}

impl Account {
    /// Reads a service account.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let bad = |part: &str| part.is_empty() || part.contains(['/', '*']);
        if bad(name) || namespace.is_some_and(bad) {
            return Err("is not a service account, NAME or NAMESPACE/NAME");
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

struct Text<T>(fn(&str) -> Result<T, &'static str>, PhantomData<T>);

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(|reason| E::custom(format_args!("{text:?} {reason}")))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! deserialize_by_parse {
    ($($type:ty => $method:ident),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$method(Text(<$type>::parse, PhantomData))
            }
        }
    )*};
}
deserialize_by_parse!(
    Pattern => deserialize_str, IpBlock => deserialize_str,
    PortNumber => deserialize_any, Account => deserialize_str
);
