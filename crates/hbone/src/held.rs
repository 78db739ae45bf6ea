//! What stuck readers hold of a connection's window, and how the others get it back.
//!
//! HTTP/2 counts a byte against its stream and against the connection until it is released, and
//! h2 releases both at once. So four streams whose readers take nothing would use up the
//! connection's window, and stall all others. What is held is therefore added to the window, up
//! to a limit.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;

/// The window grows by steps, so that not every byte wakes the connection.
const STEP: usize = 1 << 20;

/// Bytes that wait for sockets, of all streams of a connection.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: AtomicUsize,
    connection: AtomicWaker,
}

impl Held {
    /// One stream holds `now` bytes, where it held `before`.
    pub(crate) fn replace(&self, before: usize, now: usize) {
        if before == now {
            return;
        }
        let old = if now > before {
            self.bytes.fetch_add(now - before, Ordering::Relaxed)
        } else {
            self.bytes.fetch_sub(before - now, Ordering::Relaxed)
        };
        if old / STEP != (old + now - before) / STEP {
            self.connection.wake();
        }
    }
}

/// A connection's window, which follows what is held.
#[derive(Debug)]
pub(crate) struct Window {
    base: usize,
    limit: usize,
    target: usize,
}

impl Window {
    pub(crate) fn new(base: u32, held_limit: usize) -> Self {
        Self {
            base: base as usize,
            limit: held_limit,
            target: base as usize,
        }
    }

    /// The window to set, if it is another. The connection is woken for the next change.
    pub(crate) fn update(&mut self, held: &Held, cx: &mut Context<'_>) -> Option<u32> {
        held.connection.register(cx.waker());
        let bytes = held.bytes.load(Ordering::Relaxed).min(self.limit);
        let target = self.base + bytes / STEP * STEP;
        if target == self.target {
            return None;
        }
        self.target = target;
        u32::try_from(target).ok()
    }
}
