//! ServiceEntries: the services they name and the workloads they give inline.

use model::{
    HealthPolicy, LoadBalancing, LoadBalancingMode, NetworkAddress, Service, ServiceKey,
    ServicePort, TargetPort, Workload,
};

use super::{
    Settings,
    service::{self, load_balancing},
    waypoint::{self, Traffic},
    workload,
};
use crate::watch::{
    View,
    core::{Distribution, InternalTraffic, NotReadyAddresses},
    entry::{Endpoint, EndpointAddress, Resolution, ServiceEntry},
    object::Labels,
};

/// The service that a host of an entry is.
pub(crate) fn service(
    settings: &Settings,
    view: &View,
    entry: &ServiceEntry,
    key: &ServiceKey,
) -> Service {
    let namespace = &entry.name.namespace;
    let mut service = Service::new(namespace, &entry.name.name, &key.hostname);
    for range in &entry.addresses {
        if range.prefix_len() == range.max_prefix_len() {
            service.vips.push(NetworkAddress {
                network: settings.network.clone(),
                ip: range.addr(),
            });
        } else {
            service.cidr_vips.push((settings.network.clone(), *range));
        }
    }
    service.ports = entry
        .ports
        .iter()
        .map(|port| ServicePort {
            port: port.number,
            target: TargetPort::Number(port.target),
            app_protocol: port.app_protocol,
        })
        .collect();
    service
        .subject_alt_names
        .clone_from(&entry.subject_alt_names);
    service.waypoint = waypoint::of(settings, view, namespace, &entry.labels, Traffic::Service);
    service.load_balancing = match entry.resolution {
        Resolution::None => Some(LoadBalancing {
            mode: LoadBalancingMode::Passthrough,
            scopes: Vec::new(),
            health_policy: HealthPolicy::OnlyHealthy,
        }),
        Resolution::Static
        | Resolution::Dns
        | Resolution::DnsRoundRobin
        | Resolution::DynamicDns => {
            let own = entry
                .annotations
                .get("networking.istio.io/traffic-distribution")
                .and_then(|text| Distribution::parse(text));
            let wanted = own.or_else(|| service::inherited_distribution(view, namespace));
            load_balancing(InternalTraffic::Cluster, wanted, NotReadyAddresses::Hidden)
        }
    };
    let oldest = view
        .entries_named(&key.hostname)
        .min_by_key(|held| (held.created, &held.name));
    service.canonical = !service::is_of_cluster(settings, view, &key.hostname)
        && oldest.is_some_and(|oldest| oldest.name == entry.name);
    service
}

/// The keys of the services an entry gives shape to: those of its hosts that neither a Service
/// nor an older entry of its namespace has.
pub(crate) fn services_of<'entry>(
    settings: &Settings,
    view: &View,
    entry: &'entry ServiceEntry,
) -> impl Iterator<Item = ServiceKey> + use<'entry> {
    let mut keys = Vec::new();
    for host in &entry.hosts {
        let key = ServiceKey {
            namespace: entry.name.namespace.clone(),
            hostname: host.clone(),
        };
        let owned = service::held(settings, view, &key).is_none()
            && view
                .entry_of(&key)
                .is_some_and(|owner| owner.name == entry.name);
        if owned {
            keys.push(key);
        }
    }
    keys.into_iter()
}

/// The ports of an entry's services on one endpoint, which may move them by name.
pub(crate) fn ports_on(
    entry: &ServiceEntry,
    endpoint: Option<&Endpoint>,
) -> Vec<(u16, TargetPort)> {
    let moved = |name: &str| endpoint.and_then(|endpoint| endpoint.ports.get(name));
    let ports = entry.ports.iter();
    ports
        .map(|port| {
            let target = moved(&port.name).copied().unwrap_or(port.target);
            (port.number, TargetPort::Number(target))
        })
        .collect()
}

/// The workloads of an entry: its endpoints, or for DNS without endpoints its hosts themselves.
pub(crate) fn endpoints(settings: &Settings, view: &View, entry: &ServiceEntry) -> Vec<Workload> {
    if entry.resolution == Resolution::None || !entry.selector.is_empty() {
        return Vec::new();
    }
    let keys: Vec<ServiceKey> = services_of(settings, view, entry).collect();
    let by_name = |key: &ServiceKey| {
        let mut workload = inline(settings, view, entry, &key.hostname, &Labels::new());
        workload.hostname = key.hostname.clone();
        workload.services.insert(key.clone(), ports_on(entry, None));
        workload
    };
    let by_endpoint = |endpoint: &Endpoint| {
        let address = match &endpoint.address {
            EndpointAddress::Ip(ip) => ip.to_string(),
            EndpointAddress::Hostname(name) => name.to_string(),
        };
        let mut workload = inline(settings, view, entry, &address, &endpoint.labels);
        workload::reach_endpoint(settings, &mut workload, endpoint);
        let ports = ports_on(entry, Some(endpoint));
        let services = keys.iter().map(|key| (key.clone(), ports.clone()));
        workload.services.extend(services);
        workload
    };
    if entry.endpoints.is_empty() && entry.resolution != Resolution::Static {
        // A pattern of names has no address of its own.
        let keys = keys.iter().filter(|key| !key.hostname.starts_with('*'));
        return keys.map(by_name).collect();
    }
    entry.endpoints.iter().map(by_endpoint).collect()
}

fn inline(
    settings: &Settings,
    view: &View,
    entry: &ServiceEntry,
    address: &str,
    labels: &Labels,
) -> Workload {
    let (namespace, name) = (&entry.name.namespace, &entry.name.name);
    let cluster = &settings.cluster_id;
    let uid = format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}");
    let mut workload = workload::base(settings, &uid, namespace, name);
    workload::name_canonically(&mut workload, labels, name);
    workload.authorization_policies = workload::policies(settings, view, namespace, labels);
    workload
}
