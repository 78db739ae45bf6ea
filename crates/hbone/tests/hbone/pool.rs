//! Sharing connections: reuse, limits, races, and when they leave.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use hbone::{
    Settings, Tunnel,
    client::Connection,
    pool::{Config, Established, Pool},
};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, advance, sleep},
};

use crate::support::{Ends, ends_with, local, request};

#[derive(Debug, PartialEq)]
struct Unreachable;

/// Servers for a pool to connect to, all kept alive.
struct Servers {
    pool: Pool<&'static str, Unreachable>,
    ends: RefCell<Vec<Ends>>,
    attempts: Cell<usize>,
    settings: Settings,
}

impl Servers {
    fn new() -> Self {
        Self::with(Settings::client())
    }

    fn with(settings: Settings) -> Self {
        Self {
            pool: Pool::new(Config {
                max_age: Duration::from_secs(1800),
                ..Config::default()
            }),
            ends: RefCell::default(),
            attempts: Cell::new(0),
            settings,
        }
    }

    async fn connect(&self) -> Result<Connection, Unreachable> {
        self.attempts.set(self.attempts.get() + 1);
        sleep(Duration::from_millis(20)).await;
        let mut ends = ends_with(self.settings.clone(), Settings::server()).await;
        // Every stream is accepted and kept.
        let (_, empty) = tokio::sync::mpsc::unbounded_channel();
        let mut incoming: UnboundedReceiver<_> = std::mem::replace(&mut ends.incoming, empty);
        ends.tasks.spawn_local(async move {
            let mut kept = Vec::new();
            while let Some(Ok(incoming)) = incoming.recv().await {
                let incoming: hbone::server::Incoming = incoming;
                kept.push(incoming.accept(None));
            }
        });
        let connection = ends.connection.clone();
        self.ends.borrow_mut().push(ends);
        Ok(connection)
    }

    async fn tunnel(&self, key: &'static str) -> Tunnel {
        let lease = self.pool.lease(&key, || self.connect()).await;
        let lease = lease.unwrap_or_else(|error| panic!("{error:?}"));
        lease.connect(&request()).await.expect("accepted")
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_reused_by_key() {
    local(async {
        let servers = Servers::new();
        let _one = servers.tunnel("a").await;
        let _two = servers.tunnel("a").await;
        let _other = servers.tunnel("b").await;
        let stats = servers.pool.stats();
        assert_eq!((stats.keys, stats.connections, stats.streams), (2, 2, 3));
        assert_eq!((stats.opened, stats.reused), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_once_share_one_connection() {
    local(async {
        let servers = Servers::new();
        let tunnels = futures_util::future::join_all((0..50).map(|_| servers.tunnel("a"))).await;
        assert_eq!(tunnels.len(), 50);
        assert_eq!(servers.attempts.get(), 1);
        assert_eq!(servers.pool.stats().streams, 50);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_than_a_connection_carries_opens_another_and_full_ones_come_back() {
    local(async {
        let servers = Servers::with(Settings {
            max_streams: 2,
            ..Settings::client()
        });
        let mut tunnels = futures_util::future::join_all((0..5).map(|_| servers.tunnel("a"))).await;
        assert_eq!(servers.pool.stats().connections, 3);
        tunnels.truncate(1);
        let _more = futures_util::future::join_all((0..5).map(|_| servers.tunnel("a"))).await;
        assert_eq!(servers.attempts.get(), 3, "the freed streams were used");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_the_error_and_the_next_tries_again() {
    local(async {
        let servers = Servers::new();
        let fail = async || {
            let attempt = || async {
                servers.attempts.set(servers.attempts.get() + 1);
                sleep(Duration::from_millis(20)).await;
                Err::<Connection, _>(Unreachable)
            };
            servers.pool.lease(&"a", attempt).await.err()
        };
        let failures = futures_util::future::join_all((0..10).map(|_| fail())).await;
        assert!(
            failures
                .iter()
                .all(|error| error.as_deref() == Some(&Unreachable))
        );
        assert_eq!(servers.attempts.get(), 1);
        assert_eq!(servers.pool.stats().keys, 0, "nothing is left of it");
        let _tunnel = servers.tunnel("a").await;
        assert_eq!(servers.pool.stats().failed, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_winner_that_is_cancelled_leaves_the_place_to_another() {
    local(async {
        let servers = Servers::new();
        let stuck = || std::future::pending::<Result<Connection, Unreachable>>();
        let mut winner = Box::pin(servers.pool.lease(&"a", stuck));
        let started = tokio::time::timeout(Duration::from_millis(1), &mut winner).await;
        assert!(started.is_err());
        let give_up = async {
            sleep(Duration::from_secs(1)).await;
            drop(winner);
        };
        let (_tunnel, ()) = tokio::join!(servers.tunnel("a"), give_up);
        assert_eq!(servers.attempts.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_leaves() {
    local(async {
        let servers = Servers::new();
        let tunnel = servers.tunnel("a").await;
        servers.ends.borrow()[0].connection.close();
        drop(tunnel);
        let _next = servers.tunnel("a").await;
        assert_eq!(servers.attempts.get(), 2);
        assert_eq!(servers.pool.stats().connections, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_leaves_after_five_minutes_and_a_busy_one_stays() {
    local(async {
        let servers = Servers::new();
        let idle = servers.tunnel("idle").await;
        let _busy = servers.tunnel("busy").await;
        drop(idle);
        advance(Duration::from_secs(299)).await;
        servers.pool.sweep();
        assert_eq!(servers.pool.stats().connections, 2);
        advance(Duration::from_secs(2)).await;
        servers.pool.sweep();
        let stats = servers.pool.stats();
        assert_eq!((stats.keys, stats.connections), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_the_pool_dropped_ends_with_its_last_stream() {
    local(async {
        let servers = Servers::new();
        let tunnel = servers.tunnel("a").await;
        let Ends {
            connection,
            mut tasks,
            ..
        } = servers.ends.borrow_mut().remove(0);
        drop(connection);
        advance(Duration::from_secs(1801)).await;
        servers.pool.sweep();
        assert_eq!(servers.pool.stats().connections, 0, "it is too old");
        drop(tunnel);
        // The driver, the server and the one that accepts.
        tasks.join_next().await.expect("ends").expect("no panic");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_connection_takes_no_new_stream() {
    local(async {
        let servers = Servers::new();
        let brief = || async {
            let connection = servers.connect().await?;
            let expires = Some(Instant::now() + Duration::from_secs(60));
            Ok(Established {
                connection,
                expires,
            })
        };
        let lease = servers.pool.lease(&"a", brief).await.expect("connected");
        let _old = lease.connect(&request()).await.expect("accepted");
        sleep(Duration::from_secs(61)).await;
        let _new = servers.tunnel("a").await;
        assert_eq!(servers.attempts.get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closing_by_key_ends_what_matches_and_nothing_else() {
    local(async {
        let servers = Servers::new();
        let _gone = servers.tunnel("pod-1").await;
        let _kept = servers.tunnel("pod-2").await;
        servers.pool.close_matching(|key| *key == "pod-1");
        let ends = servers.ends.borrow();
        assert!(ends[0].connection.is_closed());
        assert!(!ends[1].connection.is_closed());
        assert_eq!(servers.pool.stats().keys, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closing_by_key_ends_an_attempt_under_way() {
    local(async {
        let servers = Servers::new();
        let close = async {
            sleep(Duration::from_millis(10)).await;
            servers.pool.close_matching(|_| true);
        };
        let (lease, ()) = tokio::join!(servers.pool.lease(&"a", || servers.connect()), close);
        let refused = lease.expect("connected").connect(&request()).await;
        assert!(refused.err().expect("closed").is_retryable());
        assert_eq!(servers.pool.stats().connections, 0);
    })
    .await;
}
