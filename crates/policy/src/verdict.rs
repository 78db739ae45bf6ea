//! What the evaluator answers, in types that explain themselves.
//!
//! Holds no logic of its own: [`Permit`] can only be made inside this crate, and only
//! `evaluate` makes one.

use std::{fmt, sync::Arc};

use model::{Action, PolicyKey, Scope};

/// The answer for one connection.
#[derive(Debug)]
#[must_use = "a verdict that is not acted upon is a hole in the policy"]
pub struct Verdict {
    pub decision: Decision,
    /// What the dry-run policies in scope would have said; never part of the decision.
    pub dry_run: Vec<DryRun>,
}

/// Whether the connection may go on.
#[derive(Debug)]
#[must_use = "a decision that is not acted upon is a hole in the policy"]
pub enum Decision {
    Permit(Permit),
    Denied(Denial),
}

/// The proof that policy lets a connection through. Not `Clone`: one proof, one connection.
#[derive(Debug)]
pub struct Permit {
    grounds: Grounds,
}

impl Permit {
    pub(crate) fn new(grounds: Grounds) -> Self {
        Self { grounds }
    }

    /// Why the connection is let through.
    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }
}

/// Why a connection is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grounds {
    /// No DENY policy matched and no ALLOW policy holds for the workload.
    NoAllowPolicy,
    /// This rule of this ALLOW policy matched.
    AllowedBy { policy: PolicyKey, rule: usize },
}

impl fmt::Display for Grounds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllowPolicy => out.write_str("no ALLOW policy holds for the workload"),
            Self::AllowedBy { policy, rule } => write!(out, "policy {policy}, rule {rule}: allows"),
        }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    #[error("policy {policy}, rule {rule}: denies")]
    MatchedDeny { policy: PolicyKey, rule: usize },
    #[error("no rule of the ALLOW policies matched: {}", Listed(considered))]
    NoAllowMatched { considered: Vec<PolicyKey> },
    #[error("policy {policy} cannot be read and therefore denies ({why}): correct or remove it")]
    Malformed { policy: PolicyKey, why: Arc<str> },
    #[error("policy {policy} holds for the workload but was not received, and therefore denies")]
    MissingPolicy { policy: PolicyKey },
}

impl Denial {
    /// The policy to blame; none when it is the lack of a match among several.
    pub fn policy(&self) -> Option<&PolicyKey> {
        match self {
            Self::MatchedDeny { policy, .. }
            | Self::Malformed { policy, .. }
            | Self::MissingPolicy { policy } => Some(policy),
            Self::NoAllowMatched { considered } => match &considered[..] {
                [only] => Some(only),
                _ => None,
            },
        }
    }
}

struct Listed<'a>(&'a [PolicyKey]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, key) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(out, "{comma}{key}")?;
        }
        Ok(())
    }
}

/// What one policy says about one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This rule matched; the first that does is told.
    Matched {
        rule: usize,
    },
    NoMatch,
    Malformed {
        why: Arc<str>,
    },
    /// The workload names it, the index does not have it.
    Missing,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched { rule } => write!(out, "rule {rule} matches"),
            Self::NoMatch => out.write_str("no rule matches"),
            Self::Malformed { why } => write!(out, "cannot be read: {why}"),
            Self::Missing => out.write_str("not received"),
        }
    }
}

/// What a dry-run policy would have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    pub policy: PolicyKey,
    pub action: Action,
    pub outcome: Outcome,
}

impl fmt::Display for DryRun {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            action,
            outcome,
        } = self;
        let action = word(*action);
        write!(out, "policy {policy} (dry run, {action}): {outcome}")
    }
}

/// One policy that was looked at, for a person who asks why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    pub policy: PolicyKey,
    /// Unknown when the policy is missing.
    pub action: Option<Action>,
    pub scope: Option<Scope>,
    pub dry_run: bool,
    pub outcome: Outcome,
}

/// Every policy in scope with its outcome, and what follows. Grants nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub considered: Vec<Considered>,
    pub result: Result<Grounds, Denial>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for held in &self.considered {
            let action = held.action.map_or("unknown action", word);
            let mode = if held.dry_run { ", dry run" } else { "" };
            writeln!(out, "{} ({action}{mode}): {}", held.policy, held.outcome)?;
        }
        match &self.result {
            Ok(grounds) => write!(out, "permitted: {grounds}"),
            Err(denial) => write!(out, "denied: {denial}"),
        }
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    }
}
