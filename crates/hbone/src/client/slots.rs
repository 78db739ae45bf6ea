//! How many streams a client's connection has, and whether it is to close: what its handles, its
//! tunnels and its driver share.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};

use crate::held::Held;

pub(crate) struct Slots {
    state: Mutex<State>,
    changed: Notify,
    held: Arc<Held>,
}

struct State {
    active: usize,
    idle_since: Instant,
    phase: Phase,
    driver: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The driver shall end.
    Closing,
    Ended,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                active: 0,
                idle_since: Instant::now(),
                phase: Phase::Open,
                driver: None,
            }),
            changed: Notify::new(),
            held: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    pub(crate) fn take(slots: &Arc<Self>) -> Slot {
        slots.state().active += 1;
        Slot(Arc::clone(slots))
    }

    /// What the connection's stuck readers hold.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    pub(crate) fn active(&self) -> usize {
        self.state().active
    }

    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.active == 0).then_some(state.idle_since)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().phase != Phase::Open
    }

    /// Waits until a place may be free, or the connection is closed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn close(&self) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn poll_close_asked(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.phase != Phase::Open {
            return Poll::Ready(());
        }
        match &mut state.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            driver @ None => *driver = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(crate) fn ended(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        state.driver = None;
        drop(state);
        self.changed.notify_waiters();
    }
}

/// One stream's place on a connection.
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.active -= 1;
        if state.active == 0 {
            state.idle_since = Instant::now();
        }
        drop(state);
        self.0.changed.notify_one();
    }
}
