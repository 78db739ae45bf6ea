//! What one pod may have open, so that a noisy pod hurts itself (promise 5).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The limits of a pod, shared by all its tickets.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    open: AtomicUsize,
    most_open: usize,
    pending: AtomicUsize,
    most_pending: usize,
}

/// The pod has used up what it may have at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    #[error("the pod has {0} connections open, its limit (--pod-connections)")]
    Open(usize),
    #[error("the pod has {0} connections in progress, its limit (--pod-handshakes)")]
    Pending(usize),
}

impl Budget {
    /// `open` counts connections for as long as they live, `pending` only until they carry data.
    pub(crate) fn new(open: usize, pending: usize) -> Self {
        Self(Arc::new(Limits {
            open: AtomicUsize::new(0),
            most_open: open,
            pending: AtomicUsize::new(0),
            most_pending: pending,
        }))
    }

    /// Admits one connection.
    pub(crate) fn admit(&self) -> Result<Ticket, OverBudget> {
        let limits = &self.0;
        take(&limits.open, limits.most_open).map_err(OverBudget::Open)?;
        if let Err(most) = take(&limits.pending, limits.most_pending) {
            limits.open.fetch_sub(1, Ordering::Relaxed);
            return Err(OverBudget::Pending(most));
        }
        Ok(Ticket {
            limits: limits.clone(),
            pending: true,
        })
    }
}

fn take(counter: &AtomicUsize, most: usize) -> Result<(), usize> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held < most).then_some(held + 1)
        })
        .map(|_| ())
        .map_err(|_| most)
}

/// One admitted connection; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Ticket {
    limits: Arc<Limits>,
    pending: bool,
}

impl Ticket {
    /// The connection is established: it no longer counts as in progress.
    pub(crate) fn established(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.limits.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.established();
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_handshakes_frees_once_they_are_done() {
        let budget = Budget::new(3, 1);
        let mut first = budget.admit().unwrap();
        assert_eq!(budget.admit().unwrap_err(), OverBudget::Pending(1));
        first.established();
        let _second = budget.admit().unwrap();
    }

    #[test]
    fn the_limit_of_connections_frees_when_they_end() {
        let budget = Budget::new(1, 9);
        let mut first = budget.admit().unwrap();
        first.established();
        assert_eq!(budget.admit().unwrap_err(), OverBudget::Open(1));
        drop(first);
        budget.admit().unwrap();
    }
}
