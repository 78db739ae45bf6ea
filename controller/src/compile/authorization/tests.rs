//! One row per rule of the conversion.

use model::{Network, TrustDomain};

use super::*;
use crate::watch::{Object, for_test::objects};

fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::default(),
        root_namespace: "ambit-system".into(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
    }
}

fn converted_in(namespace: &str, spec: &str) -> Conversion {
    let yaml = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: policy, namespace: {namespace}}}
spec: {spec}"
    );
    let [Object::AuthorizationPolicy(policy)] = &objects(&yaml)[..] else {
        panic!("no policy in {yaml}");
    };
    convert(&settings(), policy)
}

fn converted(spec: &str) -> Conversion {
    converted_in("shop", spec)
}

fn one(constraint: Match) -> Clause {
    Clause {
        matches: vec![constraint],
    }
}

fn rule(clauses: Vec<Clause>) -> model::Rule {
    model::Rule { clauses }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

#[track_caller]
fn check(spec: &str, action: model::Action, rules: Vec<model::Rule>) {
    let policy = converted(spec).policy.expect("nothing is sent");
    assert_eq!(policy.action, action, "{spec}");
    assert_eq!(policy.rules, Rules::Valid(rules), "{spec}");
}

use model::Action::{Allow, Deny};

#[test]
fn an_empty_spec_allows_nothing_and_an_empty_rule_everything() {
    check("{}", Allow, vec![]);
    check("{rules: []}", Allow, vec![]);
    check("{rules: [{}]}", Allow, vec![rule(vec![])]);
    check("{action: DENY, rules: [{}]}", Deny, vec![rule(vec![])]);
}

#[test]
fn every_layer_four_field_is_carried() {
    let spec = "{rules: [{from: [{source: {
        principals: ['*', 'spiffe://td/ns/a/sa/b', 'td/*', '*/sa/web'],
        notPrincipals: [x], namespaces: [shop], notNamespaces: ['dev-*'],
        serviceAccounts: [web, legacy/old], notServiceAccounts: [cron],
        ipBlocks: [10.0.0.0/8, 'fd00::1'], notIpBlocks: [10.1.0.0/16]}}]}]}";
    let account = |namespace: &str, name: &str| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: name.into(),
    };
    let constraint = Match {
        principals: vec![
            StringMatch::Presence,
            exact("td/ns/a/sa/b"),
            StringMatch::Prefix("td/".into()),
            StringMatch::Suffix("/sa/web".into()),
        ],
        not_principals: vec![exact("x")],
        namespaces: vec![exact("shop")],
        not_namespaces: vec![StringMatch::Prefix("dev-".into())],
        service_accounts: vec![account("shop", "web"), account("legacy", "old")],
        not_service_accounts: vec![account("shop", "cron")],
        source_ips: vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::1/128".parse().unwrap(),
        ],
        not_source_ips: vec!["10.1.0.0/16".parse().unwrap()],
        ..Match::default()
    };
    check(spec, Allow, vec![rule(vec![one(constraint)])]);
}

#[test]
fn from_to_and_when_are_clauses_and_their_items_alternatives() {
    let spec = "{rules: [{
        from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}],
        to: [{operation: {ports: ['80'], notPorts: ['81']}}],
        when: [{key: source.ip, values: [10.0.0.1]},
               {key: source.namespace, notValues: [c]},
               {key: source.principal, values: ['*']},
               {key: destination.ip, values: ['fd00::/8']},
               {key: destination.port, values: ['8080'], notValues: ['9090']}]}]}";
    let from = |namespace: &str| Match {
        namespaces: vec![exact(namespace)],
        ..Match::default()
    };
    let clauses = vec![
        Clause {
            matches: vec![from("a"), from("b")],
        },
        one(Match {
            destination_ports: vec![80],
            not_destination_ports: vec![81],
            ..Match::default()
        }),
        one(Match {
            source_ips: vec!["10.0.0.1/32".parse().unwrap()],
            ..Match::default()
        }),
        one(Match {
            not_namespaces: vec![exact("c")],
            ..Match::default()
        }),
        one(Match {
            principals: vec![StringMatch::Presence],
            ..Match::default()
        }),
        one(Match {
            destination_ips: vec!["fd00::/8".parse().unwrap()],
            ..Match::default()
        }),
        one(Match {
            destination_ports: vec![8080],
            not_destination_ports: vec![9090],
            ..Match::default()
        }),
    ];
    check(spec, Allow, vec![rule(clauses)]);
}

const LAYER_SEVEN: [&str; 12] = [
    "to: [{operation: {methods: [GET]}}]",
    "to: [{operation: {notMethods: [GET]}}]",
    "to: [{operation: {paths: [/a]}}]",
    "to: [{operation: {notPaths: [/a]}}]",
    "to: [{operation: {hosts: [a.b]}}]",
    "to: [{operation: {notHosts: [a.b]}}]",
    "from: [{source: {requestPrincipals: ['*']}}]",
    "from: [{source: {notRequestPrincipals: ['*']}}]",
    "from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]",
    "from: [{source: {notRemoteIpBlocks: [10.0.0.0/8]}}]",
    "when: [{key: 'request.headers[x]', values: [a]}]",
    "when: [{key: connection.sni, values: [a]}]",
];

#[test]
fn an_allow_rule_that_needs_layer_seven_allows_nothing() {
    for part in LAYER_SEVEN {
        let spec = format!("{{rules: [{{{part}}}, {{}}]}}");
        check(&spec, Allow, vec![rule(vec![])]);
        assert_eq!(converted(&spec).notes, [Note::RuleDropped { rule: 0 }]);
    }
}

#[test]
fn a_deny_rule_of_layer_seven_alone_denies_everything() {
    for part in LAYER_SEVEN {
        let spec = format!("{{action: DENY, rules: [{{{part}}}]}}");
        check(&spec, Deny, vec![rule(vec![])]);
        assert_eq!(converted(&spec).notes, [Note::RuleWidened { rule: 0 }]);
    }
}

#[test]
fn a_deny_rule_keeps_what_layer_four_can_match() {
    let port = one(Match {
        destination_ports: vec![80],
        ..Match::default()
    });
    check(
        "{action: DENY, rules: [{to: [{operation: {ports: ['80'], methods: [GET]}}]}]}",
        Deny,
        vec![rule(vec![port.clone()])],
    );
    // One alternative that needs L7 alone could be any connection.
    check(
        "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}, {operation: {paths: [/a]}}],
          when: [{key: destination.port, values: ['80']}]}]}",
        Deny,
        vec![rule(vec![port])],
    );
}

#[test]
fn custom_denies_what_its_layer_four_part_matches() {
    let spec = "{action: CUSTOM, provider: {name: opa},
        rules: [{to: [{operation: {ports: ['80'], paths: [/admin]}}]}]}";
    let port = one(Match {
        destination_ports: vec![80],
        ..Match::default()
    });
    check(spec, Deny, vec![rule(vec![port])]);
    assert!(converted(spec).notes.contains(&Note::CustomDenies));
}

#[test]
fn audit_and_policies_for_waypoints_send_nothing() {
    for (spec, note) in [
        ("{action: AUDIT, rules: [{}]}", Note::AuditIgnored),
        (
            "{targetRefs: [{kind: Service, name: cart, group: ''}], rules: [{}]}",
            Note::LeftToWaypoint,
        ),
        (
            "{targetRef: {kind: Gateway, name: w}}",
            Note::LeftToWaypoint,
        ),
    ] {
        let conversion = converted(spec);
        assert_eq!(conversion.policy, None, "{spec}");
        assert_eq!(conversion.notes, [note]);
    }
}

#[test]
fn scope_follows_from_namespace_and_selector() {
    for (namespace, spec, scope) in [
        ("shop", "{}", Scope::Namespace),
        ("shop", "{selector: {}}", Scope::Namespace),
        (
            "shop",
            "{selector: {matchLabels: {app: a}}}",
            Scope::WorkloadSelector,
        ),
        ("ambit-system", "{}", Scope::Global),
        (
            "ambit-system",
            "{selector: {matchLabels: {app: a}}}",
            Scope::WorkloadSelector,
        ),
    ] {
        let policy = converted_in(namespace, spec).policy.unwrap();
        assert_eq!(policy.scope, scope, "{namespace} {spec}");
    }
}

#[test]
fn the_dry_run_annotation_is_carried() {
    let yaml = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: shop, annotations: {istio.io/dry-run: 'true'}}";
    let [Object::AuthorizationPolicy(policy)] = &objects(yaml)[..] else {
        panic!("no policy");
    };
    assert!(convert(&settings(), policy).policy.unwrap().dry_run);
}
