//! Hop 5: may this connection reach this workload? The one evaluator of node and waypoint.
//!
//! A pure function of the index and the connection; semantics are those of the contract
//! ("RBAC"). It fails closed: a policy that cannot be read, or that a workload names and nobody
//! has, denies. It opens nothing, logs nothing and asks nobody: its [`Permit`] is the proof the
//! next hop must hold.

#![warn(unused_results)]
#![warn(clippy::wildcard_enum_match_arm)]

mod evaluate;
mod matching;
mod verdict;

#[cfg(test)]
mod tests;

pub use evaluate::{evaluate, explain};
pub use matching::Connection;
pub use verdict::{
    Considered, Decision, Denial, DryRun, Explanation, Grounds, Outcome, Permit, Verdict,
};
