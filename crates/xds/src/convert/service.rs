//! Services.

use ipnet::IpNet;
use model::{
    AppProtocol, HealthPolicy, LoadBalancing, LoadBalancingMode, Network, NetworkAddress,
    RoutingScope, Service, ServiceKey, ServicePort, Visibility,
};

use super::{
    FieldError, Problem,
    fields::{each, ip_bytes, known, network_address, port, range, required},
    workload::{gateway, target_port, target_port_number},
};
use crate::proto::workload as wire;

impl TryFrom<&wire::Service> for Service {
    type Error = FieldError;

    fn try_from(message: &wire::Service) -> Result<Self, FieldError> {
        let mut vips = Vec::new();
        let mut cidr_vips = Vec::new();
        for address in each("addresses", &message.addresses, virtual_address)? {
            match address {
                VirtualAddress::Single(address) => vips.push(address),
                VirtualAddress::Range(network, range) => cidr_vips.push((network, range)),
            }
        }
        Ok(Self {
            key: ServiceKey {
                namespace: required("namespace", &message.namespace)?,
                hostname: required("hostname", &message.hostname)?,
            },
            name: message.name.as_str().into(),
            vips,
            cidr_vips,
            ports: each("ports", &message.ports, service_port)?,
            subject_alt_names: message
                .subject_alt_names
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            waypoint: gateway("waypoint", message.waypoint.as_ref())?,
            load_balancing: message
                .load_balancing
                .as_ref()
                .map(load_balancing)
                .transpose()?,
            visibility: match known("visibility", message.visibility)? {
                wire::service::Visibility::Public => Visibility::Public,
                wire::service::Visibility::Namespace => Visibility::Namespace,
            },
            canonical: message.canonical,
        })
    }
}

enum VirtualAddress {
    Single(NetworkAddress),
    Range(Network, IpNet),
}

fn virtual_address(message: &wire::NetworkAddress) -> Result<VirtualAddress, FieldError> {
    let Some(length) = message.length else {
        return network_address(message).map(VirtualAddress::Single);
    };
    let network = Network(message.network.as_str().into());
    let range = range(&message.address, length)?;
    // A range of one is found by exact look-up.
    if range.prefix_len() == range.max_prefix_len() {
        let ip = range.addr();
        return Ok(VirtualAddress::Single(NetworkAddress { network, ip }));
    }
    Ok(VirtualAddress::Range(network, range))
}

fn service_port(message: &wire::Port) -> Result<ServicePort, FieldError> {
    Ok(ServicePort {
        port: port("service_port", message.service_port)?,
        target: target_port(message.target_port)?,
        // A protocol from the future is a protocol not known: only L7 proxies look, and they
        // treat such a port as opaque.
        app_protocol: wire::AppProtocol::try_from(message.app_protocol)
            .map_or(AppProtocol::Unknown, app_protocol),
    })
}

fn app_protocol(value: wire::AppProtocol) -> AppProtocol {
    match value {
        wire::AppProtocol::Unknown => AppProtocol::Unknown,
        wire::AppProtocol::Http11 => AppProtocol::Http11,
        wire::AppProtocol::Http2 => AppProtocol::Http2,
        wire::AppProtocol::Grpc => AppProtocol::Grpc,
        wire::AppProtocol::Tcp => AppProtocol::Tcp,
        wire::AppProtocol::Tls => AppProtocol::Tls,
    }
}

fn load_balancing(message: &wire::LoadBalancing) -> Result<LoadBalancing, FieldError> {
    use wire::load_balancing::{HealthPolicy as WireHealth, Mode, Scope};
    let within = |error: FieldError| error.within("load_balancing");
    let scope = |value: &i32| match known("", *value)? {
        Scope::UnspecifiedScope => Err(Problem::Missing.at("")),
        Scope::Region => Ok(RoutingScope::Region),
        Scope::Zone => Ok(RoutingScope::Zone),
        Scope::Subzone => Ok(RoutingScope::Subzone),
        Scope::Node => Ok(RoutingScope::Node),
        Scope::Cluster => Ok(RoutingScope::Cluster),
        Scope::Network => Ok(RoutingScope::Network),
    };
    Ok(LoadBalancing {
        mode: match known("mode", message.mode).map_err(within)? {
            Mode::UnspecifiedMode => LoadBalancingMode::Any,
            Mode::Strict => LoadBalancingMode::Strict,
            Mode::Failover => LoadBalancingMode::Failover,
            Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        scopes: each("routing_preference", &message.routing_preference, scope).map_err(within)?,
        health_policy: match known("health_policy", message.health_policy).map_err(within)? {
            WireHealth::OnlyHealthy => HealthPolicy::OnlyHealthy,
            WireHealth::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        let ranges = service
            .cidr_vips
            .iter()
            .map(|(network, range)| wire::NetworkAddress {
                network: network.0.to_string(),
                address: ip_bytes(range.addr()),
                length: Some(range.prefix_len().into()),
            });
        Self {
            name: service.name.to_string(),
            namespace: service.key.namespace.to_string(),
            hostname: service.key.hostname.to_string(),
            addresses: service.vips.iter().map(Into::into).chain(ranges).collect(),
            ports: service.ports.iter().map(port_message).collect(),
            subject_alt_names: service
                .subject_alt_names
                .iter()
                .map(ToString::to_string)
                .collect(),
            waypoint: service.waypoint.as_ref().map(Into::into),
            load_balancing: service.load_balancing.as_ref().map(Into::into),
            ip_families: wire::IpFamilies::Automatic.into(),
            extensions: Vec::new(),
            canonical: service.canonical,
            ingress_use_waypoint: false,
            weighted_waypoints: Vec::new(),
            visibility: match service.visibility {
                Visibility::Public => wire::service::Visibility::Public,
                Visibility::Namespace => wire::service::Visibility::Namespace,
            }
            .into(),
        }
    }
}

fn port_message(port: &ServicePort) -> wire::Port {
    wire::Port {
        service_port: port.port.into(),
        target_port: target_port_number(port.target),
        app_protocol: match port.app_protocol {
            AppProtocol::Unknown => wire::AppProtocol::Unknown,
            AppProtocol::Http11 => wire::AppProtocol::Http11,
            AppProtocol::Http2 => wire::AppProtocol::Http2,
            AppProtocol::Grpc => wire::AppProtocol::Grpc,
            AppProtocol::Tcp => wire::AppProtocol::Tcp,
            AppProtocol::Tls => wire::AppProtocol::Tls,
        }
        .into(),
    }
}

impl From<&LoadBalancing> for wire::LoadBalancing {
    fn from(balancing: &LoadBalancing) -> Self {
        use wire::load_balancing::{HealthPolicy as WireHealth, Mode, Scope};
        let scope = |scope: &RoutingScope| match scope {
            RoutingScope::Region => Scope::Region,
            RoutingScope::Zone => Scope::Zone,
            RoutingScope::Subzone => Scope::Subzone,
            RoutingScope::Node => Scope::Node,
            RoutingScope::Cluster => Scope::Cluster,
            RoutingScope::Network => Scope::Network,
        };
        Self {
            routing_preference: balancing
                .scopes
                .iter()
                .map(|value| scope(value).into())
                .collect(),
            mode: match balancing.mode {
                LoadBalancingMode::Any => Mode::UnspecifiedMode,
                LoadBalancingMode::Strict => Mode::Strict,
                LoadBalancingMode::Failover => Mode::Failover,
                LoadBalancingMode::Passthrough => Mode::Passthrough,
            }
            .into(),
            health_policy: match balancing.health_policy {
                HealthPolicy::OnlyHealthy => WireHealth::OnlyHealthy,
                HealthPolicy::AllowAll => WireHealth::AllowAll,
            }
            .into(),
        }
    }
}
