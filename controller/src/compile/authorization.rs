//! AuthorizationPolicies as the node layer enforces them.
//!
//! The node layer sees connections, not requests. What it cannot see it must not skip: an ALLOW
//! rule that needs it is dropped (allowing less), a DENY or CUSTOM rule loses that constraint
//! (denying more), and a policy that cannot be read denies its whole scope.

use std::fmt;

use ipnet::IpNet;
use model::{
    Authorization, Clause, Match, PolicyKey, Rules, Scope, ServiceAccountMatch, StringMatch,
};

use super::Settings;
use crate::watch::{
    ObjectName,
    authorization_policy::{
        Action, AuthorizationPolicy, Body, Condition, Enforcement, LayerSeven, Operation, Rule,
        Source, Target,
    },
    manifest::{Account, Pattern},
    object::{Labels, selects},
};

/// Something the node layer does with a policy that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It has `targetRefs`.
    LeftToWaypoint,
    /// AUDIT decides nothing.
    AuditIgnored,
    /// CUSTOM needs an authorizer that only a waypoint can ask: everything it covers is denied.
    CustomDenies,
    /// The ALLOW rule needs L7, so it allows nothing here.
    RuleDropped { rule: usize },
    /// The DENY rule needs L7, so it denies all that its other constraints match.
    RuleWidened { rule: usize },
    /// It cannot be read: everything it could cover is denied.
    DeniesUnread { why: String },
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftToWaypoint => out.write_str("has targetRefs: enforced by waypoints only"),
            Self::AuditIgnored => out.write_str("action AUDIT decides nothing here"),
            Self::CustomDenies => {
                out.write_str("action CUSTOM needs a waypoint: all it matches is denied")
            }
            Self::RuleDropped { rule } => {
                write!(out, "rule {rule} needs L7: it allows nothing here")
            }
            Self::RuleWidened { rule } => {
                write!(
                    out,
                    "rule {rule} needs L7: it denies whatever its L4 part matches"
                )
            }
            Self::DeniesUnread { why } => write!(out, "denies all in its scope: {why}"),
        }
    }
}

/// What a policy becomes.
#[derive(Debug)]
pub(crate) struct Conversion {
    pub(crate) policy: Option<Authorization>,
    pub(crate) notes: Vec<Note>,
}

/// The name a policy has on the wire.
pub(crate) fn key(name: &ObjectName) -> PolicyKey {
    PolicyKey {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

/// Whether the node daemon is to apply the policy to workloads with these labels by name.
pub(crate) fn selects_workload(policy: &AuthorizationPolicy, labels: &Labels) -> bool {
    let compiled = match (policy.target, &policy.body) {
        (Target::Waypoint, _) => false,
        (Target::Workloads, Body::Unreadable(_)) => true,
        (Target::Workloads, Body::Readable { action, .. }) => *action != Action::Audit,
    };
    compiled && !policy.selector.is_empty() && selects(&policy.selector, labels)
}

/// Converts a policy.
pub(crate) fn convert(settings: &Settings, policy: &AuthorizationPolicy) -> Conversion {
    let mut notes = Vec::new();
    let compiled = match (policy.target, &policy.body) {
        (Target::Waypoint, _) => {
            notes.push(Note::LeftToWaypoint);
            None
        }
        (Target::Workloads, Body::Unreadable(why)) => {
            let why = why.clone();
            notes.push(Note::DeniesUnread {
                why: why.to_string(),
            });
            Some((model::Action::Deny, Rules::Malformed(why)))
        }
        (Target::Workloads, Body::Readable { action, rules }) => {
            compile(&policy.name.namespace, *action, rules, &mut notes)
        }
    };
    let is_root = policy.name.namespace == settings.root_namespace;
    let policy = compiled.map(|(action, rules)| Authorization {
        key: key(&policy.name),
        scope: match (policy.selector.is_empty(), is_root) {
            (false, _) => Scope::WorkloadSelector,
            (true, true) => Scope::Global,
            (true, false) => Scope::Namespace,
        },
        action,
        dry_run: policy.enforcement == Enforcement::DryRun,
        rules,
    });
    Conversion { policy, notes }
}

fn compile(
    namespace: &str,
    action: Action,
    rules: &[Rule],
    notes: &mut Vec<Note>,
) -> Option<(model::Action, Rules)> {
    let (action, on_layer_seven) = match action {
        Action::Allow => (model::Action::Allow, OnLayerSeven::DropRule),
        Action::Deny => (model::Action::Deny, OnLayerSeven::Ignore),
        Action::Custom => {
            notes.push(Note::CustomDenies);
            (model::Action::Deny, OnLayerSeven::Ignore)
        }
        Action::Audit => {
            notes.push(Note::AuditIgnored);
            return None;
        }
    };
    let mut compiled = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        match (uses_layer_seven(rule), on_layer_seven) {
            (LayerSeven::Absent, _) => {}
            (LayerSeven::Present, OnLayerSeven::DropRule) => {
                notes.push(Note::RuleDropped { rule: at });
                continue;
            }
            (LayerSeven::Present, OnLayerSeven::Ignore) => {
                notes.push(Note::RuleWidened { rule: at });
            }
        }
        compiled.push(layer_four(namespace, rule));
    }
    Some((action, Rules::Valid(compiled)))
}

#[derive(Debug, Clone, Copy)]
enum OnLayerSeven {
    DropRule,
    Ignore,
}

fn uses_layer_seven(rule: &Rule) -> LayerSeven {
    let from = rule.from.iter().map(|source| source.layer_seven);
    let to = rule.to.iter().map(|operation| operation.layer_seven);
    let when = rule.when.iter().map(|condition| match condition {
        Condition::LayerSeven => LayerSeven::Present,
        Condition::SourceIp(..)
        | Condition::SourceNamespace(..)
        | Condition::SourcePrincipal(..)
        | Condition::DestinationIp(..)
        | Condition::DestinationPort(..) => LayerSeven::Absent,
    });
    let mut all = from.chain(to).chain(when);
    match all.any(|layer_seven| layer_seven == LayerSeven::Present) {
        true => LayerSeven::Present,
        false => LayerSeven::Absent,
    }
}

fn layer_four(namespace: &str, rule: &Rule) -> model::Rule {
    let from = rule.from.iter().map(|source| of_source(namespace, source));
    let to = rule.to.iter().map(of_operation);
    let when = rule.when.iter().map(of_condition);
    let mut clauses = Vec::new();
    clauses.extend(any_of(from.collect()));
    clauses.extend(any_of(to.collect()));
    clauses.extend(when.filter_map(|condition| any_of(vec![condition])));
    model::Rule { clauses }
}

/// A clause of alternatives; none where one of them, or their absence, constrains nothing. An
/// empty match must not stand for "anything": evaluators skip it (contract, "RBAC").
fn any_of(matches: Vec<Match>) -> Option<Clause> {
    let constrains = !matches.is_empty() && !matches.contains(&Match::default());
    constrains.then_some(Clause { matches })
}

fn of_source(namespace: &str, source: &Source) -> Match {
    let patterns = |held: &[Pattern]| held.iter().map(|pattern| pattern.0.clone()).collect();
    let accounts = |held: &[Account]| {
        let each = |account: &Account| ServiceAccountMatch {
            namespace: account.namespace.as_deref().unwrap_or(namespace).into(),
            service_account: account.name.as_str().into(),
        };
        held.iter().map(each).collect()
    };
    let raw = &source.raw;
    Match {
        namespaces: patterns(&raw.namespaces),
        not_namespaces: patterns(&raw.not_namespaces),
        service_accounts: accounts(&raw.service_accounts),
        not_service_accounts: accounts(&raw.not_service_accounts),
        principals: patterns(&raw.principals),
        not_principals: patterns(&raw.not_principals),
        source_ips: raw.ip_blocks.iter().map(|block| block.0).collect(),
        not_source_ips: raw.not_ip_blocks.iter().map(|block| block.0).collect(),
        ..Match::default()
    }
}

fn of_operation(operation: &Operation) -> Match {
    Match {
        destination_ports: operation.ports.iter().map(|port| port.0).collect(),
        not_destination_ports: operation.not_ports.iter().map(|port| port.0).collect(),
        ..Match::default()
    }
}

fn of_condition(condition: &Condition) -> Match {
    let nets = Vec::<IpNet>::clone;
    let texts = Vec::<StringMatch>::clone;
    match condition {
        Condition::SourceIp(values, not_values) => Match {
            source_ips: nets(values),
            not_source_ips: nets(not_values),
            ..Match::default()
        },
        Condition::SourceNamespace(values, not_values) => Match {
            namespaces: texts(values),
            not_namespaces: texts(not_values),
            ..Match::default()
        },
        Condition::SourcePrincipal(values, not_values) => Match {
            principals: texts(values),
            not_principals: texts(not_values),
            ..Match::default()
        },
        Condition::DestinationIp(values, not_values) => Match {
            destination_ips: nets(values),
            not_destination_ips: nets(not_values),
            ..Match::default()
        },
        Condition::DestinationPort(values, not_values) => Match {
            destination_ports: values.clone(),
            not_destination_ports: not_values.clone(),
            ..Match::default()
        },
        Condition::LayerSeven => Match::default(),
    }
}

#[cfg(test)]
mod tests;
