//! Services: from Service objects, and from the hosts of ServiceEntries.

use std::sync::Arc;

use model::{
    HealthPolicy, LoadBalancing, LoadBalancingMode, NetworkAddress, RoutingScope, Service,
    ServiceKey, ServicePort, TargetPort,
};

use super::{
    Settings, entry,
    waypoint::{self, Traffic},
};
use crate::watch::{
    ObjectName, View,
    core::{self, Distribution, InternalTraffic, NotReadyAddresses, Target},
};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The host name of a Service.
pub(crate) fn key(settings: &Settings, name: &ObjectName) -> ServiceKey {
    let ObjectName { namespace, name } = name;
    let domain = &settings.cluster_domain;
    ServiceKey {
        namespace: namespace.clone(),
        hostname: format!("{name}.{namespace}.svc.{domain}").into(),
    }
}

/// The Service whose host name this is.
pub(crate) fn held<'view>(
    settings: &Settings,
    view: &'view View,
    key: &ServiceKey,
) -> Option<&'view Arc<core::Service>> {
    let name = key.hostname.split('.').next()?;
    let name = ObjectName::new(&key.namespace, name);
    let is_its_own = self::key(settings, &name) == *key;
    view.services.get(&name).filter(|_| is_its_own)
}

/// Whether a Service of any namespace has this host name.
pub(crate) fn is_of_cluster(settings: &Settings, view: &View, hostname: &Arc<str>) -> bool {
    let namespace = hostname.split('.').nth(1).unwrap_or_default();
    let key = ServiceKey {
        namespace: namespace.into(),
        hostname: hostname.clone(),
    };
    held(settings, view, &key).is_some()
}

/// The service of this name: a Service, or else the oldest ServiceEntry of its namespace.
pub(crate) fn of_key(settings: &Settings, view: &View, key: &ServiceKey) -> Option<Service> {
    if let Some(service) = held(settings, view, key) {
        return Some(of_service(settings, view, service));
    }
    let entry = view.entry_of(key)?;
    Some(entry::service(settings, view, entry, key))
}

fn of_service(settings: &Settings, view: &View, object: &core::Service) -> Service {
    let key = key(settings, &object.name);
    let namespace = &object.name.namespace;
    let mut service = Service::new(namespace, &object.name.name, &key.hostname);
    service.canonical = true;
    service.vips = object
        .vips
        .iter()
        .map(|ip| NetworkAddress {
            network: settings.network.clone(),
            ip: *ip,
        })
        .collect();
    service.ports = object
        .ports
        .iter()
        .map(|port| ServicePort {
            port: port.number,
            target: match port.target {
                Target::Number(number) => TargetPort::Number(number),
                Target::Name(_) => TargetPort::Named,
            },
            app_protocol: port.app_protocol,
        })
        .collect();
    let traffic = Traffic::Service;
    service.waypoint = waypoint::of(settings, view, namespace, &object.labels, traffic);
    service.load_balancing = load_balancing(
        object.internal_traffic,
        object
            .distribution
            .or_else(|| inherited_distribution(view, namespace)),
        object.not_ready,
    );
    service
}

/// The preference a namespace gives its services.
pub(crate) fn inherited_distribution(view: &View, namespace: &str) -> Option<Distribution> {
    let annotations = &view.namespace(namespace)?.annotations;
    Distribution::parse(annotations.get(DISTRIBUTION)?)
}

/// The preferences of a service, if it has any.
pub(crate) fn load_balancing(
    internal_traffic: InternalTraffic,
    distribution: Option<Distribution>,
    not_ready: NotReadyAddresses,
) -> Option<LoadBalancing> {
    use RoutingScope::{Network, Node, Region, Subzone, Zone};
    let (mode, scopes): (_, &[RoutingScope]) = match (internal_traffic, distribution) {
        (InternalTraffic::Local, _) => (LoadBalancingMode::Strict, &[Node]),
        (InternalTraffic::Cluster, Some(distribution)) => (
            LoadBalancingMode::Failover,
            match distribution {
                Distribution::Network => &[Network],
                Distribution::Zone => &[Network, Region, Zone],
                Distribution::Node => &[Network, Region, Zone, Subzone, Node],
            },
        ),
        (InternalTraffic::Cluster, None) => (LoadBalancingMode::Any, &[]),
    };
    let health_policy = match not_ready {
        NotReadyAddresses::Published => HealthPolicy::AllowAll,
        NotReadyAddresses::Hidden => HealthPolicy::OnlyHealthy,
    };
    let plain = mode == LoadBalancingMode::Any && health_policy == HealthPolicy::OnlyHealthy;
    (!plain).then(|| LoadBalancing {
        mode,
        scopes: scopes.to_vec(),
        health_policy,
    })
}
