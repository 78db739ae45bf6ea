//! The rules of evaluation, one claim each, and a property test against a naive model.

mod fields;
mod naive;
mod properties;

use std::sync::Arc;

use model::{
    Action, Authorization, Change, Clause, Index, Match, PolicyKey, Resource, Rule, Rules, Scope,
    SpiffeId, StringMatch, Workload,
};

use crate::{
    Connection, Decision, Denial, Explanation, Grounds, Outcome, Verdict, evaluate, explain,
};

fn key(namespace: &str, name: &str) -> PolicyKey {
    PolicyKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization {
        key: key("shop", name),
        scope: Scope::Namespace,
        action,
        dry_run: false,
        rules: Rules::Valid(rules),
    }
}

fn allow(name: &str, rules: Vec<Rule>) -> Authorization {
    policy(name, Action::Allow, rules)
}

fn deny(name: &str, rules: Vec<Rule>) -> Authorization {
    policy(name, Action::Deny, rules)
}

fn rule(clauses: Vec<Vec<Match>>) -> Rule {
    let clauses = clauses.into_iter().map(|matches| Clause { matches });
    Rule {
        clauses: clauses.collect(),
    }
}

/// Matches every connection.
fn anything() -> Rule {
    rule(vec![])
}

/// Matches the port and nothing else.
fn port(number: u16) -> Match {
    Match {
        destination_ports: vec![number],
        ..Match::default()
    }
}

/// Matches no connection of these tests.
fn nothing() -> Rule {
    rule(vec![vec![port(1)]])
}

fn malformed(name: &str, action: Action) -> Authorization {
    Authorization {
        rules: Rules::Malformed("field from: unreadable".into()),
        ..policy(name, action, vec![])
    }
}

fn dry_run(policy: Authorization) -> Authorization {
    Authorization {
        dry_run: true,
        ..policy
    }
}

fn index(policies: Vec<Authorization>) -> Index {
    let upsert = policies.into_iter().map(Arc::new);
    Index::default().apply(Change {
        upsert: upsert.map(Resource::Authorization).collect(),
        remove: vec![],
    })
}

fn cart() -> Workload {
    Workload::new("c//Pod/shop/cart", "shop", "cart")
}

fn connection(source: Option<&SpiffeId>) -> Connection<'_> {
    Connection {
        source,
        source_ip: "10.0.0.1".parse().unwrap(),
        destination_ip: "10.0.1.2".parse().unwrap(),
        destination_port: 8080,
    }
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn decide(policies: Vec<Authorization>, workload: &Workload) -> (Verdict, Explanation) {
    let index = index(policies);
    let source = web();
    let asked = connection(Some(&source));
    (
        evaluate(&index, workload, &asked),
        explain(&index, workload, &asked),
    )
}

/// What `web` is told when it calls `cart` under these policies. Both ways to ask must agree.
#[track_caller]
fn check(policies: Vec<Authorization>, expected: Result<Grounds, Denial>) {
    check_for(policies, &cart(), expected);
}

#[track_caller]
fn check_for(policies: Vec<Authorization>, workload: &Workload, expected: Result<Grounds, Denial>) {
    let (verdict, explanation) = decide(policies, workload);
    let got = match verdict.decision {
        Decision::Permit(permit) => Ok(permit.grounds().clone()),
        Decision::Denied(denial) => Err(denial),
    };
    assert_eq!(got, expected);
    assert_eq!(explanation.result, expected);
}

fn allowed_by(name: &str, rule: usize) -> Result<Grounds, Denial> {
    let policy = key("shop", name);
    Ok(Grounds::AllowedBy { policy, rule })
}

fn denied_by(name: &str, rule: usize) -> Result<Grounds, Denial> {
    let policy = key("shop", name);
    Err(Denial::MatchedDeny { policy, rule })
}

fn not_allowed(names: &[&str]) -> Result<Grounds, Denial> {
    let considered = names.iter().map(|name| key("shop", name)).collect();
    Err(Denial::NoAllowMatched { considered })
}

#[test]
fn permits_when_no_policy_is_in_scope() {
    check(vec![], Ok(Grounds::NoAllowPolicy));
}

#[test]
fn permits_when_only_deny_policies_are_in_scope_and_none_matches() {
    check(vec![deny("d", vec![nothing()])], Ok(Grounds::NoAllowPolicy));
}

#[test]
fn denies_when_a_deny_policy_matches_whatever_is_allowed() {
    let policies = vec![allow("a", vec![anything()]), deny("z", vec![anything()])];
    check(policies, denied_by("z", 0));
}

#[test]
fn permits_when_one_of_several_allow_policies_matches() {
    let policies = vec![allow("a", vec![nothing()]), allow("b", vec![anything()])];
    check(policies, allowed_by("b", 0));
}

#[test]
fn denies_when_no_allow_policy_matches() {
    let policies = vec![allow("a", vec![nothing()]), allow("b", vec![nothing()])];
    check(policies, not_allowed(&["a", "b"]));
}

#[test]
fn an_allow_policy_without_rules_allows_nothing() {
    check(vec![allow("a", vec![])], not_allowed(&["a"]));
}

#[test]
fn a_deny_policy_without_rules_denies_nothing() {
    check(vec![deny("d", vec![])], Ok(Grounds::NoAllowPolicy));
}

#[test]
fn a_rule_without_clauses_matches() {
    check(vec![allow("a", vec![rule(vec![])])], allowed_by("a", 0));
}

#[test]
fn an_empty_clause_matches() {
    check(
        vec![allow("a", vec![rule(vec![vec![]])])],
        allowed_by("a", 0),
    );
}

#[test]
fn a_clause_of_empty_matches_does_not_match() {
    let empty = || rule(vec![vec![Match::default(), Match::default()]]);
    check(vec![allow("a", vec![empty()])], not_allowed(&["a"]));
    check(vec![deny("d", vec![empty()])], Ok(Grounds::NoAllowPolicy));
}

#[test]
fn an_empty_match_beside_one_that_matches_changes_nothing() {
    let clause = vec![Match::default(), port(8080)];
    check(
        vec![allow("a", vec![rule(vec![clause])])],
        allowed_by("a", 0),
    );
}

#[test]
fn rules_are_alternatives_and_the_first_that_matches_is_told() {
    let rules = vec![nothing(), anything(), anything()];
    check(vec![allow("a", rules)], allowed_by("a", 1));
}

#[test]
fn all_clauses_of_a_rule_must_match() {
    let one_fails = rule(vec![vec![port(8080)], vec![port(1)]]);
    check(vec![allow("a", vec![one_fails])], not_allowed(&["a"]));
    let both_hold = rule(vec![vec![port(8080)], vec![port(8080)]]);
    check(vec![allow("a", vec![both_hold])], allowed_by("a", 0));
}

#[test]
fn matches_of_a_clause_are_alternatives() {
    let clause = vec![port(1), port(8080)];
    check(
        vec![allow("a", vec![rule(vec![clause])])],
        allowed_by("a", 0),
    );
}

#[test]
fn all_fields_of_a_match_must_hold() {
    let with_namespace = |namespace: &str| Match {
        namespaces: vec![StringMatch::Exact(namespace.into())],
        ..port(8080)
    };
    let only_port = rule(vec![vec![with_namespace("other")]]);
    check(vec![allow("a", vec![only_port])], not_allowed(&["a"]));
    let both = rule(vec![vec![with_namespace("shop")]]);
    check(vec![allow("a", vec![both])], allowed_by("a", 0));
}

#[test]
fn values_of_a_field_are_alternatives() {
    let ports = Match {
        destination_ports: vec![1, 8080],
        ..Match::default()
    };
    check(
        vec![allow("a", vec![rule(vec![vec![ports]])])],
        allowed_by("a", 0),
    );
}

#[test]
fn a_field_and_its_not_field_must_both_hold() {
    let contradiction = Match {
        not_destination_ports: vec![8080],
        ..port(8080)
    };
    check(
        vec![allow("a", vec![rule(vec![vec![contradiction]])])],
        not_allowed(&["a"]),
    );
}

#[test]
fn a_malformed_policy_denies_whatever_its_action() {
    for action in [Action::Allow, Action::Deny] {
        let policies = vec![allow("a", vec![anything()]), malformed("m", action)];
        let expected = Denial::Malformed {
            policy: key("shop", "m"),
            why: "field from: unreadable".into(),
        };
        check(policies, Err(expected));
    }
}

#[test]
fn a_policy_that_is_named_but_unknown_denies() {
    let mut workload = cart();
    workload.authorization_policies = vec![key("shop", "gone")];
    let policy = key("shop", "gone");
    let policies = vec![allow("a", vec![anything()])];
    check_for(policies, &workload, Err(Denial::MissingPolicy { policy }));
}

#[test]
fn global_policies_hold_for_every_namespace() {
    let mut global = deny("everyone", vec![anything()]);
    global.key = key("ambit-system", "everyone");
    global.scope = Scope::Global;
    let policy = global.key.clone();
    check(vec![global], Err(Denial::MatchedDeny { policy, rule: 0 }));
}

#[test]
fn policies_of_another_namespace_do_not_hold() {
    let mut foreign = deny("d", vec![anything()]);
    foreign.key = key("other", "d");
    check(vec![foreign], Ok(Grounds::NoAllowPolicy));
}

#[test]
fn a_selecting_policy_holds_only_for_the_workloads_that_name_it() {
    let mut selecting = deny("d", vec![anything()]);
    selecting.scope = Scope::WorkloadSelector;
    check(vec![selecting.clone()], Ok(Grounds::NoAllowPolicy));
    let mut workload = cart();
    workload.authorization_policies = vec![key("shop", "d")];
    check_for(vec![selecting], &workload, denied_by("d", 0));
}

#[test]
fn a_policy_in_scope_twice_is_considered_once() {
    let mut workload = cart();
    workload.authorization_policies = vec![key("shop", "a")];
    let policies = vec![allow("a", vec![nothing()])];
    check_for(policies, &workload, not_allowed(&["a"]));
}

#[test]
fn dry_run_policies_are_reported_and_not_enforced() {
    let policies = vec![
        dry_run(deny("d", vec![anything()])),
        dry_run(allow("e", vec![nothing()])),
        dry_run(malformed("m", Action::Deny)),
    ];
    let (verdict, _) = decide(policies.clone(), &cart());
    let outcomes: Vec<Outcome> = verdict
        .dry_run
        .into_iter()
        .map(|reported| reported.outcome)
        .collect();
    let unreadable = Outcome::Malformed {
        why: "field from: unreadable".into(),
    };
    let expected = [Outcome::Matched { rule: 0 }, Outcome::NoMatch, unreadable];
    assert_eq!(outcomes, expected);
    check(policies, Ok(Grounds::NoAllowPolicy));
}

#[test]
fn a_dry_run_allow_policy_permits_nothing() {
    let policies = vec![
        allow("a", vec![nothing()]),
        dry_run(allow("b", vec![anything()])),
    ];
    check(policies, not_allowed(&["a"]));
}

#[test]
fn an_explanation_lists_every_policy_even_after_the_one_that_decided() {
    let mut workload = cart();
    workload.authorization_policies = vec![key("shop", "gone")];
    let policies = vec![
        deny("a", vec![nothing(), anything()]),
        dry_run(allow("b", vec![])),
    ];
    let (_, explanation) = decide(policies, &workload);
    let text = "shop/a (DENY): rule 1 matches\n\
                shop/b (ALLOW, dry run): no rule matches\n\
                shop/gone (unknown action): not received\n\
                denied: policy shop/a, rule 1: denies";
    assert_eq!(explanation.to_string(), text);
}

#[test]
fn refusals_name_what_an_operator_must_look_at() {
    #[track_caller]
    fn says(denial: Denial, expected: &str, blamed: Option<PolicyKey>) {
        assert_eq!(denial.to_string(), expected);
        assert_eq!(denial.policy().cloned(), blamed);
    }
    let web = || key("shop", "cart-only-web");
    says(
        Denial::NoAllowMatched {
            considered: vec![web(), key("shop", "probes")],
        },
        "no rule of the ALLOW policies matched: shop/cart-only-web, shop/probes",
        None,
    );
    says(
        Denial::MatchedDeny {
            policy: web(),
            rule: 2,
        },
        "policy shop/cart-only-web, rule 2: denies",
        Some(web()),
    );
    says(
        Denial::NoAllowMatched {
            considered: vec![web()],
        },
        "no rule of the ALLOW policies matched: shop/cart-only-web",
        Some(web()),
    );
}
