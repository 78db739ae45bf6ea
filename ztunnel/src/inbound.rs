//! Hops 5 and 6: a connection to a pod.

pub(crate) mod authorize;
pub(crate) mod connections;
pub(crate) mod dial;
pub(crate) mod hbone;
pub(crate) mod plaintext;

use policy::Denial;
use telemetry::Outcome;
use tokio::sync::oneshot;

use crate::record;

/// Lets a connection run until it ends, or until a changed policy denies it: then it is dropped,
/// which resets both sides.
pub(crate) async fn until_denied<End>(
    connection: impl Future<Output = End>,
    denied: &mut oneshot::Receiver<Denial>,
    outcome: impl FnOnce(End) -> Outcome,
) -> Outcome {
    tokio::select! {
        biased;
        Ok(denial) = denied => record::cut(&denial),
        end = connection => outcome(end),
    }
}
