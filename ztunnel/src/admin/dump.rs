//! `/config_dump`: what the daemon knows, in the field names that `istioctl ztunnel-config` reads.
//!
//! Pure; shows nothing secret (certificates, never keys).

use std::net::IpAddr;

use model::{
    Action, ApplicationTunnelProtocol, Authorization, GatewayAddress, GatewayDestination, Health,
    HealthPolicy, Index, LoadBalancingMode, Match, NetworkAddress, Rules, Scope, Service,
    ServiceAccountMatch, StringMatch, TargetPort, TunnelProtocol, Workload,
};
use serde_json::{Map, Value, json};

/// Workloads, services and policies.
pub(crate) fn index(index: &Index) -> Map<String, Value> {
    let workloads: Vec<Value> = index.workloads().map(|held| workload(held)).collect();
    let services: Vec<Value> = index.services().map(|held| service(index, held)).collect();
    let policies: Vec<Value> = index.policies().map(|held| policy(held)).collect();
    let mut dump = Map::new();
    dump.insert("workloads".into(), workloads.into());
    dump.insert("services".into(), services.into());
    dump.insert("policies".into(), policies.into());
    dump
}

fn workload(held: &Workload) -> Value {
    let policies: Vec<String> = held
        .authorization_policies
        .iter()
        .map(ToString::to_string)
        .collect();
    let services: Vec<String> = held.services.keys().map(ToString::to_string).collect();
    json!({
        "uid": held.uid.to_string(),
        "workloadIps": held.addresses,
        "waypoint": held.waypoint.as_ref().map(gateway),
        "networkGateway": held.network_gateway.as_ref().map(gateway),
        "protocol": match held.tunnel_protocol {
            TunnelProtocol::None => "TCP",
            TunnelProtocol::Hbone => "HBONE",
        },
        "name": &*held.name,
        "namespace": &*held.namespace,
        "serviceAccount": &*held.service_account,
        "workloadName": &*held.workload_name,
        "workloadType": held.workload_type.as_str(),
        "canonicalName": &*held.canonical_name,
        "canonicalRevision": &*held.canonical_revision,
        "clusterId": &*held.cluster_id,
        "trustDomain": held.trust_domain.as_str(),
        "locality": {
            "region": &*held.locality.region,
            "zone": &*held.locality.zone,
            "subzone": &*held.locality.subzone,
        },
        "node": &*held.node,
        "network": &*held.network.0,
        "status": match held.health {
            Health::Healthy => "Healthy",
            Health::Unhealthy => "Unhealthy",
        },
        "hostname": &*held.hostname,
        "capacity": held.capacity,
        "applicationTunnel": held.application_tunnel.map(|tunnel| json!({
            "protocol": match tunnel.protocol {
                ApplicationTunnelProtocol::None => "NONE",
                ApplicationTunnelProtocol::Proxy => "PROXY",
            },
            "port": tunnel.port,
        })),
        "authorizationPolicies": policies,
        "services": services,
    })
}

fn gateway(held: &GatewayAddress) -> Value {
    let destination = match &held.destination {
        GatewayDestination::Address(address) => network_address(address),
        GatewayDestination::Hostname(service) => service.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": held.hbone_mtls_port })
}

fn network_address(address: &NetworkAddress) -> String {
    format!("{}/{}", address.network.0, address.ip)
}

fn service(index: &Index, held: &Service) -> Value {
    let ports: Map<String, Value> = held
        .ports
        .iter()
        .map(|port| (port.port.to_string(), target_port(port.target).into()))
        .collect();
    let endpoints: Map<String, Value> = index
        .endpoints(&held.key)
        .into_iter()
        .flatten()
        .map(|endpoint| (endpoint.uid.to_string(), self::endpoint(held, endpoint)))
        .collect();
    json!({
        "name": &*held.name,
        "namespace": &*held.key.namespace,
        "hostname": &*held.key.hostname,
        "vips": held.vips.iter().map(network_address).collect::<Vec<_>>(),
        "ports": ports,
        "endpoints": endpoints,
        "subjectAltNames": held.subject_alt_names.iter().map(|name| &**name).collect::<Vec<_>>(),
        "waypoint": held.waypoint.as_ref().map(gateway),
        "loadBalancer": held.load_balancing.as_ref().map(|preference| json!({
            "mode": match preference.mode {
                LoadBalancingMode::Any => "Standard",
                LoadBalancingMode::Strict => "Strict",
                LoadBalancingMode::Failover => "Failover",
                LoadBalancingMode::Passthrough => "Passthrough",
            },
            "routingPreferences":
                preference.scopes.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>(),
            "healthPolicy": match preference.health_policy {
                HealthPolicy::OnlyHealthy => "OnlyHealthy",
                HealthPolicy::AllowAll => "AllowAll",
            },
        })),
        "ipFamilies": families(held.vips.iter().map(|vip| vip.ip)),
    })
}

fn families(addresses: impl Iterator<Item = IpAddr> + Clone) -> &'static str {
    let has_v4 = addresses.clone().any(|ip| ip.is_ipv4());
    let has_v6 = addresses.clone().any(|ip| ip.is_ipv6());
    match (has_v4, has_v6) {
        (true, true) => "Dual",
        (true, false) => "IPv4",
        (false, true) => "IPv6",
        (false, false) => "",
    }
}

fn endpoint(service: &Service, held: &Workload) -> Value {
    let ports: Map<String, Value> = held
        .services
        .get(&service.key)
        .into_iter()
        .flatten()
        .map(|(port, target)| (port.to_string(), target_port(*target).into()))
        .collect();
    json!({
        "workloadUid": held.uid.to_string(),
        "service": service.key.to_string(),
        "address": held.addresses.first().map(|ip| format!("{}/{ip}", held.network.0)),
        "port": ports,
        "status": match held.health {
            Health::Healthy => "Healthy",
            Health::Unhealthy => "Unhealthy",
        },
    })
}

/// istioctl shows a named port as 0.
fn target_port(target: TargetPort) -> u16 {
    match target {
        TargetPort::Number(number) => number,
        TargetPort::Named => 0,
    }
}

fn policy(held: &Authorization) -> Value {
    let rules: Vec<Vec<Vec<Value>>> = match &held.rules {
        Rules::Malformed(_) => Vec::new(),
        Rules::Valid(rules) => rules
            .iter()
            .map(|rule| {
                let clauses = rule.clauses.iter();
                clauses
                    .map(|clause| clause.matches.iter().map(one_match).collect())
                    .collect()
            })
            .collect(),
    };
    let malformed = match &held.rules {
        Rules::Malformed(why) => Some(&**why),
        Rules::Valid(_) => None,
    };
    json!({
        "name": &*held.key.name,
        "namespace": &*held.key.namespace,
        "scope": match held.scope {
            Scope::Global => "Global",
            Scope::Namespace => "Namespace",
            Scope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match held.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "dryRun": held.dry_run,
        "malformed": malformed,
        "rules": rules,
    })
}

fn one_match(held: &Match) -> Value {
    let text = |values: &[StringMatch]| values.iter().map(string_match).collect::<Vec<_>>();
    let account = |values: &[ServiceAccountMatch]| {
        let told = values.iter().map(|value| {
            json!({ "namespace": &*value.namespace, "serviceAccount": &*value.service_account })
        });
        told.collect::<Vec<_>>()
    };
    json!({
        "namespaces": text(&held.namespaces),
        "notNamespaces": text(&held.not_namespaces),
        "serviceAccounts": account(&held.service_accounts),
        "notServiceAccounts": account(&held.not_service_accounts),
        "principals": text(&held.principals),
        "notPrincipals": text(&held.not_principals),
        "sourceIps": held.source_ips,
        "notSourceIps": held.not_source_ips,
        "destinationIps": held.destination_ips,
        "notDestinationIps": held.not_destination_ips,
        "destinationPorts": held.destination_ports,
        "notDestinationPorts": held.not_destination_ports,
    })
}

fn string_match(held: &StringMatch) -> Value {
    match held {
        StringMatch::Exact(value) => json!({ "Exact": &**value }),
        StringMatch::Prefix(value) => json!({ "Prefix": &**value }),
        StringMatch::Suffix(value) => json!({ "Suffix": &**value }),
        StringMatch::Presence => json!({ "Presence": null }),
    }
}
