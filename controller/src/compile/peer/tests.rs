//! The precedence of modes, and what they become.

use std::collections::BTreeMap;

use model::{Network, TrustDomain};

use super::*;
use crate::watch::{ObjectChange, for_test::objects};

fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::default(),
        root_namespace: "ambit-system".into(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
    }
}

fn peer(namespace: &str, name: &str, year: u32, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec: {spec}
---
"
    )
}

fn view(policies: &[String]) -> View {
    let mut view = View::default();
    for object in objects(&policies.concat()) {
        view.apply(ObjectChange::Set(object));
    }
    view
}

fn labels() -> Labels {
    BTreeMap::from([("app".to_owned(), "cart".to_owned())])
}

#[track_caller]
fn check(policies: &[String], wanted: Option<&str>) {
    let found = policy_of(&settings(), &view(policies), "shop", &labels());
    let found = found.map(|key| key.to_string());
    assert_eq!(found.as_deref(), wanted, "{policies:#?}");
}

const STRICT_KEY: Option<&str> = Some("ambit-system/istio_converted_static_strict");
const ON_CART: &str = "selector: {matchLabels: {app: cart}}";

#[test]
fn the_most_specific_mode_that_is_set_wins() {
    let mesh = |mode: &str| {
        peer(
            "ambit-system",
            "mesh",
            2020,
            &format!("{{mtls: {{mode: {mode}}}}}"),
        )
    };
    let namespace = |mode: &str| peer("shop", "all", 2020, &format!("{{mtls: {{mode: {mode}}}}}"));
    let workload = |mode: &str| {
        peer(
            "shop",
            "one",
            2020,
            &format!("{{{ON_CART}, mtls: {{mode: {mode}}}}}"),
        )
    };
    for (policies, wanted) in [
        (vec![], None),
        (vec![mesh("STRICT")], STRICT_KEY),
        (vec![mesh("PERMISSIVE")], None),
        (vec![mesh("STRICT"), namespace("PERMISSIVE")], None),
        (vec![mesh("STRICT"), namespace("UNSET")], STRICT_KEY),
        (vec![mesh("STRICT"), namespace("DISABLE")], None),
        (vec![mesh("PERMISSIVE"), namespace("STRICT")], STRICT_KEY),
        (vec![namespace("STRICT"), workload("PERMISSIVE")], None),
        (vec![namespace("STRICT"), workload("UNSET")], STRICT_KEY),
        (vec![mesh("STRICT"), workload("UNSET")], STRICT_KEY),
        (vec![workload("STRICT")], STRICT_KEY),
    ] {
        check(&policies, wanted);
    }
}

#[test]
fn the_oldest_of_equals_wins_then_the_first_by_name() {
    let strict = "{mtls: {mode: STRICT}}";
    let permissive = "{mtls: {mode: PERMISSIVE}}";
    let old_strict = peer("shop", "z", 2020, strict);
    check(
        &[old_strict.clone(), peer("shop", "a", 2021, permissive)],
        STRICT_KEY,
    );
    check(&[old_strict, peer("shop", "a", 2020, permissive)], None);
}

#[test]
fn selectors_hold_for_their_own_workloads_only_and_not_in_the_root_namespace() {
    let other = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}";
    check(&[peer("shop", "other", 2020, other)], None);
    let root = format!("{{{ON_CART}, mtls: {{mode: STRICT}}}}");
    check(&[peer("ambit-system", "root", 2020, &root)], None);
}

#[track_caller]
fn check_ports(policies: &[String], constraint: Option<Match>) {
    let view = view(policies);
    let name = ObjectName::new("shop", "one");
    let policy = port_policy(&settings(), &view, &name);
    let key = PolicyKey {
        namespace: "shop".into(),
        name: "converted_peer_authentication_one".into(),
    };
    assert_eq!(policy, constraint.map(|constraint| deny(key, constraint)));
}

fn plaintext_on(ports: Vec<u16>, not_ports: Vec<u16>) -> Option<Match> {
    Some(Match {
        not_principals: vec![StringMatch::Presence],
        destination_ports: ports,
        not_destination_ports: not_ports,
        ..Match::default()
    })
}

#[test]
fn ports_that_differ_make_one_policy() {
    let one = |rest: &str| peer("shop", "one", 2020, &format!("{{{ON_CART}, {rest}}}"));
    let strict_mesh = peer("ambit-system", "mesh", 2020, "{mtls: {mode: STRICT}}");
    check_ports(
        &[one(
            "mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}, 81: {mode: DISABLE}, 82: {mode: STRICT}, 83: {mode: UNSET}}",
        )],
        plaintext_on(vec![], vec![80, 81]),
    );
    check_ports(
        &[one(
            "mtls: {mode: PERMISSIVE}, portLevelMtls: {'80': {mode: STRICT}, 81: {mode: DISABLE}}",
        )],
        plaintext_on(vec![80], vec![]),
    );
    check_ports(
        &[one("portLevelMtls: {80: {mode: STRICT}}")],
        plaintext_on(vec![80], vec![]),
    );
    // A port that is exempt from an inherited STRICT, too.
    check_ports(
        &[
            strict_mesh.clone(),
            one("portLevelMtls: {80: {mode: DISABLE}}"),
        ],
        plaintext_on(vec![], vec![80]),
    );
    check_ports(
        &[strict_mesh, one("portLevelMtls: {80: {mode: STRICT}}")],
        None,
    );
    check_ports(&[one("mtls: {mode: STRICT}")], None);
}

#[test]
fn a_workload_names_the_policy_of_its_ports_instead_of_the_shared_one() {
    let spec = format!(
        "{{{ON_CART}, mtls: {{mode: STRICT}}, portLevelMtls: {{80: {{mode: PERMISSIVE}}}}}}"
    );
    check(
        &[peer("shop", "one", 2020, &spec)],
        Some("shop/converted_peer_authentication_one"),
    );
}

#[test]
fn plaintext_is_refused_where_the_policy_cannot_be_read() {
    use crate::watch::{
        Object,
        document::{Reading, read},
    };
    let file = std::path::Path::new("a.yaml").into();
    let text = peer("shop", "all", 2020, "{mtls: {mode: STRICKT}}");
    let mut view = View::default();
    for document in read(&file, &text) {
        let Reading::Refused {
            stand_in: Some(object),
            ..
        } = document.reading
        else {
            panic!("{document:?}");
        };
        assert!(matches!(object, Object::PeerAuthentication(_)));
        view.apply(ObjectChange::Set(object));
    }
    let found = policy_of(&settings(), &view, "shop", &labels());
    assert_eq!(found.map(|key| key.to_string()).as_deref(), STRICT_KEY);
}
