//! Whether all that has to be there before traffic is.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The things a daemon waits for, by name.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Nothing to wait for yet: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something more to wait for.
    pub fn task(&self, name: &'static str) -> Task {
        self.pending_mut(|pending| pending.insert(name));
        Task {
            readiness: self.clone(),
            name,
        }
    }

    /// What is still waited for; empty when ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending_mut(|pending| pending.iter().copied().collect())
    }

    fn pending_mut<T>(&self, act: impl FnOnce(&mut BTreeSet<&'static str>) -> T) -> T {
        // A set of names is whole after a panic too.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One thing that is waited for. Dropped without [`done`](Self::done), it stays pending.
#[derive(Debug)]
#[must_use]
pub struct Task {
    readiness: Readiness,
    name: &'static str,
}

impl Task {
    /// It is there.
    pub fn done(self) {
        self.readiness
            .pending_mut(|pending| pending.remove(self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_the_last_task_is_done() {
        let readiness = Readiness::new();
        let (one, other) = (readiness.task("one"), readiness.task("other"));
        one.done();
        assert_eq!(readiness.pending(), ["other"]);
        other.done();
        assert!(readiness.pending().is_empty());
    }

    #[test]
    fn a_task_that_is_given_up_stays_pending() {
        let readiness = Readiness::new();
        drop(readiness.task("one"));
        assert_eq!(readiness.pending(), ["one"]);
    }
}
