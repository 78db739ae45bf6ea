//! Services: names and virtual addresses that stand for a set of workloads.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use crate::{GatewayAddress, Network, NetworkAddress};

/// A service is named by its namespace and fully qualified host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.hostname)
    }
}

/// Where a service port leads on a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetPort {
    Number(u16),
    /// A named port: each workload says what it is.
    Named,
}

/// The protocol a port declares (`appProtocol`), for L7 proxies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    pub target: TargetPort,
    pub app_protocol: AppProtocol,
}

/// What endpoints are compared by when near ones are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoutingScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// How the preferences of [`LoadBalancing`] bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// No preference.
    Any,
    /// Only endpoints that match all scopes.
    Strict,
    /// Endpoints that match the longest prefix of the scopes.
    Failover,
    /// Connect to the address the client asked for.
    Passthrough,
}

/// Whether unhealthy endpoints may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

/// Endpoint preferences of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancing {
    pub mode: LoadBalancingMode,
    pub scopes: Vec<RoutingScope>,
    pub health_policy: HealthPolicy,
}

/// Who may resolve the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    #[default]
    Public,
    Namespace,
}

/// A name and virtual addresses for a set of workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub name: Arc<str>,
    pub vips: Vec<NetworkAddress>,
    /// Virtual ranges (a ServiceEntry's CIDR addresses).
    pub cidr_vips: Vec<(Network, IpNet)>,
    pub ports: Vec<ServicePort>,
    /// Identities accepted besides the workload's own.
    pub subject_alt_names: Vec<Arc<str>>,
    pub waypoint: Option<GatewayAddress>,
    pub load_balancing: Option<LoadBalancing>,
    pub visibility: Visibility,
    /// The service answers for its host name before others of the same name.
    pub canonical: bool,
}

impl Service {
    /// A service with nothing but its names set.
    pub fn new(namespace: &str, name: &str, hostname: &str) -> Self {
        Self {
            key: ServiceKey {
                namespace: namespace.into(),
                hostname: hostname.into(),
            },
            name: name.into(),
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            load_balancing: None,
            visibility: Visibility::Public,
            canonical: false,
        }
    }

    /// The declared port with this number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|candidate| candidate.port == port)
    }
}
