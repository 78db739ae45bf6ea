//! Core Kubernetes objects and Gateway, cut down to what the mesh reads, with typed fields.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1 as api,
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use model::{AppProtocol, Locality, WorkloadType};

use super::object::{FieldFault, Labels, ObjectName, Placement, check_name, object_name};

/// A namespace: its labels and annotations are defaults for what is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    pub name: ObjectName,
    pub labels: Labels,
    pub annotations: Labels,
}

/// A node: where its pods are.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: ObjectName,
    pub locality: Locality,
}

/// A Gateway, of which only the traffic it takes as a waypoint matters to the node layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    pub name: ObjectName,
    pub labels: Labels,
}

/// Whether a pod may take traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Unready,
}

/// Whether a pod still holds its identity and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Active,
    /// Succeeded or Failed: its address may already be another's.
    Terminal,
}

/// Whose network namespace a pod runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodNetwork {
    Own,
    Host,
}

/// What a pod is a replica of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub workload_type: WorkloadType,
    pub name: Arc<str>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    pub name: ObjectName,
    pub uid: Arc<str>,
    pub labels: Labels,
    pub annotations: Labels,
    pub node: Arc<str>,
    pub service_account: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub network: PodNetwork,
    pub readiness: Readiness,
    pub phase: Phase,
    pub owner: Owner,
    /// TCP container ports that have a name.
    pub named_ports: BTreeMap<String, u16>,
}

/// Where a service port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Number(u16),
    Name(String),
}

/// A TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub number: u16,
    pub target: Target,
    pub app_protocol: AppProtocol,
}

/// How near endpoints are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Network,
    Zone,
    Node,
}

/// A Service with a selector or a cluster address (ExternalName ones are not held).
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: ObjectName,
    pub labels: Labels,
    pub annotations: Labels,
    /// Selects nothing when empty.
    pub selector: Labels,
    pub vips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub distribution: Option<Distribution>,
    pub internal_traffic: InternalTraffic,
    pub not_ready: NotReadyAddresses,
}

/// `spec.internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InternalTraffic {
    Cluster,
    Local,
}

/// `spec.publishNotReadyAddresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReadyAddresses {
    Hidden,
    Published,
}

impl TryFrom<api::Namespace> for Namespace {
    type Error = FieldFault;

    fn try_from(object: api::Namespace) -> Result<Self, FieldFault> {
        Ok(Self {
            name: object_name(&object.metadata, Placement::ClusterScoped)?,
            labels: object.metadata.labels.unwrap_or_default(),
            annotations: object.metadata.annotations.unwrap_or_default(),
        })
    }
}

impl TryFrom<api::Node> for Node {
    type Error = FieldFault;

    fn try_from(object: api::Node) -> Result<Self, FieldFault> {
        let name = object_name(&object.metadata, Placement::ClusterScoped)?;
        let labels = object.metadata.labels.unwrap_or_default();
        let label = |key: &str| labels.get(key).map_or("", String::as_str).into();
        let locality = Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        };
        Ok(Self { name, locality })
    }
}

impl TryFrom<ObjectMeta> for Gateway {
    type Error = FieldFault;

    fn try_from(metadata: ObjectMeta) -> Result<Self, FieldFault> {
        Ok(Self {
            name: object_name(&metadata, Placement::Namespaced)?,
            labels: metadata.labels.unwrap_or_default(),
        })
    }
}

impl TryFrom<api::Pod> for Pod {
    type Error = FieldFault;

    fn try_from(object: api::Pod) -> Result<Self, FieldFault> {
        let name = object_name(&object.metadata, Placement::Namespaced)?;
        let spec = object.spec.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        let service_account = spec.service_account_name.as_deref().unwrap_or("default");
        check_name("spec.serviceAccountName", service_account, 253)?;
        let readiness = match object.metadata.deletion_timestamp {
            Some(_) => Readiness::Unready,
            None => readiness(&status),
        };
        Ok(Self {
            owner: owner(&name, &object.metadata),
            addresses: pod_addresses(&status)?,
            named_ports: named_ports(&spec)?,
            node: spec.node_name.unwrap_or_default().into(),
            service_account: service_account.into(),
            network: match spec.host_network {
                Some(true) => PodNetwork::Host,
                Some(false) | None => PodNetwork::Own,
            },
            readiness,
            phase: match status.phase.as_deref() {
                Some("Succeeded" | "Failed") => Phase::Terminal,
                _ => Phase::Active,
            },
            uid: object.metadata.uid.unwrap_or_default().into(),
            labels: object.metadata.labels.unwrap_or_default(),
            annotations: object.metadata.annotations.unwrap_or_default(),
            name,
        })
    }
}

fn pod_addresses(status: &api::PodStatus) -> Result<Vec<IpAddr>, FieldFault> {
    let mut addresses = Vec::new();
    for (at, held) in status.pod_ips.iter().flatten().enumerate() {
        addresses.push(address(&format!("status.podIPs[{at}].ip"), &held.ip)?);
    }
    if let (true, Some(ip)) = (addresses.is_empty(), &status.pod_ip) {
        addresses.push(address("status.podIP", ip)?);
    }
    Ok(addresses)
}

/// A manifest written by hand carries no conditions, and means a pod that serves.
fn readiness(status: &api::PodStatus) -> Readiness {
    let ready = status.conditions.iter().flatten();
    match ready
        .into_iter()
        .find(|condition| condition.type_ == "Ready")
    {
        Some(condition) if condition.status != "True" => Readiness::Unready,
        Some(_) | None => Readiness::Ready,
    }
}

fn named_ports(spec: &api::PodSpec) -> Result<BTreeMap<String, u16>, FieldFault> {
    let mut named = BTreeMap::new();
    for (container, held) in spec.containers.iter().enumerate() {
        for (at, port) in held.ports.iter().flatten().enumerate() {
            let field = format!("spec.containers[{container}].ports[{at}].containerPort");
            let number = port_number(&field, port.container_port)?;
            if let (Some(name), None | Some("TCP")) = (&port.name, port.protocol.as_deref()) {
                named.entry(name.clone()).or_insert(number);
            }
        }
    }
    Ok(named)
}

/// Follows the naming of the built-in controllers: a ReplicaSet is its Deployment's name and a
/// template hash, a CronJob's Job is its name and a time in minutes.
fn owner(pod: &ObjectName, metadata: &ObjectMeta) -> Owner {
    let mut owners = metadata.owner_references.iter().flatten();
    let Some(reference) = owners.find(|held| held.controller == Some(true)) else {
        return Owner {
            workload_type: WorkloadType::Pod,
            name: pod.name.clone(),
        };
    };
    let label = |key: &str| metadata.labels.as_ref().and_then(|held| held.get(key));
    let stem = |suffix: &str| reference.name.strip_suffix(suffix)?.strip_suffix('-');
    let (workload_type, name) = match reference.kind.as_str() {
        "ReplicaSet" => match label("pod-template-hash").and_then(|hash| stem(hash)) {
            Some(deployment) => (WorkloadType::Deployment, deployment),
            None => (WorkloadType::Pod, reference.name.as_str()),
        },
        "Job" => match reference.name.rsplit_once('-') {
            Some((cron_job, minutes)) if is_cron_suffix(minutes) => {
                (WorkloadType::CronJob, cron_job)
            }
            _ => (WorkloadType::Job, reference.name.as_str()),
        },
        "Deployment" => (WorkloadType::Deployment, reference.name.as_str()),
        "CronJob" => (WorkloadType::CronJob, reference.name.as_str()),
        _ => (WorkloadType::Pod, reference.name.as_str()),
    };
    Owner {
        workload_type,
        name: name.into(),
    }
}

fn is_cron_suffix(text: &str) -> bool {
    (8..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Service {
    /// Reads a Service; `None` for an ExternalName, which stands for no workload.
    pub(crate) fn read(object: api::Service) -> Result<Option<Self>, FieldFault> {
        let name = object_name(&object.metadata, Placement::Namespaced)?;
        let spec = object.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Ok(None);
        }
        let annotations = object.metadata.annotations.unwrap_or_default();
        let wanted = annotations
            .get("networking.istio.io/traffic-distribution")
            .or(spec.traffic_distribution.as_ref());
        Ok(Some(Self {
            distribution: wanted.and_then(|text| Distribution::parse(text)),
            vips: vips(&spec)?,
            ports: service_ports(&spec)?,
            internal_traffic: match spec.internal_traffic_policy.as_deref() {
                Some("Local") => InternalTraffic::Local,
                _ => InternalTraffic::Cluster,
            },
            not_ready: match spec.publish_not_ready_addresses {
                Some(true) => NotReadyAddresses::Published,
                Some(false) | None => NotReadyAddresses::Hidden,
            },
            selector: spec.selector.unwrap_or_default(),
            labels: object.metadata.labels.unwrap_or_default(),
            annotations,
            name,
        }))
    }
}

impl Distribution {
    /// Unknown words prefer nothing, as Kubernetes documents for values of later versions.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "PreferClose" | "PreferSameZone" => Some(Self::Zone),
            "PreferSameNode" => Some(Self::Node),
            "PreferSameNetwork" => Some(Self::Network),
            _ => None,
        }
    }
}

fn vips(spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, FieldFault> {
    let mut vips = Vec::new();
    for (at, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        if ip != "None" && !ip.is_empty() {
            vips.push(address(&format!("spec.clusterIPs[{at}]"), ip)?);
        }
    }
    match spec.cluster_ip.as_deref() {
        Some(ip) if vips.is_empty() && ip != "None" && !ip.is_empty() => {
            vips.push(address("spec.clusterIP", ip)?);
        }
        _ => {}
    }
    Ok(vips)
}

/// The mesh carries TCP only: ports of other protocols are left out.
fn service_ports(spec: &api::ServiceSpec) -> Result<Vec<Port>, FieldFault> {
    let mut ports = Vec::new();
    for (at, port) in spec.ports.iter().flatten().enumerate() {
        if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
            continue;
        }
        let number = port_number(&format!("spec.ports[{at}].port"), port.port)?;
        let field = format!("spec.ports[{at}].targetPort");
        let target = match &port.target_port {
            None => Target::Number(number),
            Some(IntOrString::Int(target)) => Target::Number(port_number(&field, *target)?),
            Some(IntOrString::String(text)) => match text.parse::<i32>() {
                Ok(target) => Target::Number(port_number(&field, target)?),
                Err(_) => Target::Name(text.clone()),
            },
        };
        let word = port.app_protocol.as_deref().or(port.name.as_deref());
        ports.push(Port {
            name: port.name.clone().unwrap_or_default(),
            number,
            target,
            app_protocol: app_protocol(word.unwrap_or_default()),
        });
    }
    Ok(ports)
}

/// From `appProtocol`, or from a port name such as `http-web`.
pub(crate) fn app_protocol(word: &str) -> AppProtocol {
    let word = word.to_ascii_lowercase();
    match word.split('-').next().unwrap_or_default() {
        "http" | "http1" => AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

/// Reads an IP address.
pub(crate) fn address(field: &str, text: &str) -> Result<IpAddr, FieldFault> {
    text.parse()
        .map_err(|_| FieldFault::new(field, format!("{text:?} is not an IP address")))
}

fn port_number(field: &str, number: i32) -> Result<u16, FieldFault> {
    u16::try_from(number)
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| FieldFault::new(field, format!("{number} is not a port")))
}
