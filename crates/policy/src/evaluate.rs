//! The order of policies: DENY first, then ALLOW if there is any, and what cannot be read denies.

use std::sync::Arc;

use model::{Action, Authorization, Index, PolicyKey, Rules, Workload};

use crate::{
    Connection, Considered, Decision, Denial, DryRun, Explanation, Grounds, Outcome, Permit,
    Verdict,
    matching::{Subject, matching_rule},
};

/// Decides whether `connection` may reach `destination`.
pub fn evaluate(index: &Index, destination: &Workload, connection: &Connection<'_>) -> Verdict {
    let subject = Subject::new(connection);
    let policies = in_scope(index, destination);
    let decision = match decide(&policies, &subject) {
        Ok(grounds) => Decision::Permit(Permit::new(grounds)),
        Err(denial) => Decision::Denied(denial),
    };
    let dry_run = policies
        .iter()
        .filter_map(|(_, held)| held.filter(|policy| policy.dry_run))
        .map(|policy| DryRun {
            policy: policy.key.clone(),
            action: policy.action,
            outcome: outcome(policy, &subject),
        })
        .collect();
    Verdict { decision, dry_run }
}

/// Lists every policy that holds for `destination` with its outcome. Takes the same decision as
/// [`evaluate`], and permits nothing.
pub fn explain(index: &Index, destination: &Workload, connection: &Connection<'_>) -> Explanation {
    let subject = Subject::new(connection);
    let policies = in_scope(index, destination);
    let considered = policies
        .iter()
        .map(|(key, held)| Considered {
            policy: (*key).clone(),
            action: held.map(|policy| policy.action),
            scope: held.map(|policy| policy.scope),
            dry_run: held.is_some_and(|policy| policy.dry_run),
            outcome: held.map_or(Outcome::Missing, |policy| outcome(policy, &subject)),
        })
        .collect();
    Explanation {
        considered,
        result: decide(&policies, &subject),
    }
}

type InScope<'index> = Vec<(&'index PolicyKey, Option<&'index Authorization>)>;

/// A workload may name a policy that holds for it anyway: it counts once.
fn in_scope<'index>(index: &'index Index, destination: &'index Workload) -> InScope<'index> {
    let mut policies = InScope::new();
    for key in index.policies_for(destination) {
        if !policies.iter().any(|(known, _)| *known == key) {
            policies.push((key, index.policy(key).map(Arc::as_ref)));
        }
    }
    policies
}

fn decide(policies: &InScope<'_>, subject: &Subject<'_>) -> Result<Grounds, Denial> {
    let mut allowed = None;
    let mut considered = Vec::new();
    for (key, held) in policies {
        let policy = (*key).clone();
        let Some(body) = held else {
            return Err(Denial::MissingPolicy { policy });
        };
        if body.dry_run {
            continue;
        }
        let rules = match &body.rules {
            Rules::Valid(rules) => rules,
            Rules::Malformed(why) => {
                let why = why.clone();
                return Err(Denial::Malformed { policy, why });
            }
        };
        match body.action {
            Action::Deny => {
                if let Some(rule) = matching_rule(rules, subject) {
                    return Err(Denial::MatchedDeny { policy, rule });
                }
            }
            // An ALLOW never ends the search: a DENY may follow.
            Action::Allow => {
                if allowed.is_none() {
                    allowed = matching_rule(rules, subject).map(|rule| Grounds::AllowedBy {
                        policy: policy.clone(),
                        rule,
                    });
                }
                considered.push(policy);
            }
        }
    }
    match allowed {
        Some(grounds) => Ok(grounds),
        None if considered.is_empty() => Ok(Grounds::NoAllowPolicy),
        None => Err(Denial::NoAllowMatched { considered }),
    }
}

fn outcome(policy: &Authorization, subject: &Subject<'_>) -> Outcome {
    match &policy.rules {
        Rules::Malformed(why) => Outcome::Malformed { why: why.clone() },
        Rules::Valid(rules) => {
            matching_rule(rules, subject).map_or(Outcome::NoMatch, |rule| Outcome::Matched { rule })
        }
    }
}
