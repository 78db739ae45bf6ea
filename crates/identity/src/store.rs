//! One fresh certificate for every identity of the node.
//!
//! Readers take a snapshot and never wait for one another. One task, the [`Keeper`], fetches
//! and renews; it is the only writer. An expired certificate is never handed out, and one that
//! is still valid is kept while its renewal fails.

mod keeper;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use model::SpiffeId;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

pub use self::keeper::Keeper;
use crate::{Clock, FetchError, Issuer, WorkloadCertificate};

/// How certificates are fetched. The defaults are the contract's.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a connection waits for its first certificate.
    pub demand_deadline: Duration,
    /// How long one attempt may take.
    pub attempt_deadline: Duration,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Between attempts for one identity: from the first, doubling, up to the second.
    pub backoff: (Duration, Duration),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            demand_deadline: Duration::from_secs(5),
            attempt_deadline: Duration::from_secs(10),
            concurrency: 8,
            backoff: (Duration::from_secs(1), Duration::from_secs(150)),
        }
    }
}

/// Why there is no certificate to use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    #[error("no certificate for {id} could be had")]
    Unavailable {
        id: SpiffeId,
        #[source]
        source: Arc<FetchError>,
    },
    #[error("no certificate for {id} came within {waited:?}")]
    Deadline { id: SpiffeId, waited: Duration },
    #[error("the certificate is no longer kept: its last pod left, or the daemon is stopping")]
    Stopped,
}

/// What is known of one identity, for a dump.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    pub id: SpiffeId,
    /// The certificate held, valid or not.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    /// Why the last attempt failed, if it did.
    pub error: Option<Arc<FetchError>>,
}

#[derive(Debug, Clone, Default)]
struct Status {
    certificate: Option<Arc<WorkloadCertificate>>,
    error: Option<Arc<FetchError>>,
}

type Snapshot = imbl::HashMap<SpiffeId, Status>;

enum Request {
    Demand { id: SpiffeId, waiter: Waiter },
    Prefetch(SpiffeId),
    Forget(SpiffeId),
}

struct Waiter {
    deadline: Instant,
    answer: oneshot::Sender<Result<Arc<WorkloadCertificate>, Arc<FetchError>>>,
}

/// A handle to the certificates. Cheap to clone; the keeper ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Unbounded, so that prefetch and forget need not wait: the daemon's connection budgets
    /// bound the demands, and its pods the rest.
    requests: mpsc::UnboundedSender<Request>,
    demand_deadline: Duration,
}

impl Store {
    /// A store, and the keeper whose `run` the daemon must own.
    pub fn new<I: Issuer>(issuer: I, config: Config, clock: Clock) -> (Self, Keeper<I>) {
        let (requests, incoming) = mpsc::unbounded_channel();
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let store = Self {
            snapshot: snapshot.clone(),
            requests,
            demand_deadline: config.demand_deadline,
        };
        (
            store,
            Keeper::new(issuer, config, clock, snapshot, incoming),
        )
    }

    /// The certificate of `id`: at once if there is one, else fetched within the deadline. From
    /// then on it is renewed until it is forgotten.
    pub async fn certificate(
        &self,
        id: &SpiffeId,
    ) -> Result<Arc<WorkloadCertificate>, IdentityError> {
        if let Some(held) = self.current(id) {
            return Ok(held);
        }
        let deadline = Instant::now() + self.demand_deadline;
        let (answer, fetched) = oneshot::channel();
        let demand = Request::Demand {
            id: id.clone(),
            waiter: Waiter { deadline, answer },
        };
        self.requests
            .send(demand)
            .map_err(|_| IdentityError::Stopped)?;
        match timeout_at(deadline, fetched).await {
            Ok(Ok(Ok(certificate))) => Ok(certificate),
            Ok(Ok(Err(source))) => Err(IdentityError::Unavailable {
                id: id.clone(),
                source,
            }),
            Ok(Err(_)) => Err(IdentityError::Stopped),
            Err(_) => Err(self.late(id)),
        }
    }

    /// The failure that kept the answer from coming, if there was one.
    fn late(&self, id: &SpiffeId) -> IdentityError {
        let id = id.clone();
        let error = self
            .snapshot
            .load()
            .get(&id)
            .and_then(|held| held.error.clone());
        match error {
            Some(source) => IdentityError::Unavailable { id, source },
            None => IdentityError::Deadline {
                id,
                waited: self.demand_deadline,
            },
        }
    }

    /// The valid certificate held for `id`, if any.
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<WorkloadCertificate>> {
        let snapshot = self.snapshot.load();
        let held = snapshot.get(id)?.certificate.as_ref()?;
        held.is_valid().then(|| held.clone())
    }

    /// Fetches the certificate of `id` in the background, and renews it until it is forgotten.
    pub fn prefetch(&self, id: &SpiffeId) {
        self.send(Request::Prefetch(id.clone()));
    }

    /// Drops the certificate of `id` and its key, and ends its renewal. For the last pod of the
    /// identity only: the store does not count.
    pub fn forget(&self, id: &SpiffeId) {
        self.send(Request::Forget(id.clone()));
    }

    fn send(&self, request: Request) {
        // Only a keeper that has ended does not hear it, and then nothing is kept or renewed.
        drop(self.requests.send(request));
    }

    /// Every identity and what is known of it, sorted.
    pub fn snapshot(&self) -> Vec<CertificateStatus> {
        let snapshot = self.snapshot.load();
        let mut all: Vec<_> = snapshot
            .iter()
            .map(|(id, status)| CertificateStatus {
                id: id.clone(),
                certificate: status.certificate.clone(),
                error: status.error.clone(),
            })
            .collect();
        all.sort_by(|one, two| one.id.cmp(&two.id));
        all
    }
}
