//! Client connections to share, by key.
//!
//! One pool serves one worker thread, so it needs no lock. It opens nothing itself: the caller
//! says how to connect and runs the driver. What counts as the same key is the caller's too.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    future::Future,
    hash::Hash,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    ConnectError, ConnectRequest, Tunnel,
    client::{Connection, Slot},
};

/// How long connections are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A connection without streams is closed after this.
    pub idle: Duration,
    /// A connection takes no new streams after this.
    pub max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(300),
            // Half the life of a certificate of 24 h, so that none outlives what proved it.
            max_age: Duration::from_secs(12 * 3600),
        }
    }
}

/// A new connection, and when it shall take no more streams (the certificate's expiry).
pub struct Established {
    pub connection: Connection,
    pub expires: Option<Instant>,
}

impl From<Connection> for Established {
    fn from(connection: Connection) -> Self {
        Self {
            connection,
            expires: None,
        }
    }
}

/// What a pool holds, and what it has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub keys: usize,
    pub connections: usize,
    pub streams: usize,
    /// Connections under way.
    pub connecting: usize,
    /// Connections made since the start.
    pub opened: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Streams that found a connection to share.
    pub reused: u64,
}

/// Connections by key. `E` is why connecting fails; all who waited for an attempt share it.
pub struct Pool<K, E> {
    config: Config,
    entries: RefCell<HashMap<K, Entry<E>>>,
    opened: Cell<u64>,
    failed: Cell<u64>,
    reused: Cell<u64>,
}

struct Entry<E> {
    connections: Vec<Pooled>,
    attempt: Option<Rc<Attempt<E>>>,
}

impl<E> Default for Entry<E> {
    fn default() -> Self {
        Self {
            connections: Vec::new(),
            attempt: None,
        }
    }
}

struct Pooled {
    connection: Connection,
    expires: Instant,
}

/// One attempt to connect, which all who need the connection wait for.
struct Attempt<E> {
    ended: Notify,
    /// Unset at its end when it succeeded or was given up.
    error: OnceCell<Rc<E>>,
    /// A connection that was closed by key while it was under way is not for the pool.
    retired: Cell<bool>,
}

/// A stream's place on a connection.
#[must_use = "a lease holds a stream's place until it is used"]
pub struct Lease {
    connection: Connection,
    slot: Slot,
}

impl Lease {
    /// Opens the stream. [`ConnectError::is_retryable`] asks for another lease.
    pub async fn connect(self, request: &ConnectRequest) -> Result<Tunnel, ConnectError> {
        self.connection.open(request, self.slot).await
    }
}

enum Turn<E> {
    Ready(Lease),
    Wait(Rc<Attempt<E>>),
    Connect(Rc<Attempt<E>>),
}

impl<K: Eq + Hash + Clone, E> Pool<K, E> {
    /// An empty pool.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: RefCell::default(),
            opened: Cell::new(0),
            failed: Cell::new(0),
            reused: Cell::new(0),
        }
    }

    /// A place on a connection with a free stream, else on a new one. Only one of those who ask
    /// at once connects; the others share its connection or its error, and if it is cancelled
    /// one of them takes over.
    pub async fn lease<F, R, C>(&self, key: &K, connect: F) -> Result<Lease, Rc<E>>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<C, E>>,
        C: Into<Established>,
    {
        loop {
            match self.turn(key) {
                Turn::Ready(lease) => return Ok(lease),
                Turn::Wait(attempt) => {
                    attempt.ended.notified().await;
                    if let Some(error) = attempt.error.get() {
                        return Err(Rc::clone(error));
                    }
                }
                Turn::Connect(attempt) => {
                    let guard = Connecting {
                        pool: self,
                        key,
                        attempt: &attempt,
                    };
                    let result = connect().await;
                    let lease = self.settle(key, &attempt, result.map(Into::into));
                    drop(guard);
                    return lease;
                }
            }
        }
    }

    fn turn(&self, key: &K) -> Turn<E> {
        let mut entries = self.entries.borrow_mut();
        let entry = match entries.get_mut(key) {
            Some(entry) => entry,
            None => entries.entry(key.clone()).or_default(),
        };
        let now = Instant::now();
        entry.connections.retain(|pooled| pooled.is_usable(now));
        for pooled in &entry.connections {
            if let Some(lease) = pooled.lease() {
                self.reused.set(self.reused.get() + 1);
                return Turn::Ready(lease);
            }
        }
        if let Some(attempt) = &entry.attempt {
            return Turn::Wait(Rc::clone(attempt));
        }
        let attempt = Rc::new(Attempt {
            ended: Notify::new(),
            error: OnceCell::new(),
            retired: Cell::new(false),
        });
        entry.attempt = Some(Rc::clone(&attempt));
        Turn::Connect(attempt)
    }

    fn settle(
        &self,
        key: &K,
        attempt: &Attempt<E>,
        result: Result<Established, E>,
    ) -> Result<Lease, Rc<E>> {
        let established = match result {
            Ok(established) => established,
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                let error = Rc::new(error);
                return Err(Rc::clone(attempt.error.get_or_init(|| error)));
            }
        };
        self.opened.set(self.opened.get() + 1);
        let oldest = Instant::now() + self.config.max_age;
        let pooled = Pooled {
            connection: established.connection,
            expires: established.expires.map_or(oldest, |at| at.min(oldest)),
        };
        // The first place is the winner's, whatever the peer says about its limit: if there is
        // none, opening the stream tells why.
        let lease = Lease {
            connection: pooled.connection.clone(),
            slot: pooled.connection.claim(),
        };
        if attempt.retired.get() {
            pooled.connection.close();
        } else {
            let mut entries = self.entries.borrow_mut();
            entries
                .entry(key.clone())
                .or_default()
                .connections
                .push(pooled);
        }
        Ok(lease)
    }

    /// Closes what is idle or aged, at half the idle time; for the pool's owner to run.
    pub async fn sweep_forever(&self) {
        loop {
            sleep(self.config.idle / 2).await;
            self.sweep();
        }
    }

    /// Drops connections that have been idle for long, are too old or have ended. One that still
    /// has streams lives on until they end.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.retain(|_, pooled| {
            let idle = pooled.connection.idle_since();
            let is_fresh = idle.is_none_or(|since| now - since < self.config.idle);
            is_fresh && pooled.is_usable(now)
        });
    }

    /// Lets go of all connections: each ends with its last stream. For an owner that ends.
    pub fn release(&self) {
        self.retain(|_, _| false);
    }

    /// Ends the connections, and with them the streams, of the keys that match: their pod is
    /// gone. Attempts under way end when they succeed.
    pub fn close_matching(&self, matches: impl Fn(&K) -> bool) {
        for (key, entry) in &*self.entries.borrow() {
            if let Some(attempt) = entry.attempt.as_ref().filter(|_| matches(key)) {
                attempt.retired.set(true);
            }
        }
        self.retain(|key, pooled| {
            let matched = matches(key);
            if matched {
                pooled.connection.close();
            }
            !matched
        });
    }

    fn retain(&self, keep: impl Fn(&K, &Pooled) -> bool) {
        let mut entries = self.entries.borrow_mut();
        entries.retain(|key, entry| {
            entry.connections.retain(|pooled| keep(key, pooled));
            !entry.is_empty()
        });
        if entries.capacity() > 64 && entries.len() < entries.capacity() / 4 {
            entries.shrink_to_fit();
        }
    }

    /// What it holds now.
    pub fn stats(&self) -> Stats {
        let entries = self.entries.borrow();
        let pooled = || entries.values().flat_map(|entry| &entry.connections);
        Stats {
            keys: entries.len(),
            connections: pooled().count(),
            streams: pooled().map(|pooled| pooled.connection.streams()).sum(),
            connecting: entries
                .values()
                .filter(|entry| entry.attempt.is_some())
                .count(),
            opened: self.opened.get(),
            failed: self.failed.get(),
            reused: self.reused.get(),
        }
    }
}

impl<E> Entry<E> {
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.attempt.is_none()
    }
}

impl Pooled {
    fn is_usable(&self, now: Instant) -> bool {
        now < self.expires && !self.connection.is_closed()
    }

    fn lease(&self) -> Option<Lease> {
        let slot = self.connection.reserve()?;
        Some(Lease {
            connection: self.connection.clone(),
            slot,
        })
    }
}

/// Ends the attempt however its future ends, so that no one waits for one that was dropped.
struct Connecting<'a, K: Eq + Hash, E> {
    pool: &'a Pool<K, E>,
    key: &'a K,
    attempt: &'a Attempt<E>,
}

impl<K: Eq + Hash, E> Drop for Connecting<'_, K, E> {
    fn drop(&mut self) {
        let mut entries = self.pool.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(self.key) {
            entry.attempt = None;
            if entry.is_empty() {
                entries.remove(self.key);
            }
        }
        drop(entries);
        self.attempt.ended.notify_waiters();
    }
}
