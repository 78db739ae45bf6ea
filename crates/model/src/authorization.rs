//! L4 authorization policies, as the node layer evaluates them.
//!
//! A rule matches when all its clauses do; a clause when one of its matches does; a match when
//! all its fields do; a field when one of its values does (contract, "RBAC").

use std::{fmt, sync::Arc};

use ipnet::IpNet;

/// A policy is named by its namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// Which workloads a policy holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    WorkloadSelector,
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
}

/// A pattern over text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any value, as long as there is one.
    Presence,
}

/// A service account, whatever its trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// Fields are joined by AND, values of a field by OR; a `not_` field matches when no value does.
/// An empty field does not constrain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

/// Alternatives joined by OR.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// Clauses joined by AND.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// The body of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// Rules joined by OR; none at all match nothing.
    Valid(Vec<Rule>),
    /// The policy could not be read and no earlier version is known: it denies, and says why.
    Malformed(Arc<str>),
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    pub key: PolicyKey,
    pub scope: Scope,
    pub action: Action,
    /// Evaluated and reported, never enforced.
    pub dry_run: bool,
    pub rules: Rules,
}
