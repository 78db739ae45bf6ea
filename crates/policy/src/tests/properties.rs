//! The evaluator against the naive model, over small worlds in which everything meets.

use std::sync::Arc;

use ipnet::IpNet;
use model::{
    Action, Authorization, Clause, Match, Rule, Rules, Scope, ServiceAccountMatch, SpiffeId,
    StringMatch,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{cart, index, key, naive};
use crate::{Connection, Decision, evaluate, explain};

/// Zero to two of them: an absent field is as telling as a present one.
fn some<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(vec![]), 2 => vec(of, 1..3)]
}

fn text(words: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    let word = || select(words).prop_map(Arc::<str>::from);
    prop_oneof![
        word().prop_map(StringMatch::Exact),
        word().prop_map(StringMatch::Prefix),
        word().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn namespace() -> impl Strategy<Value = StringMatch> {
    text(&["shop", "sh", "op", "legacy", ""])
}

fn principal() -> impl Strategy<Value = StringMatch> {
    text(&[
        "spiffe://cluster.local/ns/shop/sa/web",
        "cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/",
        "cluster.local/",
        "/sa/web",
        "",
    ])
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (select(&["shop", "legacy"]), select(&["web", "cart"])).prop_map(|(namespace, name)| {
        ServiceAccountMatch {
            namespace: namespace.into(),
            service_account: name.into(),
        }
    })
}

fn range() -> impl Strategy<Value = IpNet> {
    select(&[
        "10.0.0.0/8",
        "10.0.0.1/32",
        "10.1.0.0/16",
        "fd00::/8",
        "::/0",
        "0.0.0.0/0",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80_u16, 8080])
}

prop_compose! {
    fn a_match()(
        (namespaces, not_namespaces) in (some(namespace()), some(namespace())),
        (service_accounts, not_service_accounts) in (some(account()), some(account())),
        (principals, not_principals) in (some(principal()), some(principal())),
        (source_ips, not_source_ips) in (some(range()), some(range())),
        (destination_ips, not_destination_ips) in (some(range()), some(range())),
        (destination_ports, not_destination_ports) in (some(port()), some(port())),
        keep in vec(any::<bool>(), 6),
    ) -> Match {
        // Few fields at a time, or hardly anything would ever match.
        let mut held = Match::default();
        if keep[0] { held.namespaces = namespaces; held.not_service_accounts = not_service_accounts; }
        if keep[1] { held.not_namespaces = not_namespaces; held.destination_ports = destination_ports; }
        if keep[2] { held.service_accounts = service_accounts; held.not_source_ips = not_source_ips; }
        if keep[3] { held.principals = principals; held.not_destination_ips = not_destination_ips; }
        if keep[4] { held.not_principals = not_principals; held.source_ips = source_ips; }
        if keep[5] { held.destination_ips = destination_ips; held.not_destination_ports = not_destination_ports; }
        held
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let clause = vec(a_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    prop_oneof![
        12 => vec(rule, 0..3).prop_map(Rules::Valid),
        1 => Just(Rules::Malformed("unreadable".into())),
    ]
}

fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    let action = select(&[Action::Allow, Action::Deny]);
    let scope = select(&[Scope::Global, Scope::Namespace]);
    let dry_run = prop_oneof![4 => Just(false), 1 => Just(true)];
    vec((action, scope, dry_run, rules()), 0..4).prop_map(|held| {
        held.into_iter()
            .enumerate()
            .map(|(at, (action, scope, dry_run, rules))| Authorization {
                key: key("shop", &format!("p{at}")),
                scope,
                action,
                dry_run,
                rules,
            })
            .collect()
    })
}

fn source() -> impl Strategy<Value = Option<SpiffeId>> {
    let ids = &[
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/legacy/sa/cart",
        "spiffe://far.away/ns/shop/sa/web",
    ];
    proptest::option::of(select(ids).prop_map(|text| text.parse().unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_naive_model(
        policies in policies(),
        source in source(),
        source_ip in select(&["10.0.0.1", "10.1.0.1", "fd00::1"]),
        destination_ip in select(&["10.0.0.2", "fd00::2"]),
        destination_port in port(),
    ) {
        let asked = Connection {
            source: source.as_ref(),
            source_ip: source_ip.parse().unwrap(),
            destination_ip: destination_ip.parse().unwrap(),
            destination_port,
        };
        let index = index(policies.clone());
        let verdict = evaluate(&index, &cart(), &asked);
        let dry_runs = policies.iter().filter(|held| held.dry_run).count();
        prop_assert_eq!(verdict.dry_run.len(), dry_runs);
        let (got, result) = match verdict.decision {
            Decision::Permit(permit) => (naive::Answer::Permitted, Ok(permit.grounds().clone())),
            Decision::Denied(denial) => (naive::Answer::Denied, Err(denial)),
        };
        prop_assert_eq!(got, naive::evaluate(&policies, &asked));
        let explanation = explain(&index, &cart(), &asked);
        prop_assert_eq!(explanation.result, result);
        prop_assert_eq!(explanation.considered.len(), policies.len());
    }
}
