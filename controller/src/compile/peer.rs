//! PeerAuthentication as DENY policies on plaintext.
//!
//! The mode of a workload is the most specific one that is set: its own, its namespace's, the
//! mesh's; of several equally specific the oldest. STRICT alone is one policy shared by all; port
//! modes make a policy of their own per PeerAuthentication.

use model::{Action, Authorization, Clause, Match, PolicyKey, Rule, Rules, Scope, StringMatch};

use super::Settings;
use crate::watch::{
    ObjectName, View,
    object::{Labels, selects},
    peer_authentication::{Mode, PeerAuthentication},
    view::in_namespace,
};

/// No object can have this name: Kubernetes allows no underscore.
const STRICT: &str = "istio_converted_static_strict";
const PORTS_PREFIX: &str = "converted_peer_authentication_";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plaintext {
    Accepted,
    Refused,
}

/// The policy that refuses all plaintext.
pub(crate) fn strict(settings: &Settings) -> Authorization {
    deny(
        strict_key(settings),
        Match {
            not_principals: vec![StringMatch::Presence],
            ..Match::default()
        },
    )
}

/// The policy of a PeerAuthentication whose ports differ from the rest.
pub(crate) fn port_policy(
    settings: &Settings,
    view: &View,
    name: &ObjectName,
) -> Option<Authorization> {
    let policy = view.peer_authentications.get(name)?;
    if policy.selector.is_empty() || name.namespace == settings.root_namespace {
        return None;
    }
    let base = base(settings, view, policy);
    let differing: Vec<u16> = policy
        .port_modes
        .iter()
        .filter(|(_, mode)| plaintext(**mode).is_some_and(|mode| mode != base))
        .map(|(port, _)| *port)
        .collect();
    if differing.is_empty() {
        return None;
    }
    let mut constraint = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    match base {
        Plaintext::Refused => constraint.not_destination_ports = differing,
        Plaintext::Accepted => constraint.destination_ports = differing,
    }
    Some(deny(port_policy_key(name), constraint))
}

/// The policy that a workload with these labels is to name.
pub(crate) fn policy_of(
    settings: &Settings,
    view: &View,
    namespace: &str,
    labels: &Labels,
) -> Option<PolicyKey> {
    let own = workload_policy(settings, view, namespace, labels);
    if let Some(own) = own
        && port_policy(settings, view, &own.name).is_some()
    {
        return Some(port_policy_key(&own.name));
    }
    let mode = match own {
        Some(own) => base(settings, view, own),
        None => wide(settings, view, namespace),
    };
    (mode == Plaintext::Refused).then(|| strict_key(settings))
}

fn strict_key(settings: &Settings) -> PolicyKey {
    PolicyKey {
        namespace: settings.root_namespace.clone(),
        name: STRICT.into(),
    }
}

fn port_policy_key(name: &ObjectName) -> PolicyKey {
    PolicyKey {
        namespace: name.namespace.clone(),
        name: format!("{PORTS_PREFIX}{}", name.name).into(),
    }
}

fn deny(key: PolicyKey, constraint: Match) -> Authorization {
    let clause = Clause {
        matches: vec![constraint],
    };
    Authorization {
        key,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        dry_run: false,
        rules: Rules::Valid(vec![Rule {
            clauses: vec![clause],
        }]),
    }
}

/// DISABLE is PERMISSIVE here: what arrives by HBONE has been authenticated anyway.
fn plaintext(mode: Mode) -> Option<Plaintext> {
    match mode {
        Mode::Unset => None,
        Mode::Disable | Mode::Permissive => Some(Plaintext::Accepted),
        Mode::Strict => Some(Plaintext::Refused),
    }
}

/// The mode of the ports a workload's policy does not name.
fn base(settings: &Settings, view: &View, policy: &PeerAuthentication) -> Plaintext {
    plaintext(policy.mode).unwrap_or_else(|| wide(settings, view, &policy.name.namespace))
}

/// The mode of a namespace.
fn wide(settings: &Settings, view: &View, namespace: &str) -> Plaintext {
    let oldest = |namespace: &str| {
        let held = in_namespace(&view.peer_authentications, namespace);
        let without_selector = held
            .map(|(_, policy)| policy)
            .filter(|policy| policy.selector.is_empty());
        let oldest = without_selector.min_by_key(|policy| (policy.created, &policy.name));
        oldest.and_then(|policy| plaintext(policy.mode))
    };
    oldest(namespace)
        .or_else(|| oldest(&settings.root_namespace))
        .unwrap_or(Plaintext::Accepted)
}

/// Selectors in the root namespace select nothing: the mesh-wide policy has none.
fn workload_policy<'view>(
    settings: &Settings,
    view: &'view View,
    namespace: &str,
    labels: &Labels,
) -> Option<&'view PeerAuthentication> {
    if namespace == &*settings.root_namespace {
        return None;
    }
    let held = in_namespace(&view.peer_authentications, namespace);
    let selecting =
        held.filter(|(_, policy)| !policy.selector.is_empty() && selects(&policy.selector, labels));
    let oldest = selecting.min_by_key(|(name, policy)| (policy.created, *name));
    oldest.map(|(_, policy)| &**policy)
}

#[cfg(test)]
mod tests;
