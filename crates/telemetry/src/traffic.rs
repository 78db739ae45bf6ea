//! Counters of connections and bytes by label set, and the open connections that feed them.
//!
//! A label set is rendered once and found again by what it was made of, workloads by their place
//! in memory. Sets go some time after the last workload and connection that had them.

mod cache;
mod exposition;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cache::Cache;

use crate::{Flow, Peer, Reporter, ResponseFlag, Who, labels};

/// How long a label set stays after its last use: long enough for several scrapes to see its
/// last values.
const GRACE: Duration = Duration::from_secs(300);

/// A daemon that nobody scrapes looks for what to drop after rendering this many label sets.
const SWEEP_EVERY: usize = 1024;

/// With this many label sets, what peers say of themselves no longer makes another: it is not
/// verified, and must not fill the memory.
const MOST_WITH_CLAIMS: usize = 10_000;

/// Locks that workers share; each thread keeps to one.
const SHARDS: usize = 16;

/// The payload of one connection, readable while it moves.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the client to the server. The metrics call it received, whoever reports it: Istio
    /// names bytes from the server's side of the request.
    pub to_destination: AtomicU64,
    /// From the server to the client; sent, in the metrics.
    pub to_source: AtomicU64,
}

impl Traffic {
    /// Bytes moved from the client to the server.
    pub fn to_destination(&self) -> u64 {
        self.to_destination.load(Ordering::Relaxed)
    }

    /// Bytes moved from the server to the client.
    pub fn to_source(&self) -> u64 {
        self.to_source.load(Ordering::Relaxed)
    }
}

/// The counters of one label set.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: Arc<str>,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) failed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds from the start of the daemon to the last use.
    used: AtomicU64,
}

impl Series {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// An open connection.
pub(crate) struct Tracked {
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) series: Arc<Series>,
    /// What the series has of the traffic already.
    folded: Traffic,
    shard: usize,
}

impl Tracked {
    fn fold(&self) {
        let folded = |now: u64, before: &AtomicU64, counter: &AtomicU64| {
            // A scrape and a close may fold at once: of the two, the larger value counts.
            let before = before.fetch_max(now, Ordering::Relaxed);
            Series::add(counter, now.saturating_sub(before));
        };
        let series = &self.series;
        folded(
            self.traffic.to_destination(),
            &self.folded.to_destination,
            &series.received,
        );
        folded(
            self.traffic.to_source(),
            &self.folded.to_source,
            &series.sent,
        );
    }
}

type Open = HashMap<usize, Arc<Tracked>>;

/// All label sets and all open connections.
pub(crate) struct Flows {
    started: Instant,
    cache: Cache,
    series: Mutex<BTreeMap<Arc<str>, Arc<Series>>>,
    /// Label sets rendered since the last sweep.
    rendered: AtomicUsize,
    open: [Mutex<Open>; SHARDS],
    sockets: [AtomicI64; 2],
}

impl Flows {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            cache: Cache::default(),
            series: Mutex::default(),
            rendered: AtomicUsize::new(0),
            open: std::array::from_fn(|_| Mutex::default()),
            sockets: Default::default(),
        }
    }

    /// The counters of a flow's label set.
    pub(crate) fn series(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        let found = self.cache.find_or(flow, flag, || self.render(flow, flag));
        found.used.store(self.now(), Ordering::Relaxed);
        if self.rendered.load(Ordering::Relaxed) >= SWEEP_EVERY {
            self.sweep(self.now());
        }
        found
    }

    fn render(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        let claims = |peer: &Peer| matches!(peer.who, Who::Claimed(_));
        let labels = labels::render(flow, flag);
        if !claims(&flow.source) && !claims(&flow.destination) {
            return self.intern(&labels);
        }
        let full = {
            let all = lock(&self.series);
            all.len() >= MOST_WITH_CLAIMS && !all.contains_key(&*labels)
        };
        if !full {
            return self.intern(&labels);
        }
        let mut unnamed = flow.clone();
        for peer in [&mut unnamed.source, &mut unnamed.destination] {
            if claims(peer) {
                peer.who = Who::Unknown;
            }
        }
        self.intern(&labels::render(&unnamed, flag))
    }

    fn intern(&self, labels: &str) -> Arc<Series> {
        self.rendered.fetch_add(1, Ordering::Relaxed);
        let mut all = lock(&self.series);
        if let Some(known) = all.get(labels) {
            return known.clone();
        }
        let labels: Arc<str> = labels.into();
        let series = Arc::new(Series::new(labels.clone()));
        series.used.store(self.now(), Ordering::Relaxed);
        all.insert(labels, series.clone());
        series
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Counts a connection in, and its bytes from now on.
    pub(crate) fn track(
        &self,
        reporter: Reporter,
        series: Arc<Series>,
        traffic: Arc<Traffic>,
    ) -> Arc<Tracked> {
        Series::add(&series.opened, 1);
        self.sockets[reporter as usize].fetch_add(1, Ordering::Relaxed);
        let shard = own_shard();
        let folded = Traffic::default();
        let tracked = Arc::new(Tracked {
            traffic,
            series,
            folded,
            shard,
        });
        lock(&self.open[shard]).insert(place(&tracked), tracked.clone());
        tracked
    }

    /// Takes the last of a connection's bytes.
    pub(crate) fn untrack(&self, reporter: Reporter, tracked: &Arc<Tracked>) {
        lock(&self.open[tracked.shard]).remove(&place(tracked));
        self.sockets[reporter as usize].fetch_sub(1, Ordering::Relaxed);
        tracked.fold();
        tracked.series.used.store(self.now(), Ordering::Relaxed);
    }

    /// Brings the counters up to date with the connections that are still open.
    fn fold(&self) {
        for shard in &self.open {
            lock(shard).values().for_each(|tracked| tracked.fold());
        }
    }

    /// Drops what was not used for [`GRACE`] before `now` and cannot be used again.
    fn sweep(&self, now: u64) {
        self.rendered.store(0, Ordering::Relaxed);
        self.cache.sweep();
        let grace = millis(GRACE);
        lock(&self.series).retain(|_, series| {
            let used = series.used.load(Ordering::Relaxed);
            Arc::strong_count(series) > 1 || now.saturating_sub(used) < grace
        });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a daemon does not run for 500 million years")
}

/// An open connection's key: it is in the map, so nothing else can be in its place.
fn place(tracked: &Arc<Tracked>) -> usize {
    Arc::as_ptr(tracked).addr()
}

/// The shard of the calling thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    OWN.with(Cell::get)
}

/// No code that holds these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
