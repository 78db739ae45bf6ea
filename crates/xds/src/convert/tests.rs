//! The wire is pinned byte by byte, and what comes off it is either right or refused by name.

use std::{collections::HashMap, sync::Arc};

use model::{
    Action, AppProtocol, ApplicationTunnel, ApplicationTunnelProtocol, Authorization, Clause,
    GatewayAddress, GatewayDestination, Health, HealthPolicy, LoadBalancing, LoadBalancingMode,
    Locality, Match, Network, NetworkAddress, NetworkMode, PolicyKey, Resource, RoutingScope, Rule,
    Rules, Scope, Service, ServiceAccountMatch, ServiceKey, ServicePort, StringMatch, TargetPort,
    TunnelProtocol, Visibility, Workload, WorkloadType,
};
use proptest::prelude::*;
use prost::Message as _;
use prost_types::Any;

use super::*;
use crate::{
    ResourceType,
    proto::{ca, discovery, security, workload as wire},
};

#[track_caller]
fn pinned(message: &(impl prost::Message + std::fmt::Debug), expected: &[u8]) {
    assert_eq!(message.encode_to_vec(), expected, "{message:?}");
}

#[test]
fn workload_fields_have_the_numbers_of_the_protocol() {
    let address = wire::Address {
        r#type: Some(wire::address::Type::Workload(wire::Workload {
            uid: "u".into(),
            ..Default::default()
        })),
    };
    pinned(&address, b"\x0a\x04\xa2\x01\x01u");
    let message = wire::Workload {
        name: "n".into(),
        namespace: "s".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        network: "w".into(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        trust_domain: "t".into(),
        service_account: "a".into(),
        node: "o".into(),
        native_tunnel: true,
        authorization_policies: vec!["s/p".into()],
        status: wire::WorkloadStatus::Unhealthy.into(),
        cluster_id: "c".into(),
        network_mode: wire::NetworkMode::HostNetwork.into(),
        capacity: Some(7),
        ..Default::default()
    };
    let expected = b"\x0a\x01n\x12\x01s\x1a\x04\x0a\x00\x00\x01\x22\x01w\x28\x01\x32\x01t\x3a\x01a\
        \x4a\x01o\x70\x01\x82\x01\x03s/p\x88\x01\x01\x92\x01\x01c\xc8\x01\x01\xda\x01\x02\x08\x07";
    pinned(&message, expected);
    let message = wire::Workload {
        services: [(
            "n/h".to_owned(),
            wire::PortList {
                ports: vec![wire::Port {
                    service_port: 80,
                    target_port: 81,
                    app_protocol: 3,
                }],
            },
        )]
        .into(),
        waypoint: Some(wire::GatewayAddress {
            destination: Some(wire::gateway_address::Destination::Address(
                wire::NetworkAddress {
                    network: "w".into(),
                    address: vec![1, 2, 3, 4],
                    length: None,
                },
            )),
            hbone_mtls_port: 15008,
        }),
        ..Default::default()
    };
    let expected = b"\x42\x0e\x12\x09\x0a\x01w\x12\x04\x01\x02\x03\x04\x18\xa0\x75\
        \xb2\x01\x0f\x0a\x03n/h\x12\x08\x0a\x06\x08\x50\x10\x51\x18\x03";
    pinned(&message, expected);
}

#[test]
fn service_fields_have_the_numbers_of_the_protocol() {
    let message = wire::Service {
        name: "n".into(),
        namespace: "s".into(),
        hostname: "h".into(),
        addresses: vec![wire::NetworkAddress {
            network: String::new(),
            address: vec![10, 0, 0, 0],
            length: Some(8),
        }],
        subject_alt_names: vec!["x".into()],
        load_balancing: Some(wire::LoadBalancing {
            routing_preference: vec![wire::load_balancing::Scope::Zone.into()],
            mode: wire::load_balancing::Mode::Failover.into(),
            health_policy: wire::load_balancing::HealthPolicy::AllowAll.into(),
        }),
        canonical: true,
        visibility: wire::service::Visibility::Namespace.into(),
        ..Default::default()
    };
    let expected = b"\x0a\x01n\x12\x01s\x1a\x01h\x22\x08\x12\x04\x0a\x00\x00\x00\x18\x08\
        \x32\x01x\x42\x07\x0a\x01\x02\x10\x02\x18\x01\x58\x01\x70\x01";
    pinned(&message, expected);
}

#[test]
fn policy_fields_have_the_numbers_of_the_protocol() {
    let text = |text| security::StringMatch {
        match_type: Some(text),
    };
    let conditions = security::Match {
        namespaces: vec![text(security::string_match::MatchType::Exact("e".into()))],
        not_principals: vec![text(security::string_match::MatchType::Presence(()))],
        source_ips: vec![security::Address {
            address: vec![10, 0, 0, 0],
            length: 8,
        }],
        destination_ports: vec![80],
        service_accounts: vec![security::ServiceAccountMatch {
            namespace: "n".into(),
            service_account: "a".into(),
        }],
        ..Default::default()
    };
    let policy = security::Authorization {
        name: "p".into(),
        namespace: "s".into(),
        scope: security::Scope::WorkloadSelector.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause {
                matches: vec![conditions],
            }],
        }],
        dry_run: true,
        extensions: Vec::new(),
    };
    let expected = b"\x0a\x01p\x12\x01s\x18\x02\x20\x01\x2a\x22\x0a\x20\x12\x1e\
        \x0a\x03\x0a\x01e\x22\x02\x22\x00\x2a\x08\x0a\x04\x0a\x00\x00\x00\x10\x08\x4a\x01\x50\
        \x5a\x06\x0a\x01n\x12\x01a\x30\x01";
    pinned(&policy, expected);
}

#[test]
fn discovery_and_ca_fields_have_the_numbers_of_the_protocol() {
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(discovery::Node {
            id: "i".into(),
            metadata: None,
        }),
        type_url: "t".into(),
        resource_names_subscribe: vec!["s".into()],
        resource_names_unsubscribe: vec!["u".into()],
        initial_resource_versions: [("a".to_owned(), "v".to_owned())].into(),
        response_nonce: "n".into(),
        error_detail: Some(discovery::Status {
            code: 3,
            message: "m".into(),
            details: Vec::new(),
        }),
    };
    let expected = b"\x0a\x03\x0a\x01i\x12\x01t\x1a\x01s\x22\x01u\x2a\x06\x0a\x01a\x12\x01v\
        \x32\x01n\x3a\x05\x08\x03\x12\x01m";
    pinned(&request, expected);
    let response = discovery::DeltaDiscoveryResponse {
        system_version_info: String::new(),
        resources: vec![discovery::Resource {
            version: "v".into(),
            resource: b"\x0a\x00".as_slice().into(),
            name: "n".into(),
            aliases: vec!["l".into()],
        }],
        type_url: "t".into(),
        nonce: "o".into(),
        removed_resources: vec!["r".into()],
    };
    let expected =
        b"\x12\x0d\x0a\x01v\x12\x02\x0a\x00\x1a\x01n\x22\x01l\x22\x01t\x2a\x01o\x32\x01r";
    pinned(&response, expected);
    let request = ca::IstioCertificateRequest {
        csr: "c".into(),
        validity_duration: 5,
        metadata: Some(prost_types::Struct::default()),
    };
    pinned(&request, b"\x0a\x01c\x18\x05\x22\x00");
    let response = ca::IstioCertificateResponse {
        cert_chain: vec!["c".into()],
    };
    pinned(&response, b"\x0a\x01c");
}

fn service_key(hostname: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: hostname.into(),
    }
}

fn address(ip: &str) -> NetworkAddress {
    NetworkAddress {
        network: Network("west".into()),
        ip: ip.parse().unwrap(),
    }
}

fn workload() -> Workload {
    Workload {
        trust_domain: "example.org".parse().unwrap(),
        service_account: "web".into(),
        network: Network("west".into()),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        hostname: "outside.example".into(),
        node: "a".into(),
        cluster_id: "one".into(),
        locality: Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "s".into(),
        },
        canonical_name: "web".into(),
        canonical_revision: "v2".into(),
        workload_type: WorkloadType::CronJob,
        workload_name: "web".into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        native_tunnel: true,
        network_mode: NetworkMode::HostNetwork,
        health: Health::Unhealthy,
        capacity: 3,
        services: HashMap::from([(
            service_key("cart"),
            vec![(80, TargetPort::Number(8080)), (81, TargetPort::Named)],
        )]),
        authorization_policies: vec![PolicyKey {
            namespace: "shop".into(),
            name: "only-web".into(),
        }],
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname(service_key("waypoint")),
            hbone_mtls_port: 15008,
        }),
        network_gateway: Some(GatewayAddress {
            destination: GatewayDestination::Address(address("192.0.2.1")),
            hbone_mtls_port: 15008,
        }),
        application_tunnel: Some(ApplicationTunnel {
            protocol: ApplicationTunnelProtocol::Proxy,
            port: Some(15088),
        }),
        ..Workload::new("c//Pod/shop/web", "shop", "web")
    }
}

fn service() -> Service {
    Service {
        vips: vec![address("10.96.0.1"), address("fd01::1")],
        cidr_vips: vec![(Network("west".into()), "240.0.0.0/8".parse().unwrap())],
        ports: vec![ServicePort {
            port: 80,
            target: TargetPort::Named,
            app_protocol: AppProtocol::Tls,
        }],
        subject_alt_names: vec!["spiffe://x".into()],
        load_balancing: Some(LoadBalancing {
            mode: LoadBalancingMode::Failover,
            scopes: vec![RoutingScope::Region, RoutingScope::Zone],
            health_policy: HealthPolicy::AllowAll,
        }),
        visibility: Visibility::Namespace,
        canonical: true,
        ..Service::new("shop", "cart", "cart.shop.svc.cluster.local")
    }
}

fn policy(rules: Rules) -> Authorization {
    Authorization {
        key: PolicyKey {
            namespace: "shop".into(),
            name: "only-web".into(),
        },
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        dry_run: true,
        rules,
    }
}

fn all_conditions() -> Match {
    let texts = ["a", "b"].map(|text| StringMatch::Exact(text.into()));
    let accounts = vec![ServiceAccountMatch {
        namespace: "shop".into(),
        service_account: "web".into(),
    }];
    Match {
        namespaces: texts.to_vec(),
        not_namespaces: vec![StringMatch::Presence],
        service_accounts: accounts.clone(),
        not_service_accounts: accounts,
        principals: vec![StringMatch::Prefix("x".into())],
        not_principals: vec![StringMatch::Suffix("y".into())],
        source_ips: vec!["10.0.0.0/8".parse().unwrap()],
        not_source_ips: vec!["fd00::/16".parse().unwrap()],
        destination_ips: vec!["10.0.0.1/32".parse().unwrap()],
        not_destination_ips: vec!["0.0.0.0/0".parse().unwrap()],
        destination_ports: vec![80, 443],
        not_destination_ports: vec![22],
    }
}

#[track_caller]
fn survives(resource: Resource) {
    let key = resource.key();
    let decoded = decode(ResourceType::of(&key), &name(&key), &encode(&resource));
    assert_eq!(decoded, Decoded::Valid(resource));
}

#[test]
fn everything_the_model_can_say_survives_the_wire() {
    survives(Resource::Workload(Arc::new(workload())));
    survives(Resource::Workload(Arc::new(Workload::new("u", "", ""))));
    survives(Resource::Service(Arc::new(service())));
    survives(Resource::Service(Arc::new(Service::new("n", "", "h"))));
    let rules = vec![
        Rule {
            clauses: vec![
                Clause {
                    matches: vec![all_conditions(), Match::default()],
                },
                Clause::default(),
            ],
        },
        Rule::default(),
    ];
    survives(Resource::Authorization(Arc::new(policy(Rules::Valid(
        rules,
    )))));
    survives(Resource::Authorization(Arc::new(policy(Rules::Malformed(
        "why".into(),
    )))));
}

#[test]
fn equal_resources_have_equal_bytes_whatever_the_order_they_were_built_in() {
    let names: Vec<String> = (0..50).map(|at| format!("service-{at}")).collect();
    let build = |names: &mut dyn Iterator<Item = &String>| {
        let mut workload = workload();
        workload.services = names.map(|name| (service_key(name), Vec::new())).collect();
        encode(&Resource::Workload(Arc::new(workload)))
    };
    assert_eq!(build(&mut names.iter()), build(&mut names.iter().rev()));
}

#[test]
fn fields_left_empty_have_the_defaults_of_the_protocol() {
    let message = wire::Workload {
        uid: "u".into(),
        capacity: Some(0),
        ..Default::default()
    };
    let workload = Workload::try_from(&message).unwrap();
    assert_eq!(workload.trust_domain.as_str(), "cluster.local");
    assert_eq!(&*workload.service_account, "default");
    assert_eq!(&*workload.cluster_id, "Kubernetes");
    assert_eq!(workload.capacity, 1);
    assert_eq!(workload.workload_type, WorkloadType::Deployment);
}

#[track_caller]
fn workload_refused(break_it: impl FnOnce(&mut wire::Workload), path: &str) {
    let mut message = wire::Workload::from(&workload());
    break_it(&mut message);
    assert_eq!(Workload::try_from(&message).unwrap_err().path, path);
}

#[test]
fn a_workload_with_one_bad_field_is_refused_by_its_path() {
    workload_refused(|held| held.uid.clear(), "uid");
    workload_refused(|held| held.addresses[1].clear(), "addresses[1]");
    workload_refused(|held| held.trust_domain = "a b".into(), "trust_domain");
    workload_refused(|held| held.tunnel_protocol = 2, "tunnel_protocol");
    workload_refused(|held| held.tunnel_protocol = 9, "tunnel_protocol");
    workload_refused(|held| held.status = 9, "status");
    workload_refused(|held| held.network_mode = 9, "network_mode");
    workload_refused(
        |held| held.authorization_policies.push("no-namespace".into()),
        "authorization_policies[1]",
    );
    workload_refused(
        |held| {
            drop(
                held.services
                    .insert("cart".into(), wire::PortList::default()),
            )
        },
        "services[\"cart\"]",
    );
    workload_refused(
        |held| held.services.get_mut("shop/cart").unwrap().ports[1].service_port = 70_000,
        "services[\"shop/cart\"].ports[1].service_port",
    );
    workload_refused(
        |held| held.waypoint.as_mut().unwrap().destination = None,
        "waypoint.destination",
    );
    workload_refused(
        |held| held.network_gateway.as_mut().unwrap().hbone_mtls_port = 0,
        "network_gateway.hbone_mtls_port",
    );
}

#[track_caller]
fn service_refused(break_it: impl FnOnce(&mut wire::Service), path: &str) {
    let mut message = wire::Service::from(&service());
    break_it(&mut message);
    assert_eq!(Service::try_from(&message).unwrap_err().path, path);
}

#[test]
fn a_service_with_one_bad_field_is_refused_by_its_path() {
    service_refused(|held| held.namespace.clear(), "namespace");
    service_refused(|held| held.hostname.clear(), "hostname");
    service_refused(
        |held| held.addresses[0].address = vec![1],
        "addresses[0].address",
    );
    service_refused(
        |held| held.addresses[2].length = Some(33),
        "addresses[2].length",
    );
    service_refused(
        |held| held.ports[0].service_port = 0,
        "ports[0].service_port",
    );
    service_refused(|held| held.visibility = 9, "visibility");
    service_refused(
        |held| held.load_balancing.as_mut().unwrap().routing_preference[1] = 0,
        "load_balancing.routing_preference[1]",
    );
}

fn refused_policy(
    break_it: impl FnOnce(&mut security::Authorization),
) -> (String, Arc<Authorization>) {
    let rules = vec![Rule {
        clauses: vec![Clause {
            matches: vec![all_conditions()],
        }],
    }];
    let mut message = security::Authorization::from(&policy(Rules::Valid(rules)));
    break_it(&mut message);
    let any = Any {
        type_url: ResourceType::Authorization.url().to_owned(),
        value: message.encode_to_vec(),
    };
    match decode(
        ResourceType::Authorization,
        "shop/only-web",
        &any.encode_to_vec(),
    ) {
        Decoded::RefusedPolicy { error, stand_in } => (error.to_string(), stand_in),
        other => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
fn policy_refused(break_it: impl FnOnce(&mut security::Match), path: &str) {
    let (error, stand_in) =
        refused_policy(|message| break_it(&mut message.rules[0].clauses[0].matches[0]));
    let expected = format!("shop/only-web: rules[0].clauses[0].matches[0].{path}: ");
    assert!(error.starts_with(&expected), "{error} is not about {path}");
    assert_eq!(stand_in.scope, Scope::WorkloadSelector);
    assert!(
        matches!(stand_in.rules, Rules::Malformed(_)),
        "{stand_in:?}"
    );
}

#[test]
fn a_policy_with_one_bad_field_denies_in_its_own_scope() {
    policy_refused(
        |held| held.source_ips[0].length = 33,
        "source_ips[0].length",
    );
    policy_refused(
        |held| held.source_ips[0].address = vec![1, 2],
        "source_ips[0].address",
    );
    policy_refused(
        |held| held.not_destination_ips[0].address.clear(),
        "not_destination_ips[0].address",
    );
    policy_refused(
        |held| held.destination_ports[1] = 65_536,
        "destination_ports[1]",
    );
    policy_refused(
        |held| held.principals[0].match_type = None,
        "principals[0].match_type",
    );
}

#[test]
fn a_policy_whose_scope_or_bytes_cannot_be_read_denies_everywhere() {
    let (_, stand_in) = refused_policy(|message| message.scope = 9);
    assert_eq!(stand_in.scope, Scope::Global);
    let (_, stand_in) = refused_policy(|message| message.action = 9);
    assert_eq!(
        (stand_in.scope, stand_in.action),
        (Scope::WorkloadSelector, Action::Deny)
    );
    let Decoded::RefusedPolicy { stand_in, .. } =
        decode(ResourceType::Authorization, "shop/only-web", b"\xff\xff")
    else {
        panic!("not refused");
    };
    assert_eq!(stand_in.key.to_string(), "shop/only-web");
    assert_eq!(stand_in.scope, Scope::Global);
}

#[test]
fn a_policy_the_controller_could_not_read_denies_all_for_peers_that_know_no_extension() {
    let message = security::Authorization::from(&policy(Rules::Malformed("why".into())));
    assert_eq!(message.action(), security::Action::Deny);
    assert_eq!(message.rules, [security::Rule::default()]);
}

#[test]
fn ipv4_ranges_written_as_ipv6_mean_ipv4() {
    let conditions = |length| security::Address {
        address: "::ffff:10.0.0.0"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .to_vec(),
        length,
    };
    let read = |value: &security::Address| fields::range(&value.address, value.length);
    assert_eq!(read(&conditions(104)).unwrap().to_string(), "10.0.0.0/8");
    assert!(read(&conditions(64)).is_err());
}

#[test]
fn a_resource_of_another_type_than_announced_is_refused() {
    let bytes = encode(&Resource::Service(Arc::new(service())));
    let decoded = decode(ResourceType::Authorization, "x/y", &bytes);
    assert!(
        matches!(decoded, Decoded::RefusedPolicy { .. }),
        "{decoded:?}"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        for kind in ResourceType::ALL {
            let any = Any { type_url: kind.url().to_owned(), value: bytes.clone() };
            prop_assert!(!matches!(decode(kind, "n", &bytes), Decoded::Valid(_)));
            decode(kind, "a/n", &any.encode_to_vec());
        }
        drop(discovery::DeltaDiscoveryRequest::decode(bytes.as_slice()));
        drop(discovery::DeltaDiscoveryResponse::decode(bytes.as_slice()));
        drop(ca::IstioCertificateRequest::decode(bytes.as_slice()));
    }

    #[test]
    fn no_damage_to_good_bytes_panics_the_decoders(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        which in 0..3_usize,
    ) {
        let rules = vec![Rule { clauses: vec![Clause { matches: vec![all_conditions()] }] }];
        let resource = [
            Resource::Workload(Arc::new(workload())),
            Resource::Service(Arc::new(service())),
            Resource::Authorization(Arc::new(policy(Rules::Valid(rules)))),
        ][which].clone();
        let mut bytes = encode(&resource).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        decode(ResourceType::of(&resource.key()), "a/n", &bytes);
        bytes.truncate(at);
        decode(ResourceType::of(&resource.key()), "a/n", &bytes);
    }
}
