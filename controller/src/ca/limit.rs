//! How often a node may ask for certificates: a token bucket per node. Pure; time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::token::NodeName;

/// A node that starts asks for all its identities at once.
const BURST: u32 = 500;
/// One request is earned in this time.
const REFILL: Duration = Duration::from_millis(20);

/// The bucket is empty.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} asks for certificates too fast: one more is signed in {retry_after:?}")]
pub(crate) struct TooFast {
    node: NodeName,
    retry_after: Duration,
}

#[derive(Debug)]
struct Bucket {
    filled: f64,
    at: Instant,
}

/// The buckets of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Limits(HashMap<NodeName, Bucket>);

impl Limits {
    /// Takes one request out of a node's bucket.
    pub(crate) fn take(&mut self, node: &NodeName, now: Instant) -> Result<(), TooFast> {
        let bucket = self.0.entry(node.clone()).or_insert(Bucket {
            filled: f64::from(BURST),
            at: now,
        });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        bucket.filled = (bucket.filled + earned).min(f64::from(BURST));
        bucket.at = now;
        if bucket.filled < 1.0 {
            return Err(TooFast {
                node: node.clone(),
                retry_after: REFILL.mul_f64(1.0 - bucket.filled),
            });
        }
        bucket.filled -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_node_is_slowed_down_and_others_are_not() {
        let (noisy, quiet) = (NodeName::for_test("noisy"), NodeName::for_test("quiet"));
        let mut limits = Limits::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limits.take(&noisy, now), Ok(()));
        }
        assert!(limits.take(&noisy, now).is_err());
        assert_eq!(limits.take(&quiet, now), Ok(()));
        assert_eq!(limits.take(&noisy, now + REFILL), Ok(()));
        assert!(limits.take(&noisy, now + REFILL).is_err());
    }
}
