//! Finds the label set of a flow without rendering it: by what it is made of.
//!
//! Workloads are told apart by their place in memory, which an entry keeps from being reused by
//! holding them weakly. An entry goes when the index has let go of one of its workloads.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, Weak},
};

use model::{SpiffeId, Workload};

use super::{SHARDS, Series, lock};
use crate::{Flow, Peer, Reporter, ResponseFlag, Security, ServiceName, Who};

#[derive(PartialEq, Eq, Hash)]
struct Key {
    reporter: Reporter,
    flag: ResponseFlag,
    security: Security,
    source: (usize, Option<SpiffeId>),
    destination: (usize, Option<SpiffeId>),
    service: Option<ServiceName>,
}

struct Entry {
    series: Arc<Series>,
    workloads: [Weak<Workload>; 2],
}

impl Entry {
    /// A weak pointer that never pointed anywhere belongs to an end without a workload.
    fn is_current(&self) -> bool {
        let gone = |held: &Weak<Workload>| held.strong_count() == 0 && !held.ptr_eq(&Weak::new());
        !self.workloads.iter().any(gone)
    }
}

#[derive(Default)]
pub(super) struct Cache {
    hasher: RandomState,
    shards: [Mutex<HashMap<Key, Entry>>; SHARDS],
}

impl Cache {
    /// The series of a flow, or the one that `make` gives.
    pub(super) fn find_or(
        &self,
        flow: &Flow,
        flag: ResponseFlag,
        make: impl FnOnce() -> Arc<Series>,
    ) -> Arc<Series> {
        let (Some(source), Some(destination)) = (place(&flow.source), place(&flow.destination))
        else {
            return make();
        };
        let key = Key {
            reporter: flow.reporter,
            flag,
            security: flow.security,
            source: (source, flow.source.identity.clone()),
            destination: (destination, flow.destination.identity.clone()),
            service: flow.service.clone(),
        };
        let shard = usize::try_from(self.hasher.hash_one(&key) % SHARDS as u64)
            .expect("a shard's number is small");
        let mut shard = lock(&self.shards[shard]);
        if let Some(entry) = shard.get(&key) {
            return entry.series.clone();
        }
        let series = make();
        let workloads = [hold(&flow.source), hold(&flow.destination)];
        shard.insert(
            key,
            Entry {
                series: series.clone(),
                workloads,
            },
        );
        series
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub(super) fn sweep(&self) {
        for shard in &self.shards {
            lock(shard).retain(|_, entry| entry.is_current());
        }
    }
}

/// What tells one end from another; nothing for an end that describes itself, because it may say
/// something else every time.
fn place(peer: &Peer) -> Option<usize> {
    match &peer.who {
        Who::Workload(workload) => Some(Arc::as_ptr(workload).addr()),
        Who::Unknown => Some(0),
        Who::Claimed(_) => None,
    }
}

fn hold(peer: &Peer) -> Weak<Workload> {
    match &peer.who {
        Who::Workload(workload) => Arc::downgrade(workload),
        Who::Unknown | Who::Claimed(_) => Weak::new(),
    }
}
