//! Every field and every `not_` field, against mutual TLS and plaintext.

use model::{Match, ServiceAccountMatch, SpiffeId, StringMatch};

use super::{allow, cart, connection, index, rule, web};
use crate::{Connection, Decision, evaluate};

/// Who calls.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// `spiffe://cluster.local/ns/shop/sa/web`.
    Web,
    Plaintext,
}

use Caller::{Plaintext, Web};

fn matches(held: &Match, asked: &Connection<'_>) -> bool {
    let index = index(vec![allow("a", vec![rule(vec![vec![held.clone()]])])]);
    match evaluate(&index, &cart(), asked).decision {
        Decision::Permit(_) => true,
        Decision::Denied(_) => false,
    }
}

#[track_caller]
fn check(caller: Caller, held: Match, expected: bool) {
    let id: SpiffeId = web();
    let source = match caller {
        Web => Some(&id),
        Plaintext => None,
    };
    assert_eq!(matches(&held, &connection(source)), expected, "{held:?}");
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn suffix(text: &str) -> StringMatch {
    StringMatch::Suffix(text.into())
}

fn principals(pattern: StringMatch) -> Match {
    Match {
        principals: vec![pattern],
        ..Match::default()
    }
}

fn not_principals(pattern: StringMatch) -> Match {
    Match {
        not_principals: vec![pattern],
        ..Match::default()
    }
}

fn namespaces(pattern: StringMatch) -> Match {
    Match {
        namespaces: vec![pattern],
        ..Match::default()
    }
}

fn not_namespaces(pattern: StringMatch) -> Match {
    Match {
        not_namespaces: vec![pattern],
        ..Match::default()
    }
}

fn account(namespace: &str, service_account: &str) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: service_account.into(),
    }
}

fn accounts(held: ServiceAccountMatch) -> Match {
    Match {
        service_accounts: vec![held],
        ..Match::default()
    }
}

fn not_accounts(held: ServiceAccountMatch) -> Match {
    Match {
        not_service_accounts: vec![held],
        ..Match::default()
    }
}

#[test]
fn principals_match_with_and_without_the_scheme() {
    for text in [
        "cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web",
    ] {
        check(Web, principals(exact(text)), true);
        check(Web, not_principals(exact(text)), false);
    }
    check(Web, principals(exact("cluster.local/ns/shop/sa/we")), false);
    check(
        Web,
        principals(prefix("spiffe://cluster.local/ns/shop/")),
        true,
    );
    check(Web, principals(prefix("cluster.local/ns/shop/")), true);
    check(Web, principals(prefix("ns/shop/")), false);
    check(Web, principals(suffix("/sa/web")), true);
    check(Web, principals(suffix("/sa/we")), false);
    check(Web, principals(StringMatch::Presence), true);
}

#[test]
fn plaintext_has_no_principal_for_a_pattern_to_match() {
    for pattern in [exact(""), prefix(""), suffix(""), StringMatch::Presence] {
        check(Plaintext, principals(pattern.clone()), false);
        check(Plaintext, not_principals(pattern), true);
    }
}

#[test]
fn no_principal_present_is_what_strict_mode_denies_by() {
    check(Web, not_principals(StringMatch::Presence), false);
    check(Plaintext, not_principals(StringMatch::Presence), true);
}

#[test]
fn namespaces_match_the_peers() {
    check(Web, namespaces(exact("shop")), true);
    check(Web, namespaces(exact("sho")), false);
    check(Web, namespaces(prefix("sh")), true);
    check(Web, namespaces(suffix("op")), true);
    check(Web, namespaces(StringMatch::Presence), true);
    check(Web, not_namespaces(exact("shop")), false);
    check(Web, not_namespaces(exact("other")), true);
}

#[test]
fn plaintext_comes_from_the_namespace_without_a_name() {
    check(Plaintext, namespaces(exact("shop")), false);
    check(Plaintext, namespaces(StringMatch::Presence), false);
    check(Plaintext, namespaces(exact("")), true);
    check(Plaintext, not_namespaces(exact("shop")), true);
    check(Plaintext, not_namespaces(StringMatch::Presence), true);
}

#[test]
fn service_accounts_match_in_any_trust_domain() {
    check(Web, accounts(account("shop", "web")), true);
    check(Web, accounts(account("other", "web")), false);
    check(Web, accounts(account("shop", "cart")), false);
    check(Web, not_accounts(account("shop", "web")), false);
    check(Web, not_accounts(account("shop", "cart")), true);
    check(Plaintext, accounts(account("shop", "web")), false);
    check(Plaintext, not_accounts(account("shop", "web")), true);
    let foreign: SpiffeId = "spiffe://far.away/ns/shop/sa/web".parse().unwrap();
    let asked = connection(Some(&foreign));
    assert!(matches(&accounts(account("shop", "web")), &asked));
}

#[test]
fn source_addresses_match_by_range() {
    let within = |range: &str| Match {
        source_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    let without = |range: &str| Match {
        not_source_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    for caller in [Web, Plaintext] {
        check(caller, within("10.0.0.0/24"), true);
        check(caller, within("10.0.0.1/32"), true);
        check(caller, within("10.0.1.0/24"), false);
        check(caller, within("::/0"), false);
        check(caller, without("10.0.0.0/24"), false);
        check(caller, without("10.0.1.0/24"), true);
    }
}

#[test]
fn destination_addresses_match_by_range() {
    let within = |range: &str| Match {
        destination_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    let without = |range: &str| Match {
        not_destination_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    check(Web, within("10.0.1.0/24"), true);
    check(Web, within("10.0.0.0/24"), false);
    check(Web, without("10.0.1.2/32"), false);
    check(Web, without("10.0.0.0/24"), true);
}

#[test]
fn mapped_ipv4_is_ipv4_on_either_side() {
    let held = |range: &str| Match {
        source_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    let mut asked = connection(None);
    asked.source_ip = "::ffff:10.0.0.1".parse().unwrap();
    assert!(matches(&held("10.0.0.0/24"), &asked));
    check(Web, held("::ffff:10.0.0.0/120"), true);
    check(Web, held("::ffff:10.0.1.0/120"), false);
    asked.source_ip = "fd00::1".parse().unwrap();
    assert!(matches(&held("fd00::/8"), &asked));
    assert!(!matches(&held("0.0.0.0/0"), &asked));
}

#[test]
fn destination_ports_match_exactly() {
    let not_port = |number| Match {
        not_destination_ports: vec![number],
        ..Match::default()
    };
    check(Web, super::port(8080), true);
    check(Web, super::port(8081), false);
    check(Web, not_port(8080), false);
    check(Web, not_port(8081), true);
}
