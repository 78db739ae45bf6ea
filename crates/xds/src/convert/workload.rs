//! Workloads, and the references to gateways they share with services.

use std::collections::{BTreeMap, HashMap};

use model::{
    ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, Health,
    Locality, Network, NetworkMode, PolicyKey, ServiceKey, TargetPort, TrustDomain, TunnelProtocol,
    Workload, WorkloadType, WorkloadUid,
};

use super::{
    FieldError, Problem,
    fields::{
        each, ip, ip_bytes, known, namespaced, network_address, optional_port, port, required,
    },
};
use crate::proto::workload as wire;

type PortPairs = Vec<(u16, TargetPort)>;

impl TryFrom<&wire::Workload> for Workload {
    type Error = FieldError;

    fn try_from(message: &wire::Workload) -> Result<Self, FieldError> {
        let or_default =
            |value: &str, default: &str| if value.is_empty() { default } else { value }.into();
        Ok(Self {
            uid: WorkloadUid(required("uid", &message.uid)?),
            name: message.name.as_str().into(),
            namespace: message.namespace.as_str().into(),
            trust_domain: trust_domain(&message.trust_domain)?,
            service_account: or_default(&message.service_account, "default"),
            network: Network(message.network.as_str().into()),
            addresses: each("addresses", &message.addresses, |bytes| {
                ip(bytes).map_err(|error| error.problem.at(""))
            })?,
            hostname: message.hostname.as_str().into(),
            node: message.node.as_str().into(),
            cluster_id: or_default(&message.cluster_id, "Kubernetes"),
            locality: message.locality.as_ref().map(locality).unwrap_or_default(),
            canonical_name: message.canonical_name.as_str().into(),
            canonical_revision: message.canonical_revision.as_str().into(),
            workload_type: known("workload_type", message.workload_type).map(workload_type)?,
            workload_name: message.workload_name.as_str().into(),
            tunnel_protocol: tunnel_protocol(message.tunnel_protocol)?,
            native_tunnel: message.native_tunnel,
            network_mode: match known("network_mode", message.network_mode)? {
                wire::NetworkMode::Standard => NetworkMode::Standard,
                wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
            },
            health: match known("status", message.status)? {
                wire::WorkloadStatus::Healthy => Health::Healthy,
                wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
            },
            capacity: message.capacity.unwrap_or_default().max(1),
            services: services(&message.services)?,
            authorization_policies: each(
                "authorization_policies",
                &message.authorization_policies,
                |name| policy_key(name),
            )?,
            waypoint: gateway("waypoint", message.waypoint.as_ref())?,
            network_gateway: gateway("network_gateway", message.network_gateway.as_ref())?,
            application_tunnel: message
                .application_tunnel
                .as_ref()
                .map(application_tunnel)
                .transpose()?,
        })
    }
}

fn trust_domain(value: &str) -> Result<TrustDomain, FieldError> {
    if value.is_empty() {
        return Ok(TrustDomain::default());
    }
    value
        .parse()
        .map_err(|error| Problem::Identity(error).at("trust_domain"))
}

fn tunnel_protocol(value: i32) -> Result<TunnelProtocol, FieldError> {
    match known("tunnel_protocol", value)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => {
            Err(Problem::LegacyIstioMtls.at("tunnel_protocol"))
        }
    }
}

fn workload_type(value: wire::WorkloadType) -> WorkloadType {
    match value {
        wire::WorkloadType::Deployment => WorkloadType::Deployment,
        wire::WorkloadType::Cronjob => WorkloadType::CronJob,
        wire::WorkloadType::Pod => WorkloadType::Pod,
        wire::WorkloadType::Job => WorkloadType::Job,
    }
}

fn locality(message: &wire::Locality) -> Locality {
    Locality {
        region: message.region.as_str().into(),
        zone: message.zone.as_str().into(),
        subzone: message.subzone.as_str().into(),
    }
}

fn policy_key(value: &str) -> Result<PolicyKey, FieldError> {
    let (namespace, name) =
        namespaced(value).ok_or_else(|| Problem::NamespacedName(value.to_owned()).at(""))?;
    Ok(PolicyKey { namespace, name })
}

fn services(
    message: &BTreeMap<String, wire::PortList>,
) -> Result<HashMap<ServiceKey, PortPairs>, FieldError> {
    message
        .iter()
        .map(|(service, ports)| {
            let entry = format!("services[{service:?}]");
            let (namespace, hostname) = namespaced(service)
                .ok_or_else(|| Problem::NamespacedName(service.clone()).at(entry.as_str()))?;
            let key = ServiceKey {
                namespace,
                hostname,
            };
            let pairs = each("ports", &ports.ports, port_pair);
            Ok((key, pairs.map_err(|error| error.within(entry))?))
        })
        .collect()
}

fn port_pair(message: &wire::Port) -> Result<(u16, TargetPort), FieldError> {
    Ok((
        port("service_port", message.service_port)?,
        target_port(message.target_port)?,
    ))
}

pub(super) fn target_port(value: u32) -> Result<TargetPort, FieldError> {
    let port = optional_port("target_port", value)?;
    Ok(port.map_or(TargetPort::Named, TargetPort::Number))
}

pub(super) fn gateway(
    field: &str,
    message: Option<&wire::GatewayAddress>,
) -> Result<Option<GatewayAddress>, FieldError> {
    message
        .map(|message| gateway_address(message).map_err(|error| error.within(field)))
        .transpose()
}

fn gateway_address(message: &wire::GatewayAddress) -> Result<GatewayAddress, FieldError> {
    use wire::gateway_address::Destination;
    let destination = match &message.destination {
        Some(Destination::Address(address)) => GatewayDestination::Address(
            network_address(address).map_err(|error| error.within("address"))?,
        ),
        Some(Destination::Hostname(name)) => GatewayDestination::Hostname(ServiceKey {
            namespace: required("hostname.namespace", &name.namespace)?,
            hostname: required("hostname.hostname", &name.hostname)?,
        }),
        None => return Err(Problem::Missing.at("destination")),
    };
    Ok(GatewayAddress {
        destination,
        hbone_mtls_port: port("hbone_mtls_port", message.hbone_mtls_port)?,
    })
}

fn application_tunnel(message: &wire::ApplicationTunnel) -> Result<ApplicationTunnel, FieldError> {
    use wire::application_tunnel::Protocol;
    Ok(ApplicationTunnel {
        protocol: match known("application_tunnel.protocol", message.protocol)? {
            Protocol::None => ApplicationTunnelProtocol::None,
            Protocol::Proxy => ApplicationTunnelProtocol::Proxy,
        },
        port: optional_port("application_tunnel.port", message.port)?,
    })
}

impl From<&Workload> for wire::Workload {
    fn from(workload: &Workload) -> Self {
        Self {
            name: workload.name.to_string(),
            namespace: workload.namespace.to_string(),
            addresses: workload.addresses.iter().copied().map(ip_bytes).collect(),
            network: workload.network.0.to_string(),
            tunnel_protocol: match workload.tunnel_protocol {
                TunnelProtocol::None => wire::TunnelProtocol::None,
                TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
            }
            .into(),
            trust_domain: trust_domain_text(&workload.trust_domain),
            service_account: elided(&workload.service_account, "default"),
            waypoint: workload.waypoint.as_ref().map(Into::into),
            node: workload.node.to_string(),
            canonical_name: workload.canonical_name.to_string(),
            canonical_revision: workload.canonical_revision.to_string(),
            workload_type: workload_type_number(workload.workload_type).into(),
            workload_name: workload.workload_name.to_string(),
            native_tunnel: workload.native_tunnel,
            authorization_policies: workload
                .authorization_policies
                .iter()
                .map(ToString::to_string)
                .collect(),
            status: match workload.health {
                Health::Healthy => wire::WorkloadStatus::Healthy,
                Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
            }
            .into(),
            cluster_id: workload.cluster_id.to_string(),
            network_gateway: workload.network_gateway.as_ref().map(Into::into),
            uid: workload.uid.0.to_string(),
            hostname: workload.hostname.to_string(),
            services: services_message(&workload.services),
            application_tunnel: workload.application_tunnel.as_ref().map(Into::into),
            locality: locality_message(&workload.locality),
            network_mode: match workload.network_mode {
                NetworkMode::Standard => wire::NetworkMode::Standard,
                NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
            }
            .into(),
            extensions: Vec::new(),
            capacity: (workload.capacity != 1).then_some(workload.capacity),
        }
    }
}

fn elided(value: &str, default: &str) -> String {
    if value == default { "" } else { value }.to_owned()
}

fn trust_domain_text(domain: &TrustDomain) -> String {
    elided(domain.as_str(), TrustDomain::default().as_str())
}

fn workload_type_number(value: WorkloadType) -> wire::WorkloadType {
    match value {
        WorkloadType::Deployment => wire::WorkloadType::Deployment,
        WorkloadType::CronJob => wire::WorkloadType::Cronjob,
        WorkloadType::Pod => wire::WorkloadType::Pod,
        WorkloadType::Job => wire::WorkloadType::Job,
    }
}

fn services_message(services: &HashMap<ServiceKey, PortPairs>) -> BTreeMap<String, wire::PortList> {
    let port_message = |(service_port, target): &(u16, TargetPort)| wire::Port {
        service_port: (*service_port).into(),
        target_port: target_port_number(*target),
        app_protocol: wire::AppProtocol::Unknown.into(),
    };
    services
        .iter()
        .map(|(key, ports)| {
            let ports = ports.iter().map(port_message).collect();
            (key.to_string(), wire::PortList { ports })
        })
        .collect()
}

pub(super) fn target_port_number(target: TargetPort) -> u32 {
    match target {
        TargetPort::Number(port) => port.into(),
        TargetPort::Named => 0,
    }
}

fn locality_message(locality: &Locality) -> Option<wire::Locality> {
    (*locality != Locality::default()).then(|| wire::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    })
}

impl From<&GatewayAddress> for wire::GatewayAddress {
    fn from(gateway: &GatewayAddress) -> Self {
        use wire::gateway_address::Destination;
        Self {
            destination: Some(match &gateway.destination {
                GatewayDestination::Address(address) => Destination::Address(address.into()),
                GatewayDestination::Hostname(key) => {
                    Destination::Hostname(wire::NamespacedHostname {
                        namespace: key.namespace.to_string(),
                        hostname: key.hostname.to_string(),
                    })
                }
            }),
            hbone_mtls_port: gateway.hbone_mtls_port.into(),
        }
    }
}

impl From<&ApplicationTunnel> for wire::ApplicationTunnel {
    fn from(tunnel: &ApplicationTunnel) -> Self {
        use wire::application_tunnel::Protocol;
        Self {
            protocol: match tunnel.protocol {
                ApplicationTunnelProtocol::None => Protocol::None,
                ApplicationTunnelProtocol::Proxy => Protocol::Proxy,
            }
            .into(),
            port: tunnel.port.unwrap_or_default().into(),
        }
    }
}
