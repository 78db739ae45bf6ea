//! Hop 4: mutual TLS to the destination's node in the source pod's name, shared by its
//! connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hbone::{
    ConnectError, ConnectRequest, ReadAhead, Settings, Tunnel, client,
    pool::{Config, Established, Pool, Stats},
};
use model::SpiffeId;
use telemetry::{Direction, PoolGauges};
use tokio::time::{Instant, timeout};

use crate::{pod::Pod, worker::Worker};

/// What a tunnel is shared by (contract, "Pool key"), and the pod it belongs to: an address
/// alone could come to name another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    pub(crate) pod: Arc<str>,
    pub(crate) source: SpiffeId,
    pub(crate) source_ip: IpAddr,
    pub(crate) expected: Vec<SpiffeId>,
    pub(crate) address: SocketAddr,
}

/// Each of connecting, the TLS handshake and the HTTP/2 preface must be done in this time, as
/// in Istio's ztunnel for connecting.
const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// The answer to a CONNECT includes the far side's own dial, which has as long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// Why there is no tunnel, or no stream in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("no certificate for {id}")]
    Certificate {
        id: SpiffeId,
        source: identity::IdentityError,
    },
    #[error("cannot make a socket in the pod's network namespace")]
    Socket(#[source] io::Error),
    #[error(
        "cannot connect to {address}; is the pod up, and does a NetworkPolicy admit port 15008?"
    )]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("mutual TLS with {address} failed")]
    Tls {
        address: SocketAddr,
        source: identity::HandshakeError,
    },
    #[error("{address} speaks no HTTP/2")]
    Http2 {
        address: SocketAddr,
        source: hbone::Error,
    },
    #[error("{address} did not finish {step} within {STEP_DEADLINE:?}")]
    Deadline {
        address: SocketAddr,
        step: &'static str,
    },
}

/// Why a connection could not be carried by a tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Tunnel(#[from] Rc<TunnelError>),
    #[error("the tunnel refused the connection")]
    Refused(#[source] ConnectError),
    #[error("the far side did not answer within {ANSWER_DEADLINE:?}")]
    Unanswered,
}

/// The tunnels of one worker.
pub(crate) struct Tunnels {
    pool: Pool<TunnelKey, TunnelError>,
}

impl Tunnels {
    /// How often idle tunnels are looked for and the gauges are brought up to date.
    pub(crate) const SWEEP: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self {
            pool: Pool::new(Config::default()),
        }
    }

    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }

    /// Lets every tunnel end with its last stream.
    pub(crate) fn release(&self) {
        self.pool.release();
    }

    pub(crate) fn gauges(&self) -> PoolGauges {
        let Stats {
            connections,
            streams,
            connecting,
            ..
        } = self.pool.stats();
        PoolGauges {
            connections,
            streams,
            connecting,
        }
    }
}

/// Opens a stream to `request`'s authority. A tunnel that was closing when it was found is
/// replaced once, since nothing had been sent.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    pod: &Pod,
    key: &TunnelKey,
    request: &ConnectRequest,
) -> Result<Tunnel, StreamError> {
    let mut attempts = 0;
    loop {
        let lease = worker
            .tunnels
            .pool
            .lease(key, || connect(worker, pod, key))
            .await?;
        match timeout(ANSWER_DEADLINE, lease.connect(request)).await {
            Err(_) => return Err(StreamError::Unanswered),
            Ok(Ok(tunnel)) => return Ok(tunnel),
            Ok(Err(error)) if error.is_retryable() && attempts < 1 => attempts += 1,
            Ok(Err(error)) => return Err(StreamError::Refused(error)),
        }
    }
}

async fn connect(
    worker: &Rc<Worker>,
    pod: &Pod,
    key: &TunnelKey,
) -> Result<Established, TunnelError> {
    let address = key.address;
    let certificate = worker
        .node
        .identities
        .certificate(&key.source)
        .await
        .map_err(|source| TunnelError::Certificate {
            id: key.source.clone(),
            source,
        })?;
    let metrics = worker.node.telemetry.metrics();
    let started = Instant::now();
    let connected = in_time(address, "connecting", async {
        super::dial::from_pod(pod, address)
            .await
            .map_err(|error| match error {
                super::dial::DialError::Socket(source) => TunnelError::Socket(source),
                super::dial::DialError::Connect(source) => TunnelError::Connect { address, source },
            })
    })
    .await;
    metrics.connect(Direction::Outbound, started.elapsed(), &connected);
    let (socket, started) = (ReadAhead::new(connected?), Instant::now());
    let shaken = in_time(address, "the TLS handshake", async {
        identity::connect(socket, &certificate, &key.expected)
            .await
            .map_err(|source| TunnelError::Tls { address, source })
    })
    .await;
    metrics.handshake(Direction::Outbound, started.elapsed(), &shaken);
    let (stream, _) = shaken?;
    let (connection, driver) = in_time(address, "the HTTP/2 preface", async {
        client::handshake(stream, &Settings::client())
            .await
            .map_err(|source| TunnelError::Http2 { address, source })
    })
    .await?;
    let gone = pod.gone();
    worker.spawn(async move {
        tokio::select! {
            ended = driver => if let Err(error) = ended {
                tracing::debug!(%address, %error, "a tunnel ended");
            },
            // Its sockets would keep the pod's network namespace alive.
            () = gone => {}
        }
    });
    let left = certificate
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    Ok(Established {
        connection,
        expires: Some(Instant::now() + left),
    })
}

async fn in_time<T>(
    address: SocketAddr,
    step: &'static str,
    work: impl Future<Output = Result<T, TunnelError>>,
) -> Result<T, TunnelError> {
    timeout(STEP_DEADLINE, work)
        .await
        .unwrap_or(Err(TunnelError::Deadline { address, step }))
}
