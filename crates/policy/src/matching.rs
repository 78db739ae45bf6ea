//! Whether the rules of one policy match one connection.
//!
//! Knows nothing of actions, scopes or order: that is `evaluate`.

use std::{borrow::Cow, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use model::{Clause, Match, Rule, ServiceAccountMatch, SpiffeId, StringMatch};

/// The facts a policy may ask about.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The verified peer; none when it spoke plaintext.
    pub source: Option<&'a SpiffeId>,
    /// The TCP peer.
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    /// The port the application listens on.
    pub destination_port: u16,
}

/// A connection in the form the rules compare with, made once for all policies.
pub(crate) struct Subject<'a> {
    source: Option<&'a SpiffeId>,
    /// Without `spiffe://`; none for plaintext, so that nothing matches it.
    principal: Option<String>,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    destination_port: u16,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(connection: &Connection<'a>) -> Self {
        let principal = connection
            .source
            .map(|id| without_scheme(&id.to_string()).to_owned());
        Self {
            source: connection.source,
            principal,
            // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; policies mean a.b.c.d.
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination_ip.to_canonical(),
            destination_port: connection.destination_port,
        }
    }

    /// Plaintext comes from the namespace "": no name matches it, and no `not_` name spares it.
    fn namespace(&self) -> &str {
        self.source.map_or("", SpiffeId::namespace)
    }

    fn is_account(&self, account: &ServiceAccountMatch) -> bool {
        self.source.is_some_and(|id| {
            id.namespace() == &*account.namespace
                && id.service_account() == &*account.service_account
        })
    }

    fn is_principal(&self, pattern: &StringMatch) -> bool {
        self.principal
            .as_deref()
            .is_some_and(|principal| text_matches(pattern, without_scheme, principal))
    }
}

/// The first rule that matches. Rules are joined by OR, so none at all match nothing.
pub(crate) fn matching_rule(rules: &[Rule], subject: &Subject<'_>) -> Option<usize> {
    rules.iter().position(|rule| {
        rule.clauses
            .iter()
            .all(|clause| clause_matches(clause, subject))
    })
}

/// An empty clause matches; an empty match says nothing, so a clause of only such does not.
fn clause_matches(clause: &Clause, subject: &Subject<'_>) -> bool {
    clause.matches.is_empty()
        || clause
            .matches
            .iter()
            .any(|held| *held != Match::default() && match_matches(held, subject))
}

fn match_matches(held: &Match, subject: &Subject<'_>) -> bool {
    let Match {
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
    } = held;
    field(namespaces, not_namespaces, |pattern| {
        text_matches(pattern, |text| text, subject.namespace())
    }) && field(service_accounts, not_service_accounts, |account| {
        subject.is_account(account)
    }) && field(principals, not_principals, |pattern| {
        subject.is_principal(pattern)
    }) && field(source_ips, not_source_ips, |net| {
        canonical(net).contains(&subject.source_ip)
    }) && field(destination_ips, not_destination_ips, |net| {
        canonical(net).contains(&subject.destination_ip)
    }) && field(destination_ports, not_destination_ports, |port| {
        *port == subject.destination_port
    })
}

fn field<T>(values: &[T], not_values: &[T], is: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&is)) && !not_values.iter().any(&is)
}

fn text_matches(pattern: &StringMatch, normal: fn(&str) -> &str, text: &str) -> bool {
    match pattern {
        StringMatch::Exact(exact) => text == normal(exact),
        StringMatch::Prefix(prefix) => text.starts_with(normal(prefix)),
        StringMatch::Suffix(suffix) => text.ends_with(normal(suffix)),
        StringMatch::Presence => !text.is_empty(),
    }
}

fn without_scheme(principal: &str) -> &str {
    principal.strip_prefix("spiffe://").unwrap_or(principal)
}

/// Ranges of IPv4-mapped addresses mean the IPv4 range.
fn canonical(net: &IpNet) -> Cow<'_, IpNet> {
    let IpNet::V6(v6) = net else {
        return Cow::Borrowed(net);
    };
    let v4 = v6
        .addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96));
    match v4.map(|(address, prefix)| Ipv4Net::new(address, prefix)) {
        Some(Ok(mapped)) => Cow::Owned(IpNet::V4(mapped)),
        Some(Err(_)) | None => Cow::Borrowed(net),
    }
}
