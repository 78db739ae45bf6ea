//! Workloads: what runs, where it is reachable, and under which identity.

use std::{collections::HashMap, fmt, net::IpAddr, net::SocketAddr, sync::Arc};

use crate::{PolicyKey, ServiceKey, SpiffeError, SpiffeId, TargetPort, TrustDomain};

/// Stable name of a workload across updates: `cluster/group/kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A network: addresses are unique within one. The empty name is the default network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(pub Arc<str>);

/// An address within a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    pub network: Network,
    pub ip: IpAddr,
}

/// How a workload accepts traffic from the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP: the workload is not in the mesh.
    #[default]
    None,
    /// HTTP/2 CONNECT in mutual TLS on port 15008.
    Hbone,
}

/// Whether the workload has addresses of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    #[default]
    Standard,
    /// Shares the node's addresses, so its address does not name it.
    HostNetwork,
}

/// Whether endpoint choice may pick the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

/// The kind of the owner a workload is named after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

impl WorkloadType {
    /// The word used in baggage keys and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Where a workload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// What a gateway or waypoint reference points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayDestination {
    Address(NetworkAddress),
    Hostname(ServiceKey),
}

/// A waypoint or network gateway, and its HBONE port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayAddress {
    pub destination: GatewayDestination,
    pub hbone_mtls_port: u16,
}

/// How the proxy hands a connection to an application that asked for its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationTunnelProtocol {
    None,
    /// PROXY protocol, version 2.
    Proxy,
}

/// An application tunnel, and the port it listens on (the target's own when absent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationTunnel {
    pub protocol: ApplicationTunnelProtocol,
    pub port: Option<u16>,
}

/// One running thing: a pod, a VM, or a bare process with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub trust_domain: TrustDomain,
    pub service_account: Arc<str>,
    pub network: Network,
    pub addresses: Vec<IpAddr>,
    /// Name to resolve when the workload has no address.
    pub hostname: Arc<str>,
    pub node: Arc<str>,
    pub cluster_id: Arc<str>,
    pub locality: Locality,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_type: WorkloadType,
    /// Name of the owner, such as the Deployment.
    pub workload_name: Arc<str>,
    pub tunnel_protocol: TunnelProtocol,
    /// The workload speaks the tunnel protocol itself, as waypoints and gateways do.
    pub native_tunnel: bool,
    pub network_mode: NetworkMode,
    pub health: Health,
    /// Relative share of traffic within a service; at least 1.
    pub capacity: u32,
    /// Ports by service: (service port, target port) pairs that win over the service's own.
    pub services: HashMap<ServiceKey, Vec<(u16, TargetPort)>>,
    /// Policies that select this workload by label; the others follow from their scope.
    pub authorization_policies: Vec<PolicyKey>,
    pub waypoint: Option<GatewayAddress>,
    pub network_gateway: Option<GatewayAddress>,
    pub application_tunnel: Option<ApplicationTunnel>,
}

impl Workload {
    /// A workload with the wire's defaults, and nothing else set.
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        Self {
            uid: WorkloadUid(uid.into()),
            name: name.into(),
            namespace: namespace.into(),
            trust_domain: TrustDomain::default(),
            service_account: "default".into(),
            network: Network::default(),
            addresses: Vec::new(),
            hostname: "".into(),
            node: "".into(),
            cluster_id: "Kubernetes".into(),
            locality: Locality::default(),
            canonical_name: "".into(),
            canonical_revision: "".into(),
            workload_type: WorkloadType::Pod,
            workload_name: "".into(),
            tunnel_protocol: TunnelProtocol::None,
            native_tunnel: false,
            network_mode: NetworkMode::Standard,
            health: Health::Healthy,
            capacity: 1,
            services: HashMap::new(),
            authorization_policies: Vec::new(),
            waypoint: None,
            network_gateway: None,
            application_tunnel: None,
        }
    }

    /// The identity its certificate carries. Fails when the names cannot stand in one.
    pub fn identity(&self) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(
            self.trust_domain.clone(),
            &self.namespace,
            &self.service_account,
        )
    }

    /// The socket address of `port` on its first address of the same family as `like`, or else
    /// on its first address.
    pub fn socket_address(&self, like: IpAddr, port: u16) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .find(|ip| ip.is_ipv4() == like.is_ipv4())
            .or_else(|| self.addresses.first())
            .map(|ip| SocketAddr::new(*ip, port))
    }
}
