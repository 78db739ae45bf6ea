//! What objects become, and that compiling changes is compiling the whole.

use std::collections::BTreeMap;

use model::{
    Health, HealthPolicy, LoadBalancing, LoadBalancingMode, NetworkMode, RoutingScope, Service,
    TargetPort, TunnelProtocol, Workload, WorkloadType,
};
use proptest::prelude::*;

use super::*;
use crate::watch::{Object, for_test::objects};

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        trust_domain: TrustDomain::default(),
        root_namespace: "ambit-system".into(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
    })
}

fn compiler(yaml: &str) -> Compiler {
    let (mut compiler, _) = Compiler::new(settings());
    compiler.apply(set(yaml));
    compiler
}

fn set(yaml: &str) -> Vec<Input> {
    let objects = objects(yaml).into_iter();
    objects
        .map(|object| Input::Object(ObjectChange::Set(object)))
        .collect()
}

fn pod(metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: cart-1, namespace: shop, {metadata}}}
spec: {{nodeName: node-a, containers: [], {spec}}}
status: {{podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}], {status}}}
---
"
    )
}

fn namespace(labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n---\n"
    )
}

#[track_caller]
fn workload(compiler: &Compiler, uid: &str) -> Workload {
    let mut found = compiler.resources().filter_map(|resource| match resource {
        Resource::Workload(workload) if &*workload.uid.0 == uid => Some((**workload).clone()),
        Resource::Workload(_) | Resource::Service(_) | Resource::Authorization(_) => None,
    });
    found.next().unwrap_or_else(|| panic!("no workload {uid}"))
}

#[track_caller]
fn service(compiler: &Compiler, hostname: &str) -> Service {
    let mut found = compiler.resources().filter_map(|resource| match resource {
        Resource::Service(service) if &*service.key.hostname == hostname => {
            Some((**service).clone())
        }
        Resource::Workload(_) | Resource::Service(_) | Resource::Authorization(_) => None,
    });
    found
        .next()
        .unwrap_or_else(|| panic!("no service {hostname}"))
}

const POD: &str = "Kubernetes//Pod/shop/cart-1";
const CART: &str = "cart.shop.svc.cluster.local";

fn enrolled(pod: &str, node: &str, uid: &str) -> Input {
    let place = PodOnNode {
        pod: ObjectName::new("shop", pod),
        node: node.into(),
    };
    Input::Enrolled(place, uid.into())
}

#[test]
fn a_pod_becomes_a_workload_under_its_names() {
    let node = "apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
---
";
    let owner = "labels: {app: cart, version: v2, pod-template-hash: abc},
        ownerReferences: [{controller: true, kind: ReplicaSet, name: cart-abc, apiVersion: apps/v1, uid: u}]";
    let compiler = compiler(&format!(
        "{node}{}",
        pod(owner, "serviceAccountName: cart", "")
    ));
    let workload = workload(&compiler, POD);
    assert_eq!(
        workload.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/cart"
    );
    assert_eq!(workload.addresses.len(), 2);
    assert_eq!((&*workload.node, &*workload.locality.zone), ("node-a", "z"));
    assert_eq!(workload.workload_type, WorkloadType::Deployment);
    assert_eq!(&*workload.workload_name, "cart");
    assert_eq!(
        (&*workload.canonical_name, &*workload.canonical_revision),
        ("cart", "v2")
    );
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::None);
}

#[test]
fn owners_give_workloads_their_names() {
    for (kind, name, wanted_type, wanted_name) in [
        ("ReplicaSet", "bare", WorkloadType::Pod, "bare"),
        ("Job", "backup-29012345", WorkloadType::CronJob, "backup"),
        ("Job", "import", WorkloadType::Job, "import"),
        ("StatefulSet", "db", WorkloadType::Pod, "db"),
    ] {
        let owner = format!(
            "ownerReferences: [{{controller: true, kind: {kind}, name: {name}, apiVersion: v1, uid: u}}]"
        );
        let workload = workload(&compiler(&pod(&owner, "", "")), POD);
        assert_eq!(
            (workload.workload_type, &*workload.workload_name),
            (wanted_type, wanted_name)
        );
    }
}

#[test]
fn readiness_and_phase_are_the_pods_own() {
    let ready = |condition: &str| format!("conditions: [{{type: Ready, status: '{condition}'}}]");
    for (status, health) in [
        (String::new(), Health::Healthy),
        (ready("True"), Health::Healthy),
        (ready("False"), Health::Unhealthy),
    ] {
        assert_eq!(
            workload(&compiler(&pod("", "", &status)), POD).health,
            health
        );
    }
    let leaving = pod("deletionTimestamp: '2026-01-01T00:00:00Z'", "", "");
    assert_eq!(workload(&compiler(&leaving), POD).health, Health::Unhealthy);
    for phase in ["Succeeded", "Failed"] {
        let compiler = compiler(&pod("", "", &format!("phase: {phase}")));
        assert_eq!(
            compiler.resources().count(),
            1,
            "only the strict policy is left"
        );
    }
}

#[test]
fn a_pod_is_hbone_when_its_labels_ask_and_its_node_captured_it() {
    let ambient = "istio.io/dataplane-mode: ambient";
    let none = "istio.io/dataplane-mode: none";
    for (namespace_label, pod_label, wanted) in [
        ("", "", TunnelProtocol::None),
        (ambient, "", TunnelProtocol::Hbone),
        ("", ambient, TunnelProtocol::Hbone),
        (ambient, none, TunnelProtocol::None),
        (none, ambient, TunnelProtocol::Hbone),
    ] {
        let pod = pod(&format!("labels: {{{pod_label}}}"), "", "");
        let mut compiler = compiler(&format!("{}{pod}", namespace(namespace_label)));
        let before = workload(&compiler, POD).tunnel_protocol;
        assert_eq!(
            before,
            TunnelProtocol::None,
            "intent alone publishes nothing"
        );
        compiler.apply([enrolled("cart-1", "node-a", "")]);
        assert_eq!(workload(&compiler, POD).tunnel_protocol, wanted);
    }
}

#[test]
fn only_the_pods_own_node_and_uid_count_as_captured() {
    let yaml = pod(
        "uid: '1', labels: {istio.io/dataplane-mode: ambient}",
        "",
        "",
    );
    for (node, uid, wanted) in [
        ("node-a", "1", TunnelProtocol::Hbone),
        ("node-a", "", TunnelProtocol::Hbone),
        ("node-a", "2", TunnelProtocol::None),
        ("node-b", "1", TunnelProtocol::None),
    ] {
        let mut compiler = compiler(&yaml);
        compiler.apply([enrolled("cart-1", node, uid)]);
        assert_eq!(
            workload(&compiler, POD).tunnel_protocol,
            wanted,
            "{node} {uid}"
        );
    }
}

#[test]
fn annotations_count_as_capture_but_not_for_pods_that_cannot_be() {
    let enabled = "annotations: {ambient.istio.io/redirection: enabled}";
    let with_sidecar =
        "annotations: {ambient.istio.io/redirection: enabled, sidecar.istio.io/status: '{}'}";
    for (metadata, spec, wanted) in [
        (enabled, "", TunnelProtocol::Hbone),
        (enabled, "hostNetwork: true", TunnelProtocol::None),
        (with_sidecar, "", TunnelProtocol::None),
        (
            "labels: {networking.istio.io/tunnel: http}",
            "",
            TunnelProtocol::Hbone,
        ),
    ] {
        let workload = workload(&compiler(&pod(metadata, spec, "")), POD);
        assert_eq!(workload.tunnel_protocol, wanted, "{metadata} {spec}");
    }
    let host = workload(&compiler(&pod("", "hostNetwork: true", "")), POD);
    assert_eq!(host.network_mode, NetworkMode::HostNetwork);
}

fn cart_service(metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: shop, {metadata}}}
spec: {{selector: {{app: cart}}, {spec}}}
---
"
    )
}

#[test]
fn a_service_has_its_addresses_and_ports_and_its_pods_resolve_names() {
    let spec = "clusterIPs: [10.96.0.1, 'fd00:96::1'], ports: [{name: http, port: 80, targetPort: web},
        {name: raw, port: 81}, {name: tls, port: 82, targetPort: 8443}, {name: dns, port: 53, protocol: UDP},
        {name: none, port: 83, targetPort: missing}]";
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1}
---
";
    let compiler = compiler(&format!("{}{pod}", cart_service("", spec)));
    let service = service(&compiler, CART);
    assert_eq!(service.vips.len(), 2);
    assert!(service.canonical);
    let targets: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.port, port.target))
        .collect();
    assert_eq!(
        targets,
        [
            (80, TargetPort::Named),
            (81, TargetPort::Number(81)),
            (82, TargetPort::Number(8443)),
            (83, TargetPort::Named),
        ]
    );
    let pairs = &workload(&compiler, POD).services[&service.key];
    let number = TargetPort::Number;
    assert_eq!(
        pairs[..],
        [(80, number(8080)), (81, number(81)), (82, number(8443))]
    );
}

#[test]
fn headless_services_have_no_address_and_external_names_are_none() {
    assert!(
        service(&compiler(&cart_service("", "clusterIP: None")), CART)
            .vips
            .is_empty()
    );
    let external = compiler(&cart_service("", "type: ExternalName, externalName: a.b"));
    assert_eq!(external.resources().count(), 1);
}

#[test]
fn preferences_become_load_balancing() {
    use RoutingScope::{Network, Node, Region, Subzone, Zone};
    let wanted = |mode, scopes: &[RoutingScope], health_policy| LoadBalancing {
        mode,
        scopes: scopes.to_vec(),
        health_policy,
    };
    let failover = |scopes| {
        wanted(
            LoadBalancingMode::Failover,
            scopes,
            HealthPolicy::OnlyHealthy,
        )
    };
    for (metadata, spec, wanted) in [
        ("", "", None),
        (
            "",
            "internalTrafficPolicy: Local",
            Some(wanted(
                LoadBalancingMode::Strict,
                &[Node],
                HealthPolicy::OnlyHealthy,
            )),
        ),
        (
            "",
            "trafficDistribution: PreferClose",
            Some(failover(&[Network, Region, Zone])),
        ),
        (
            "annotations: {networking.istio.io/traffic-distribution: PreferSameNode}",
            "trafficDistribution: PreferClose",
            Some(failover(&[Network, Region, Zone, Subzone, Node])),
        ),
        (
            "",
            "publishNotReadyAddresses: true",
            Some(wanted(LoadBalancingMode::Any, &[], HealthPolicy::AllowAll)),
        ),
    ] {
        let found = service(&compiler(&cart_service(metadata, spec)), CART).load_balancing;
        assert_eq!(found, wanted, "{metadata} {spec}");
    }
}

#[test]
fn waypoints_are_named_by_object_before_namespace_and_none_opts_out() {
    let of_namespace = namespace("istio.io/use-waypoint: ns");
    let labelled = |name: &str| format!("labels: {{app: cart, istio.io/use-waypoint: {name}}}");
    let elsewhere =
        "labels: {istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: infra}".to_owned();
    let managed = "labels: {gateway.istio.io/managed: istio.io-mesh-controller}".to_owned();
    for (metadata, wanted) in [
        (String::new(), Some("ns.shop.svc.cluster.local")),
        (labelled("own"), Some("own.shop.svc.cluster.local")),
        (labelled("none"), None),
        (elsewhere, Some("w.infra.svc.cluster.local")),
        (managed, None),
    ] {
        let compiler = compiler(&format!("{of_namespace}{}", cart_service(&metadata, "")));
        check_waypoint(service(&compiler, CART).waypoint, wanted);
    }
}

#[test]
fn workloads_inherit_only_a_waypoint_that_takes_workloads() {
    let gateway = |takes: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: ns, namespace: shop, labels: {{istio.io/waypoint-for: {takes}}}}}
---
"
        )
    };
    let inherited = Some("ns.shop.svc.cluster.local");
    for (gateway, of_pod, of_service) in [
        (String::new(), None, inherited),
        (gateway("service"), None, inherited),
        (gateway("workload"), inherited, None),
        (gateway("all"), inherited, inherited),
        (gateway("none"), None, None),
    ] {
        let mut compiler = compiler(&format!(
            "{}{}{}",
            namespace("istio.io/use-waypoint: ns"),
            pod("labels: {app: cart}", "", ""),
            cart_service("", "")
        ));
        compiler.apply(set(&gateway));
        check_waypoint(workload(&compiler, POD).waypoint, of_pod);
        check_waypoint(service(&compiler, CART).waypoint, of_service);
    }
}

#[track_caller]
fn check_waypoint(found: Option<model::GatewayAddress>, wanted: Option<&str>) {
    let found = found.map(|gateway| match gateway.destination {
        model::GatewayDestination::Hostname(key) => key.hostname,
        model::GatewayDestination::Address(address) => panic!("{address:?}"),
    });
    assert_eq!(found.as_deref(), wanted);
}

#[test]
fn a_service_entry_is_a_service_and_its_endpoints() {
    let yaml = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.example.com]
  addresses: [240.0.0.1, 10.7.0.0/16]
  ports: [{number: 5432, name: tcp, protocol: TCP, targetPort: 15432}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, ports: {tcp: 6432}, weight: 3}]
";
    let compiler = compiler(yaml);
    let service = service(&compiler, "db.example.com");
    assert_eq!((service.vips.len(), service.cidr_vips.len()), (1, 1));
    let uid = "Kubernetes/networking.istio.io/ServiceEntry/shop/db/192.0.2.1";
    let endpoint = workload(&compiler, uid);
    assert_eq!(endpoint.capacity, 3);
    assert_eq!(
        endpoint.services[&service.key][..],
        [(5432, TargetPort::Number(6432))]
    );
}

#[test]
fn one_edit_changes_only_what_it_reaches() {
    let mut compiler = compiler(&format!(
        "{}{}{}",
        namespace(""),
        pod("labels: {app: cart}", "", ""),
        cart_service("", "ports: [{port: 80}]"),
    ));
    let same = compiler.apply(set(&cart_service(
        "annotations: {note: hello}",
        "ports: [{port: 80}]",
    )));
    assert!(same.upsert.is_empty() && same.remove.is_empty(), "{same:?}");
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec: {}
";
    assert_eq!(
        compiler.apply(set(policy)).upsert.len(),
        1,
        "no pod is sent again"
    );
}

/// A small universe in which everything can refer to everything.
fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit =
        prop_oneof![
            (0..TEMPLATES.len(), 0..3_usize, 0..4_usize)
                .prop_map(|(at, name, variant)| Edit::Set { at, name, variant }),
            (0..TEMPLATES.len(), 0..3_usize).prop_map(|(at, name)| Edit::Remove { at, name }),
            (0..3_usize, 0..2_usize).prop_map(|(pod, node)| Edit::Enrol { pod, node }),
            (0..3_usize, 0..2_usize).prop_map(|(pod, node)| Edit::Release { pod, node }),
        ];
    prop::collection::vec(edit, 1..40)
}

#[derive(Debug, Clone)]
enum Edit {
    Set {
        at: usize,
        name: usize,
        variant: usize,
    },
    Remove {
        at: usize,
        name: usize,
    },
    Enrol {
        pod: usize,
        node: usize,
    },
    Release {
        pod: usize,
        node: usize,
    },
}

/// Each with variants of its body; `NAME` and `WHERE` are filled in.
const TEMPLATES: [(&str, [&str; 4]); 9] = [
    (
        "v1 Namespace",
        [
            "metadata: {name: WHERE, labels: {istio.io/dataplane-mode: ambient}}",
            "metadata: {name: WHERE, labels: {istio.io/use-waypoint: o0}}",
            "metadata: {name: WHERE, labels: {istio.io/use-waypoint: o1, istio.io/use-waypoint-namespace: n0}}",
            "metadata: {name: WHERE, annotations: {networking.istio.io/traffic-distribution: PreferClose}}",
        ],
    ),
    (
        "v1 Node",
        [
            "metadata: {name: NAME}",
            "metadata: {name: NAME, labels: {topology.kubernetes.io/zone: a}}",
            "metadata: {name: NAME, labels: {topology.kubernetes.io/zone: b}}",
            "metadata: {name: NAME, labels: {topology.kubernetes.io/region: b}}",
        ],
    ),
    (
        "v1 Pod",
        [
            "metadata: {name: NAME, namespace: WHERE, labels: {app: a}}\nspec: {nodeName: o0, containers: []}\nstatus: {podIP: 10.0.0.1}",
            "metadata: {name: NAME, namespace: WHERE, labels: {app: b}}\nspec: {nodeName: o1, containers: []}\nstatus: {podIP: 10.0.0.2}",
            "metadata: {name: NAME, namespace: WHERE, labels: {app: a, istio.io/dataplane-mode: ambient}}\nspec: {nodeName: o1, containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}\nstatus: {podIP: 10.0.0.3}",
            "metadata: {name: NAME, namespace: WHERE, labels: {app: a}}\nspec: {containers: []}",
        ],
    ),
    (
        "v1 Service",
        [
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: web}]}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {app: b}, ports: [{port: 80}]}",
            "metadata: {name: NAME, namespace: WHERE, labels: {istio.io/use-waypoint: none}}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {app: a}, ports: [{port: 81}], internalTrafficPolicy: Local}",
        ],
    ),
    (
        "gateway.networking.k8s.io/v1 Gateway",
        [
            "metadata: {name: NAME, namespace: WHERE}",
            "metadata: {name: NAME, namespace: WHERE, labels: {istio.io/waypoint-for: all}}",
            "metadata: {name: NAME, namespace: WHERE, labels: {istio.io/waypoint-for: workload}}",
            "metadata: {name: NAME, namespace: WHERE, labels: {istio.io/waypoint-for: none}}",
        ],
    ),
    (
        "networking.istio.io/v1 ServiceEntry",
        [
            "metadata: {name: NAME, namespace: WHERE}\nspec: {hosts: [x.example.com], resolution: STATIC, ports: [{number: 80}], endpoints: [{address: 192.0.2.1}]}",
            "metadata: {name: NAME, namespace: WHERE, creationTimestamp: '2020-01-01T00:00:00Z'}\nspec: {hosts: [x.example.com, y.example.com], resolution: DNS, ports: [{number: 81}]}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {hosts: [o0.n0.svc.cluster.local, x.example.com], resolution: STATIC, ports: [{number: 80}], workloadSelector: {labels: {app: a}}}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {hosts: [o1.n1.svc.cluster.local], resolution: NONE, ports: [{number: 80}]}",
        ],
    ),
    (
        "networking.istio.io/v1 WorkloadEntry",
        [
            "metadata: {name: NAME, namespace: WHERE, labels: {app: a}}\nspec: {address: 192.0.2.9}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {address: 192.0.2.9, labels: {app: b}}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {address: vm.example.com, labels: {app: a}, ports: {web: 8080}}",
            "metadata: {name: NAME, namespace: WHERE, labels: {networking.istio.io/tunnel: http}}\nspec: {address: 192.0.2.8}",
        ],
    ),
    (
        "security.istio.io/v1 AuthorizationPolicy",
        [
            "metadata: {name: NAME, namespace: WHERE}\nspec: {}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {matchLabels: {app: a}}, rules: [{}]}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {matchLabels: {app: b}}, action: DENY}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {matchLabels: {app: a}}, action: AUDIT}",
        ],
    ),
    (
        "security.istio.io/v1 PeerAuthentication",
        [
            "metadata: {name: NAME, namespace: WHERE}\nspec: {mtls: {mode: STRICT}}",
            "metadata: {name: NAME, namespace: WHERE, creationTimestamp: '2020-01-01T00:00:00Z'}\nspec: {mtls: {mode: PERMISSIVE}}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: PERMISSIVE}}}",
            "metadata: {name: NAME, namespace: WHERE}\nspec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}",
        ],
    ),
];

fn object(at: usize, name: usize, variant: usize) -> Object {
    let (head, bodies) = TEMPLATES[at];
    let (api_version, kind) = head.split_once(' ').unwrap();
    let namespace = ["n0", "n1", "ambit-system"][(name + variant) % 3];
    let body = bodies[variant]
        .replace("NAME", &format!("o{name}"))
        .replace("WHERE", namespace);
    let yaml = format!("apiVersion: {api_version}\nkind: {kind}\n{body}\n");
    objects(&yaml).remove(0)
}

impl Edit {
    fn inputs(&self) -> Vec<Input> {
        let place = |pod: usize, node: usize| PodOnNode {
            pod: ObjectName::new(["n0", "n1", "ambit-system"][pod], &format!("o{pod}")),
            node: format!("o{node}").into(),
        };
        match *self {
            Self::Set { at, name, variant } => {
                vec![Input::Object(ObjectChange::Set(object(at, name, variant)))]
            }
            Self::Remove { at, name } => (0..4)
                .map(|variant| object(at, name, variant).key())
                .map(|key| Input::Object(ObjectChange::Removed(key)))
                .collect(),
            Self::Enrol { pod, node } => vec![Input::Enrolled(place(pod, node), "".into())],
            Self::Release { pod, node } => vec![Input::Released(place(pod, node))],
        }
    }
}

proptest! {
    #[test]
    fn compiling_changes_is_compiling_the_whole(edits in edits()) {
        let (mut stepwise, first) = Compiler::new(settings());
        let mut client = BTreeMap::new();
        let take = |client: &mut BTreeMap<ResourceKey, Resource>, change: Change| {
            for key in change.remove {
                client.remove(&key);
            }
            for resource in change.upsert {
                client.insert(resource.key(), resource);
            }
        };
        take(&mut client, first);
        for edit in &edits {
            let change = stepwise.apply(edit.inputs());
            for resource in &change.upsert {
                prop_assert_ne!(client.get(&resource.key()), Some(resource), "sent again");
            }
            take(&mut client, change);
        }
        let (mut at_once, first) = Compiler::new(settings());
        let mut whole = BTreeMap::new();
        take(&mut whole, first);
        take(&mut whole, at_once.apply(edits.iter().flat_map(Edit::inputs)));
        prop_assert_eq!(&client, &whole);
    }
}
