//! `networking.istio.io/v1` ServiceEntry and WorkloadEntry, read strictly.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use model::{AppProtocol, Locality};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    core::app_protocol,
    manifest::{IpBlock, Manifest, PortNumber},
    object::{Created, FieldFault, Labels, ObjectName, Placement, object_name},
};

/// A WorkloadEntry: something with an address that is no pod.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadEntry {
    pub name: ObjectName,
    pub labels: Labels,
    pub endpoint: Endpoint,
}

/// Where a workload is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    Ip(IpAddr),
    Hostname(Arc<str>),
}

/// The body of a WorkloadEntry, also given inline in a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub ports: BTreeMap<String, u16>,
    pub labels: Labels,
    pub network: Arc<str>,
    pub locality: Locality,
    pub weight: u32,
    pub service_account: Arc<str>,
}

/// How the addresses of a ServiceEntry's endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address the client asked for.
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// A port of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPort {
    pub name: String,
    pub number: u16,
    pub target: u16,
    pub app_protocol: AppProtocol,
}

/// A ServiceEntry: names for something that may be outside the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEntry {
    pub name: ObjectName,
    pub created: Created,
    pub labels: Labels,
    pub annotations: Labels,
    pub hosts: Vec<Arc<str>>,
    pub addresses: Vec<IpNet>,
    pub ports: Vec<EntryPort>,
    pub resolution: Resolution,
    pub endpoints: Vec<Endpoint>,
    /// Selects nothing when empty.
    pub selector: Labels,
    pub subject_alt_names: Vec<Arc<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    address: String,
    #[serde(default)]
    ports: BTreeMap<String, PortNumber>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    network: String,
    #[serde(default)]
    locality: String,
    weight: Option<u32>,
    service_account: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPort {
    number: PortNumber,
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: String,
    target_port: Option<PortNumber>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WorkloadSelector {
    labels: Labels,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    hosts: Vec<String>,
    #[serde(default)]
    addresses: Vec<IpBlock>,
    #[serde(default)]
    ports: Vec<RawPort>,
    #[serde(rename = "location")]
    _location: Option<IgnoredAny>,
    #[serde(default)]
    resolution: Resolution,
    #[serde(default)]
    endpoints: Vec<RawEndpoint>,
    #[serde(default)]
    workload_selector: WorkloadSelector,
    #[serde(rename = "exportTo")]
    _export_to: Option<IgnoredAny>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
}

impl WorkloadEntry {
    /// Reads the YAML of one document.
    pub(crate) fn read(yaml: &str) -> Result<Result<Self, FieldFault>, serde_yaml_ng::Error> {
        let manifest: Manifest<RawEndpoint> = serde_yaml_ng::from_str(yaml)?;
        Ok(Self::from_manifest(manifest))
    }

    fn from_manifest(manifest: Manifest<RawEndpoint>) -> Result<Self, FieldFault> {
        let spec = manifest
            .spec
            .ok_or_else(|| FieldFault::new("spec", "is missing"))?;
        let endpoint = Endpoint::read("spec", spec)?;
        let mut labels = manifest.metadata.labels.clone().unwrap_or_default();
        labels.extend(endpoint.labels.clone());
        Ok(Self {
            name: object_name(&manifest.metadata, Placement::Namespaced)?,
            labels,
            endpoint,
        })
    }
}

impl Endpoint {
    fn read(field: &str, raw: RawEndpoint) -> Result<Self, FieldFault> {
        let address = match raw.address.parse() {
            Ok(ip) => EndpointAddress::Ip(ip),
            Err(_) if raw.address.is_empty() || raw.address.contains('/') => {
                return Err(FieldFault::new(
                    format!("{field}.address"),
                    format!("{:?} is neither an IP address nor a host name", raw.address),
                ));
            }
            Err(_) => EndpointAddress::Hostname(raw.address.as_str().into()),
        };
        let mut parts = raw.locality.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default().into();
        let ports = raw.ports.into_iter();
        Ok(Self {
            address,
            ports: ports.map(|(name, port)| (name, port.0)).collect(),
            labels: raw.labels,
            network: raw.network.into(),
            locality: Locality {
                region: part(),
                zone: part(),
                subzone: part(),
            },
            weight: raw.weight.filter(|weight| *weight > 0).unwrap_or(1),
            service_account: raw.service_account.as_deref().unwrap_or("default").into(),
        })
    }
}

impl ServiceEntry {
    /// Reads the YAML of one document.
    pub(crate) fn read(yaml: &str) -> Result<Result<Self, FieldFault>, serde_yaml_ng::Error> {
        let manifest: Manifest<Spec> = serde_yaml_ng::from_str(yaml)?;
        Ok(Self::from_manifest(manifest))
    }

    fn from_manifest(manifest: Manifest<Spec>) -> Result<Self, FieldFault> {
        let spec = manifest
            .spec
            .ok_or_else(|| FieldFault::new("spec", "is missing"))?;
        if spec.hosts.is_empty() {
            return Err(FieldFault::new("spec.hosts", "is empty"));
        }
        let endpoints = spec.endpoints.into_iter().enumerate();
        let read = |(at, raw)| Endpoint::read(&format!("spec.endpoints[{at}]"), raw);
        let carried = |port: &RawPort| !port.protocol.eq_ignore_ascii_case("UDP");
        Ok(Self {
            name: object_name(&manifest.metadata, Placement::Namespaced)?,
            created: Created::of(&manifest.metadata),
            hosts: spec.hosts.into_iter().map(Arc::from).collect(),
            addresses: spec.addresses.into_iter().map(|block| block.0).collect(),
            ports: spec
                .ports
                .into_iter()
                .filter(carried)
                .map(EntryPort::from)
                .collect(),
            resolution: spec.resolution,
            endpoints: endpoints.map(read).collect::<Result<_, _>>()?,
            selector: spec.workload_selector.labels,
            subject_alt_names: spec.subject_alt_names.into_iter().map(Arc::from).collect(),
            labels: manifest.metadata.labels.unwrap_or_default(),
            annotations: manifest.metadata.annotations.unwrap_or_default(),
        })
    }
}

impl From<RawPort> for EntryPort {
    fn from(raw: RawPort) -> Self {
        Self {
            number: raw.number.0,
            target: raw.target_port.unwrap_or(raw.number).0,
            app_protocol: app_protocol(&raw.protocol),
            name: raw.name,
        }
    }
}
