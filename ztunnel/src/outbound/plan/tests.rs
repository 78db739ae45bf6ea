//! The routing table of the contract, row by row.

use model::{Change, LoadBalancing, Network, NetworkAddress, Resource, ServicePort, TargetPort};

use super::*;

struct Mesh {
    workloads: Vec<Workload>,
    service: Service,
}

fn mesh() -> Mesh {
    let mut service = Service::new("shop", "cart", "cart.shop.svc.cluster.local");
    service.vips = vec![NetworkAddress {
        network: Network::default(),
        ip: "10.96.0.10".parse().unwrap(),
    }];
    service.ports = vec![ServicePort {
        port: 80,
        target: TargetPort::Number(8080),
        app_protocol: Default::default(),
    }];
    let workload = |name: &str, ips: &[&str], tunnel, in_service: bool| {
        let mut workload = Workload::new(&format!("c//Pod/shop/{name}"), "shop", name);
        workload.addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        workload.tunnel_protocol = tunnel;
        workload.service_account = name.into();
        if in_service {
            workload.services.insert(service.key.clone(), Vec::new());
        }
        workload
    };
    let workloads = vec![
        workload("web", &["10.0.0.1"], TunnelProtocol::Hbone, false),
        workload(
            "cart",
            &["10.0.0.2", "fd00::2"],
            TunnelProtocol::Hbone,
            true,
        ),
        workload("plain", &["10.0.0.3"], TunnelProtocol::None, false),
    ];
    Mesh { workloads, service }
}

impl Mesh {
    fn plan(&self, destination: &str) -> Plan {
        let workloads = self
            .workloads
            .iter()
            .cloned()
            .map(Arc::new)
            .map(Resource::Workload);
        let service = Resource::Service(Arc::new(self.service.clone()));
        let upsert = workloads.chain([service]).collect();
        let index = Index::default().apply(Change {
            upsert,
            remove: Vec::new(),
        });
        plan(&index, &self.workloads[0], destination.parse().unwrap(), 0)
    }

    #[track_caller]
    fn check(&self, destination: &str, expected: &str) {
        let told = match self.plan(destination) {
            Plan::Hbone(route) => format!("hbone {} via {}", route.target, route.tunnel),
            Plan::Passthrough(route) => format!("plain {}", route.target),
            Plan::Reject(why) => format!("reject {why}"),
        };
        assert_eq!(told, expected);
    }
}

#[test]
fn each_kind_of_destination_goes_its_way() {
    let mesh = mesh();
    mesh.check("10.96.0.10:80", "hbone 10.0.0.2:8080 via 10.0.0.2:15008");
    mesh.check("10.0.0.2:9999", "hbone 10.0.0.2:9999 via 10.0.0.2:15008");
    mesh.check("[fd00::2]:9999", "hbone [fd00::2]:9999 via [fd00::2]:15008");
    mesh.check("10.0.0.3:80", "plain 10.0.0.3:80");
    mesh.check("192.0.2.1:443", "plain 192.0.2.1:443");
}

#[test]
fn a_service_port_it_does_not_have_is_rejected() {
    mesh().check(
        "10.96.0.10:81",
        "reject service shop/cart.shop.svc.cluster.local has no healthy endpoint for port 81",
    );
}

#[test]
fn reserved_ports_are_rejected_wherever_they_lead() {
    mesh().check(
        "10.0.0.2:15008",
        "reject port 15008 is reserved for the mesh",
    );
    mesh().check(
        "192.0.2.1:15001",
        "reject port 15001 is reserved for the mesh",
    );
}

#[test]
fn what_names_a_waypoint_is_not_reachable_around_it() {
    let waypoint = GatewayAddress {
        destination: GatewayDestination::Hostname(
            Service::new("shop", "waypoint", "waypoint.shop.svc.cluster.local").key,
        ),
        hbone_mtls_port: 15008,
    };
    let mut mesh = mesh();
    mesh.service.waypoint = Some(waypoint.clone());
    assert!(matches!(
        mesh.plan("10.96.0.10:80"),
        Plan::Reject(Rejection::Waypoint { .. })
    ));
    mesh.service.waypoint = None;
    mesh.workloads[1].waypoint = Some(waypoint);
    assert!(matches!(
        mesh.plan("10.0.0.2:80"),
        Plan::Reject(Rejection::Waypoint { .. })
    ));
}

#[test]
fn another_network_is_never_tried_in_clear() {
    let mut mesh = mesh();
    mesh.workloads[1].network = Network("other".into());
    assert!(matches!(
        mesh.plan("10.96.0.10:80"),
        Plan::Reject(Rejection::OtherNetwork(_))
    ));
}

#[test]
fn a_service_names_further_identities_to_accept() {
    let mut mesh = mesh();
    mesh.service.subject_alt_names = vec![
        "spiffe://cluster.local/ns/shop/sa/gateway".into(),
        "not an identity".into(),
    ];
    let Plan::Hbone(route) = mesh.plan("10.96.0.10:80") else {
        panic!("not tunnelled")
    };
    let told: Vec<String> = route.expected.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "spiffe://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/gateway"
        ]
    );
}

#[test]
fn a_passthrough_service_still_tunnels_to_a_mesh_address() {
    let mut mesh = mesh();
    mesh.service.load_balancing = Some(LoadBalancing {
        mode: LoadBalancingMode::Passthrough,
        scopes: Vec::new(),
        health_policy: Default::default(),
    });
    mesh.check("10.96.0.10:80", "plain 10.96.0.10:80");
    mesh.service.vips[0].ip = "10.0.0.2".parse().unwrap();
    mesh.check("10.0.0.2:80", "hbone 10.0.0.2:80 via 10.0.0.2:15008");
}
