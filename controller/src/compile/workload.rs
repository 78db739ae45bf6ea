//! Workloads: from pods and WorkloadEntries.

use std::{collections::HashMap, sync::Arc};

use model::{
    Health, Network, NetworkMode, PolicyKey, ServiceKey, TargetPort, TunnelProtocol, Workload,
};

use super::{
    Settings, authorization, entry, peer, service,
    waypoint::{self, Traffic},
};
use crate::watch::{
    PodOnNode, View,
    core::{Phase, Pod, PodNetwork, Port, Readiness, Target},
    entry::{Endpoint, EndpointAddress, WorkloadEntry},
    object::{Labels, selects},
    view::in_namespace,
};

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const NATIVE_TUNNEL: &str = "networking.istio.io/tunnel";
const SIDECAR: &str = "sidecar.istio.io/status";
const NETWORK: &str = "topology.istio.io/network";
/// What runs here is needed to start the mesh.
const EXCLUDED_NAMESPACES: [&str; 1] = ["kube-system"];

/// The workload a pod is; none once it has ended, and none before it has an address.
pub(crate) fn of_pod(settings: &Settings, view: &View, pod: &Pod) -> Option<Workload> {
    if pod.phase == Phase::Terminal || pod.addresses.is_empty() {
        return None;
    }
    let namespace = &pod.name.namespace;
    let cluster = &settings.cluster_id;
    let uid = format!("{cluster}//Pod/{namespace}/{}", pod.name.name);
    let mut workload = base(settings, &uid, namespace, &pod.name.name);
    workload.addresses.clone_from(&pod.addresses);
    workload.service_account = pod.service_account.clone();
    workload.node = pod.node.clone();
    if let Some(node) = view.node(&pod.node) {
        workload.locality = node.locality.clone();
    }
    if let Some(network) = pod.labels.get(NETWORK) {
        workload.network = Network(network.as_str().into());
    }
    workload.workload_type = pod.owner.workload_type;
    workload.workload_name = pod.owner.name.clone();
    name_canonically(&mut workload, &pod.labels, &pod.owner.name);
    workload.network_mode = match pod.network {
        PodNetwork::Own => NetworkMode::Standard,
        PodNetwork::Host => NetworkMode::HostNetwork,
    };
    workload.health = match pod.readiness {
        Readiness::Ready => Health::Healthy,
        Readiness::Unready => Health::Unhealthy,
    };
    workload.tunnel_protocol = tunnel_protocol(view, pod);
    workload.native_tunnel = speaks_tunnel(&pod.labels);
    let target = |port: &Port| match &port.target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod.named_ports.get(name).copied(),
    };
    workload.services = services(settings, view, namespace, &pod.labels, target, None);
    workload.authorization_policies = policies(settings, view, namespace, &pod.labels);
    workload.waypoint = waypoint::of(settings, view, namespace, &pod.labels, Traffic::Workload);
    Some(workload)
}

/// HBONE follows from what is, never from what is wanted alone: a node captured the pod, or the
/// pod says that it takes the tunnel itself.
fn tunnel_protocol(view: &View, pod: &Pod) -> TunnelProtocol {
    if speaks_tunnel(&pod.labels) {
        return TunnelProtocol::Hbone;
    }
    if pod.network == PodNetwork::Host || pod.annotations.contains_key(SIDECAR) {
        return TunnelProtocol::None;
    }
    let annotated = pod.annotations.get(REDIRECTION).map(String::as_str) == Some("enabled");
    let here = PodOnNode {
        pod: pod.name.clone(),
        node: pod.node.clone(),
    };
    let captured = view
        .enrolled
        .get(&here)
        .is_some_and(|uid| uid.is_empty() || pod.uid.is_empty() || *uid == pod.uid);
    if annotated || (captured && wants_mesh(view, pod)) {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    }
}

fn speaks_tunnel(labels: &Labels) -> bool {
    labels.get(NATIVE_TUNNEL).is_some_and(|it| it == "http")
}

/// Whether labels ask for the mesh: the pod's own before its namespace's.
pub(crate) fn wants_mesh(view: &View, pod: &Pod) -> bool {
    if EXCLUDED_NAMESPACES.contains(&&*pod.name.namespace) {
        return false;
    }
    let namespace = view.namespace(&pod.name.namespace);
    let inherited = namespace.and_then(|held| held.labels.get(DATAPLANE_MODE));
    match pod.labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => true,
        Some("none") => false,
        Some(_) | None => inherited.is_some_and(|mode| mode == "ambient"),
    }
}

/// The workload a WorkloadEntry is.
pub(crate) fn of_entry(settings: &Settings, view: &View, object: &WorkloadEntry) -> Workload {
    let (namespace, name) = (&object.name.namespace, &object.name.name);
    let cluster = &settings.cluster_id;
    let uid = format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}");
    let mut workload = base(settings, &uid, namespace, name);
    let endpoint = &object.endpoint;
    reach_endpoint(settings, &mut workload, endpoint);
    name_canonically(&mut workload, &object.labels, name);
    if speaks_tunnel(&object.labels) {
        workload.tunnel_protocol = TunnelProtocol::Hbone;
        workload.native_tunnel = true;
    }
    let target = |port: &Port| match &port.target {
        Target::Name(name) => endpoint.ports.get(name).copied(),
        Target::Number(number) => Some(endpoint.ports.get(&port.name).copied().unwrap_or(*number)),
    };
    let labels = &object.labels;
    workload.services = services(settings, view, namespace, labels, target, Some(endpoint));
    workload.authorization_policies = policies(settings, view, namespace, labels);
    workload.waypoint = waypoint::of(settings, view, namespace, labels, Traffic::Workload);
    workload
}

/// A workload with what is the same for all.
pub(crate) fn base(settings: &Settings, uid: &str, namespace: &str, name: &str) -> Workload {
    let mut workload = Workload::new(uid, namespace, name);
    workload.trust_domain = settings.trust_domain.clone();
    workload.cluster_id = settings.cluster_id.clone();
    workload.network = settings.network.clone();
    workload.workload_name = name.into();
    workload
}

/// Sets where an endpoint is reached, and how much traffic it takes.
pub(crate) fn reach_endpoint(settings: &Settings, workload: &mut Workload, endpoint: &Endpoint) {
    match &endpoint.address {
        EndpointAddress::Ip(ip) => workload.addresses = vec![*ip],
        EndpointAddress::Hostname(name) => workload.hostname = name.clone(),
    }
    workload.network = if endpoint.network.is_empty() {
        settings.network.clone()
    } else {
        Network(endpoint.network.clone())
    };
    workload.locality = endpoint.locality.clone();
    workload.capacity = endpoint.weight;
    workload.service_account = endpoint.service_account.clone();
}

/// Sets the names metrics and logs use.
pub(crate) fn name_canonically(workload: &mut Workload, labels: &Labels, fallback: &str) {
    let first = |keys: &[&str], fallback: &str| -> Arc<str> {
        let held = keys.iter().find_map(|key| labels.get(*key));
        held.map_or(fallback, String::as_str).into()
    };
    let names = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    let revisions = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    workload.canonical_name = first(&names, fallback);
    workload.canonical_revision = first(&revisions, "latest");
}

/// The services that select these labels, with their ports as this workload has them.
fn services(
    settings: &Settings,
    view: &View,
    namespace: &str,
    labels: &Labels,
    target: impl Fn(&Port) -> Option<u16>,
    endpoint: Option<&Endpoint>,
) -> HashMap<ServiceKey, Vec<(u16, TargetPort)>> {
    let mut services = HashMap::new();
    for (name, held) in in_namespace(&view.services, namespace) {
        if held.selector.is_empty() || !selects(&held.selector, labels) {
            continue;
        }
        // A named port this workload does not have leads nowhere on it.
        let pair = |port: &Port| Some((port.number, TargetPort::Number(target(port)?)));
        let ports = held.ports.iter().filter_map(pair).collect();
        services.insert(service::key(settings, name), ports);
    }
    for (_, held) in in_namespace(&view.service_entries, namespace) {
        if held.selector.is_empty() || !selects(&held.selector, labels) {
            continue;
        }
        let ports = entry::ports_on(held, endpoint);
        let keys = entry::services_of(settings, view, held);
        services.extend(keys.map(|key| (key, ports.clone())));
    }
    services
}

/// The policies that select these labels; those of a whole namespace follow from their scope.
pub(crate) fn policies(
    settings: &Settings,
    view: &View,
    namespace: &str,
    labels: &Labels,
) -> Vec<PolicyKey> {
    let root = &settings.root_namespace;
    let own = in_namespace(&view.authorization_policies, namespace);
    let mesh = in_namespace(&view.authorization_policies, root).filter(|_| namespace != &**root);
    let selected = own
        .chain(mesh)
        .filter(|(_, policy)| authorization::selects_workload(policy, labels));
    let mut keys: Vec<PolicyKey> = selected.map(|(name, _)| authorization::key(name)).collect();
    keys.extend(peer::policy_of(settings, view, namespace, labels));
    keys.sort();
    keys
}
