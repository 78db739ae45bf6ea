//! Policies. One that cannot be read whole is never read in part: dropping the unreadable half
//! of an ALLOW would widen it, and of a DENY would silence it.

use std::sync::Arc;

use model::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Rules, Scope, ServiceAccountMatch,
    StringMatch,
};
use prost::Message as _;
use prost_types::Any;

use super::{
    FieldError, Problem,
    fields::{each, ip_bytes, known, range, required},
};
use crate::proto::{ambit, security as wire, workload::Extension};

/// The extension by which our controller says that a policy's source could not be read.
const MALFORMED: &str = "ambit.malformed";

impl TryFrom<&wire::Authorization> for Authorization {
    type Error = FieldError;

    fn try_from(message: &wire::Authorization) -> Result<Self, FieldError> {
        let rules = match malformed_reason(message) {
            Some(reason) => Rules::Malformed(reason),
            None => Rules::Valid(each("rules", &message.rules, rule)?),
        };
        Ok(Self {
            key: PolicyKey {
                namespace: message.namespace.as_str().into(),
                name: required("name", &message.name)?,
            },
            scope: scope(known("scope", message.scope)?),
            action: match known("action", message.action)? {
                wire::Action::Allow => Action::Allow,
                wire::Action::Deny => Action::Deny,
            },
            dry_run: message.dry_run,
            rules,
        })
    }
}

fn scope(value: wire::Scope) -> Scope {
    match value {
        wire::Scope::Global => Scope::Global,
        wire::Scope::Namespace => Scope::Namespace,
        wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
    }
}

fn malformed_reason(message: &wire::Authorization) -> Option<Arc<str>> {
    let extension = message
        .extensions
        .iter()
        .find(|extension| extension.name == MALFORMED)?;
    let reason = extension
        .config
        .as_ref()
        .and_then(|config| ambit::MalformedPolicy::decode(config.value.as_slice()).ok())
        .map_or_else(|| "no reason given".to_owned(), |config| config.reason);
    Some(reason.into())
}

/// The policy that stands in for one which cannot be read: it keeps its name and, where that much
/// could be read, its scope, and denies.
pub(super) fn unreadable(
    name: &str,
    message: Option<&wire::Authorization>,
    reason: &str,
) -> Authorization {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let (namespace, name) = match message {
        Some(message) if !message.name.is_empty() => {
            (message.namespace.as_str(), message.name.as_str())
        }
        Some(_) | None => (namespace, name),
    };
    Authorization {
        key: PolicyKey {
            namespace: namespace.into(),
            name: name.into(),
        },
        scope: message
            .and_then(|message| wire::Scope::try_from(message.scope).ok())
            .map_or(Scope::Global, scope),
        action: Action::Deny,
        dry_run: message.is_some_and(|message| message.dry_run),
        rules: Rules::Malformed(reason.into()),
    }
}

fn rule(message: &wire::Rule) -> Result<Rule, FieldError> {
    let clauses = each("clauses", &message.clauses, clause)?;
    Ok(Rule { clauses })
}

fn clause(message: &wire::Clause) -> Result<Clause, FieldError> {
    let matches = each("matches", &message.matches, conditions)?;
    Ok(Clause { matches })
}

fn conditions(message: &wire::Match) -> Result<Match, FieldError> {
    let texts = |field, values: &[wire::StringMatch]| each(field, values, string_match);
    let ranges = |field, values: &[wire::Address]| {
        each(field, values, |value| range(&value.address, value.length))
    };
    let ports = |field, values: &[u32]| {
        each(field, values, |value| {
            u16::try_from(*value).map_err(|_| Problem::Port(*value).at(""))
        })
    };
    Ok(Match {
        namespaces: texts("namespaces", &message.namespaces)?,
        not_namespaces: texts("not_namespaces", &message.not_namespaces)?,
        service_accounts: message
            .service_accounts
            .iter()
            .map(service_account)
            .collect(),
        not_service_accounts: message
            .not_service_accounts
            .iter()
            .map(service_account)
            .collect(),
        principals: texts("principals", &message.principals)?,
        not_principals: texts("not_principals", &message.not_principals)?,
        source_ips: ranges("source_ips", &message.source_ips)?,
        not_source_ips: ranges("not_source_ips", &message.not_source_ips)?,
        destination_ips: ranges("destination_ips", &message.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &message.not_destination_ips)?,
        destination_ports: ports("destination_ports", &message.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &message.not_destination_ports)?,
    })
}

fn service_account(message: &wire::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: message.namespace.as_str().into(),
        service_account: message.service_account.as_str().into(),
    }
}

fn string_match(message: &wire::StringMatch) -> Result<StringMatch, FieldError> {
    use wire::string_match::MatchType;
    match &message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.as_str().into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.as_str().into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.as_str().into())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => Err(Problem::Missing.at("match_type")),
    }
}

impl From<&Authorization> for wire::Authorization {
    fn from(policy: &Authorization) -> Self {
        let action = match policy.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        };
        let (action, rules, extensions) = match &policy.rules {
            Rules::Valid(rules) => (action, rules.iter().map(rule_message).collect(), Vec::new()),
            // A rule without clauses matches everything.
            Rules::Malformed(reason) => (
                wire::Action::Deny,
                vec![wire::Rule::default()],
                vec![malformed_extension(reason)],
            ),
        };
        Self {
            name: policy.key.name.to_string(),
            namespace: policy.key.namespace.to_string(),
            scope: match policy.scope {
                Scope::Global => wire::Scope::Global,
                Scope::Namespace => wire::Scope::Namespace,
                Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
            }
            .into(),
            action: action.into(),
            rules,
            dry_run: policy.dry_run,
            extensions,
        }
    }
}

fn malformed_extension(reason: &str) -> Extension {
    let config = ambit::MalformedPolicy {
        reason: reason.to_owned(),
    };
    Extension {
        name: MALFORMED.to_owned(),
        config: Some(Any {
            type_url: "type.googleapis.com/ambit.xds.MalformedPolicy".to_owned(),
            value: config.encode_to_vec(),
        }),
    }
}

fn rule_message(rule: &Rule) -> wire::Rule {
    let clause_message = |clause: &Clause| wire::Clause {
        matches: clause.matches.iter().map(match_message).collect(),
    };
    wire::Rule {
        clauses: rule.clauses.iter().map(clause_message).collect(),
    }
}

fn match_message(conditions: &Match) -> wire::Match {
    let texts = |values: &[StringMatch]| values.iter().map(string_message).collect();
    let accounts = |values: &[ServiceAccountMatch]| {
        values
            .iter()
            .map(|account| wire::ServiceAccountMatch {
                namespace: account.namespace.to_string(),
                service_account: account.service_account.to_string(),
            })
            .collect()
    };
    let ranges = |values: &[ipnet::IpNet]| {
        values
            .iter()
            .map(|range| wire::Address {
                address: ip_bytes(range.addr()),
                length: range.prefix_len().into(),
            })
            .collect()
    };
    let ports = |values: &[u16]| values.iter().copied().map(u32::from).collect();
    wire::Match {
        namespaces: texts(&conditions.namespaces),
        not_namespaces: texts(&conditions.not_namespaces),
        principals: texts(&conditions.principals),
        not_principals: texts(&conditions.not_principals),
        source_ips: ranges(&conditions.source_ips),
        not_source_ips: ranges(&conditions.not_source_ips),
        destination_ips: ranges(&conditions.destination_ips),
        not_destination_ips: ranges(&conditions.not_destination_ips),
        destination_ports: ports(&conditions.destination_ports),
        not_destination_ports: ports(&conditions.not_destination_ports),
        service_accounts: accounts(&conditions.service_accounts),
        not_service_accounts: accounts(&conditions.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn string_message(text: &StringMatch) -> wire::StringMatch {
    use wire::string_match::MatchType;
    wire::StringMatch {
        match_type: Some(match text {
            StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
            StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
            StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
            StringMatch::Presence => MatchType::Presence(()),
        }),
    }
}
