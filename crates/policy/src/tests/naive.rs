//! A second evaluator, written from the text of the contract alone.
//!
//! It is slow and plain on purpose: everything becomes text, each field a list of questions, and
//! the order of policies is four passes instead of one.

use model::{Action, Authorization, Match, Rules, StringMatch};

use crate::Connection;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Permitted,
    Denied,
}

/// One question: the answers that would do, and whether doing is wanted.
struct Question {
    any_of: Vec<bool>,
    wanted: bool,
}

impl Question {
    fn holds(&self) -> bool {
        if self.any_of.is_empty() {
            return true;
        }
        self.any_of.contains(&true) == self.wanted
    }
}

pub(super) fn evaluate(policies: &[Authorization], asked: &Connection<'_>) -> Answer {
    let enforced: Vec<&Authorization> = policies.iter().filter(|held| !held.dry_run).collect();
    let of = |action| enforced.iter().filter(move |held| held.action == action);
    let unreadable = enforced
        .iter()
        .any(|held| matches!(held.rules, Rules::Malformed(_)));
    if unreadable {
        return Answer::Denied;
    }
    if of(Action::Deny).any(|held| policy_matches(held, asked)) {
        return Answer::Denied;
    }
    if of(Action::Allow).count() == 0 {
        return Answer::Permitted;
    }
    if of(Action::Allow).any(|held| policy_matches(held, asked)) {
        return Answer::Permitted;
    }
    Answer::Denied
}

fn policy_matches(policy: &Authorization, asked: &Connection<'_>) -> bool {
    let Rules::Valid(rules) = &policy.rules else {
        return false;
    };
    for rule in rules {
        let mut failed_clauses = 0;
        for clause in &rule.clauses {
            let mut said_yes = 0;
            for held in &clause.matches {
                let questions = questions(held, asked);
                let constrains = questions.iter().any(|one| !one.any_of.is_empty());
                if constrains && questions.iter().all(Question::holds) {
                    said_yes += 1;
                }
            }
            if said_yes == 0 && !clause.matches.is_empty() {
                failed_clauses += 1;
            }
        }
        if failed_clauses == 0 {
            return true;
        }
    }
    false
}

fn questions(held: &Match, asked: &Connection<'_>) -> Vec<Question> {
    let identity = asked.source.map(ToString::to_string);
    let parts: Vec<&str> = identity.as_deref().unwrap_or("").split('/').collect();
    let namespace = *parts.get(4).unwrap_or(&"");
    let account = parts.get(6).map(|name| format!("{namespace}/{name}"));

    let by_namespace = |patterns: &[StringMatch]| -> Vec<bool> {
        patterns
            .iter()
            .map(|one| like(one, "", namespace))
            .collect()
    };
    let by_principal = |patterns: &[StringMatch]| -> Vec<bool> {
        let like_identity = |one| match &identity {
            Some(text) => like(one, "spiffe://", &text.replace("spiffe://", "")),
            None => false,
        };
        patterns.iter().map(like_identity).collect()
    };
    let by_account = |wanted: &[model::ServiceAccountMatch]| -> Vec<bool> {
        let name = |one: &model::ServiceAccountMatch| {
            Some(format!("{}/{}", one.namespace, one.service_account))
        };
        wanted.iter().map(|one| name(one) == account).collect()
    };
    let by_address = |ranges: &[ipnet::IpNet], ip: std::net::IpAddr| -> Vec<bool> {
        ranges
            .iter()
            .map(|range| range.contains(&ipnet::IpNet::from(ip)))
            .collect()
    };
    let by_port = |ports: &[u16]| -> Vec<bool> {
        ports
            .iter()
            .map(|port| port.to_string() == asked.destination_port.to_string())
            .collect()
    };
    let yes = |any_of| Question {
        any_of,
        wanted: true,
    };
    let no = |any_of| Question {
        any_of,
        wanted: false,
    };
    vec![
        yes(by_namespace(&held.namespaces)),
        no(by_namespace(&held.not_namespaces)),
        yes(by_account(&held.service_accounts)),
        no(by_account(&held.not_service_accounts)),
        yes(by_principal(&held.principals)),
        no(by_principal(&held.not_principals)),
        yes(by_address(&held.source_ips, asked.source_ip)),
        no(by_address(&held.not_source_ips, asked.source_ip)),
        yes(by_address(&held.destination_ips, asked.destination_ip)),
        no(by_address(&held.not_destination_ips, asked.destination_ip)),
        yes(by_port(&held.destination_ports)),
        no(by_port(&held.not_destination_ports)),
    ]
}

fn like(pattern: &StringMatch, dropped: &str, text: &str) -> bool {
    let cut = |pattern: &str| pattern.replacen(dropped, "", 1);
    match pattern {
        StringMatch::Exact(whole) => cut(whole) == text,
        StringMatch::Prefix(start) => text.find(&cut(start)) == Some(0),
        StringMatch::Suffix(end) => {
            let end = cut(end);
            text.len() >= end.len() && text[text.len() - end.len()..] == *end
        }
        StringMatch::Presence => !text.is_empty(),
    }
}
