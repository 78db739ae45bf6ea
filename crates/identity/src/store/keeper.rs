//! The task behind the store: a state machine over identities.
//!
//! Each identity is idle with a certificate, queued, in flight, or backing off. One attempt at
//! a time per identity, a bounded number in all, those a connection waits for first.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use model::{SpiffeId, chain};
use tokio::{
    select,
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{Config, Request, Snapshot, Status, Waiter};
use crate::{Clock, FetchError, Issuer, WorkloadCertificate, request, roots::Roots};

/// The wall clock may be set, and a suspended machine's monotonic clock stands still, so
/// renewals are looked at no less often than this.
const LONGEST_NAP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Holds a certificate, and waits until it is to be renewed.
    Idle,
    Queued,
    InFlight,
    BackingOff {
        until: Instant,
    },
}

struct Entry {
    phase: Phase,
    failures: u32,
    status: Status,
    waiters: Vec<Waiter>,
}

type Fetched = Result<WorkloadCertificate, FetchError>;

/// Fetches and renews the certificates of a [`super::Store`].
pub struct Keeper<I> {
    issuer: Arc<I>,
    config: Config,
    clock: Clock,
    snapshot: Arc<ArcSwap<Snapshot>>,
    requests: mpsc::UnboundedReceiver<Request>,
    entries: HashMap<SpiffeId, Entry>,
    demanded: VecDeque<SpiffeId>,
    background: VecDeque<SpiffeId>,
    attempts: JoinSet<Fetched>,
    in_flight: HashMap<Id, SpiffeId>,
    /// The newest bundle seen, by which all certificates judge their peers.
    roots: Option<Roots>,
}

impl<I: Issuer> Keeper<I> {
    pub(super) fn new(
        issuer: I,
        config: Config,
        clock: Clock,
        snapshot: Arc<ArcSwap<Snapshot>>,
        requests: mpsc::UnboundedReceiver<Request>,
    ) -> Self {
        Self {
            issuer: Arc::new(issuer),
            config,
            clock,
            snapshot,
            requests,
            entries: HashMap::new(),
            demanded: VecDeque::new(),
            background: VecDeque::new(),
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            roots: None,
        }
    }

    /// Serves until every store handle is gone. Dropping it ends all attempts.
    pub async fn run(mut self) {
        loop {
            self.queue_due();
            self.launch();
            let wake = self.next_wake();
            select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return,
                },
                Some(done) = self.attempts.join_next_with_id() => self.land(done),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Prefetch(id) => {
                self.entry(id);
            }
            Request::Forget(id) => {
                self.entries.remove(&id);
                self.publish(&id);
            }
            Request::Demand { id, waiter } => self.demand(id, waiter),
        }
    }

    fn demand(&mut self, id: SpiffeId, waiter: Waiter) {
        let entry = self.entry(id.clone());
        let held = entry.status.certificate.as_ref();
        if let Some(valid) = held.filter(|certificate| certificate.is_valid()) {
            // A fetch was done between the caller's look and its demand. A caller that left
            // meanwhile needs no answer.
            drop(waiter.answer.send(Ok(valid.clone())));
            return;
        }
        entry.waiters.push(waiter);
        match entry.phase {
            // In both queues, it is fetched once: the phase tells the second that it is done.
            Phase::Idle | Phase::Queued => {
                entry.phase = Phase::Queued;
                self.demanded.push_back(id);
            }
            Phase::BackingOff { until } => entry.answer_hopeless(until),
            Phase::InFlight => {}
        }
    }

    fn entry(&mut self, id: SpiffeId) -> &mut Entry {
        let in_flight = self.in_flight.values().any(|flying| *flying == id);
        self.entries.entry(id.clone()).or_insert_with(|| {
            let phase = if in_flight {
                Phase::InFlight
            } else {
                self.background.push_back(id);
                Phase::Queued
            };
            Entry {
                phase,
                failures: 0,
                status: Status::default(),
                waiters: Vec::new(),
            }
        })
    }

    fn queue_due(&mut self) {
        for (id, entry) in &mut self.entries {
            let left = entry.time_left(&self.clock);
            if left.is_some_and(|left| left.is_zero()) {
                entry.phase = Phase::Queued;
                self.background.push_back(id.clone());
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let nearest = self
            .entries
            .values()
            .filter_map(|entry| entry.time_left(&self.clock))
            .min();
        Instant::now() + nearest.unwrap_or(LONGEST_NAP).min(LONGEST_NAP)
    }

    fn launch(&mut self) {
        while self.attempts.len() < self.config.concurrency {
            let next = self.demanded.pop_front();
            let Some(id) = next.or_else(|| self.background.pop_front()) else {
                return;
            };
            // It may have been forgotten or fetched since it was queued.
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            if entry.phase != Phase::Queued {
                continue;
            }
            entry.phase = Phase::InFlight;
            let attempt = fetch(
                self.issuer.clone(),
                id.clone(),
                self.clock.clone(),
                self.config.attempt_deadline,
            );
            let task = self.attempts.spawn(attempt);
            self.in_flight.insert(task.id(), id);
        }
    }

    fn land(&mut self, done: Result<(Id, Fetched), JoinError>) {
        let (task, fetched) = match done {
            Ok(landed) => landed,
            Err(lost) => (lost.id(), Err(FetchError::Lost)),
        };
        let Some(id) = self.in_flight.remove(&task) else {
            return;
        };
        if !self.entries.contains_key(&id) {
            return;
        }
        match fetched {
            Ok(certificate) => self.hold(&id, certificate),
            Err(error) => self.back_off(&id, error),
        }
        self.publish(&id);
    }

    fn hold(&mut self, id: &SpiffeId, certificate: WorkloadCertificate) {
        tracing::debug!(%id, serial = certificate.info().serial, "certificate issued");
        self.trust(certificate.roots().clone());
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let certificate = Arc::new(certificate);
        entry.phase = Phase::Idle;
        entry.failures = 0;
        entry.status = Status {
            certificate: Some(certificate.clone()),
            error: None,
        };
        for waiter in mem::take(&mut entry.waiters) {
            // A caller that left meanwhile needs no answer.
            drop(waiter.answer.send(Ok(certificate.clone())));
        }
    }

    fn back_off(&mut self, id: &SpiffeId, error: FetchError) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let (first, longest) = self.config.backoff;
        let doubled = first.saturating_mul(1_u32.checked_shl(entry.failures).unwrap_or(u32::MAX));
        let pause = doubled.min(longest);
        entry.failures = entry.failures.saturating_add(1);
        tracing::warn!(%id, error = chain(&error), retry_in = ?pause, "no certificate");
        let until = Instant::now() + pause;
        entry.phase = Phase::BackingOff { until };
        entry.status.error = Some(Arc::new(error));
        entry.answer_hopeless(until);
    }

    /// Makes every certificate judge its peers by the newest bundle. One that would not be
    /// accepted under it any more is renewed at once, and serves as it is until then.
    fn trust(&mut self, roots: Roots) {
        if self
            .roots
            .as_ref()
            .is_some_and(|known| known.same_as(&roots))
        {
            return;
        }
        let mut changed = Vec::new();
        for (id, entry) in &mut self.entries {
            let Some(held) = entry.status.certificate.as_ref() else {
                continue;
            };
            match held.with_roots(&roots) {
                Ok(rebuilt) => {
                    entry.status.certificate = Some(Arc::new(rebuilt));
                    changed.push(id.clone());
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "certificate does not fit the new roots");
                    if entry.phase == Phase::Idle {
                        entry.phase = Phase::Queued;
                        self.background.push_back(id.clone());
                    }
                }
            }
        }
        self.roots = Some(roots);
        for id in changed {
            self.publish(&id);
        }
    }

    fn publish(&self, id: &SpiffeId) {
        let mut next = Snapshot::clone(&self.snapshot.load());
        match self.entries.get(id) {
            Some(entry) => next.insert(id.clone(), entry.status.clone()),
            None => next.remove(id),
        };
        self.snapshot.store(Arc::new(next));
    }
}

impl Entry {
    /// Time until an attempt is due; none while one is queued or in flight.
    fn time_left(&self, clock: &Clock) -> Option<Duration> {
        match self.phase {
            Phase::Queued | Phase::InFlight => None,
            Phase::BackingOff { until } => Some(until.duration_since(Instant::now())),
            Phase::Idle => {
                let held = self.status.certificate.as_ref()?;
                let left = held.renew_at().duration_since(clock.now());
                Some(left.unwrap_or_default())
            }
        }
    }

    /// Tells those whose deadline comes before the next attempt; the others wait for it.
    fn answer_hopeless(&mut self, next_attempt: Instant) {
        let Some(error) = &self.status.error else {
            return;
        };
        for waiter in mem::take(&mut self.waiters) {
            if waiter.deadline > next_attempt {
                self.waiters.push(waiter);
            } else {
                // A caller that left meanwhile needs no answer.
                drop(waiter.answer.send(Err(error.clone())));
            }
        }
    }
}

async fn fetch<I: Issuer>(
    issuer: Arc<I>,
    id: SpiffeId,
    clock: Clock,
    deadline: Duration,
) -> Fetched {
    let request = request::Request::new(&id).map_err(FetchError::Request)?;
    let issued = timeout(deadline, issuer.issue(request.csr_pem, &id))
        .await
        .map_err(|_| FetchError::Deadline(deadline))??;
    Ok(WorkloadCertificate::from_issued(
        request.key,
        &id,
        &issued,
        &clock,
    )?)
}
