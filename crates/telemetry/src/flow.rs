//! Hop 7: a connection's record, from its opening to its end.
//!
//! The daemon says who, where and how it ended; what a record shows of that, and under which
//! labels, is settled in `access` and `labels`.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use model::{PolicyKey, Service, SpiffeId, Workload};

use crate::{
    Telemetry, Traffic, access,
    traffic::{Series, Tracked},
};

/// Which end of the connection tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node: an outbound connection.
    Source,
    /// The server's node: an inbound connection.
    Destination,
}

impl Reporter {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    pub(crate) fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// Whether both ends have shown who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    MutualTls,
    /// In clear, or before the handshake had ended.
    Unknown,
}

/// What a peer says of itself in `baggage`. Nothing of it is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    pub cluster: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    pub workload: Option<Arc<str>>,
    pub service_name: Option<Arc<str>>,
    pub service_version: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}

/// What is known of one end of a connection.
#[derive(Debug, Clone, Default)]
pub enum Who {
    Workload(Arc<Workload>),
    Claimed(Box<Claims>),
    #[default]
    Unknown,
}

impl From<Option<Arc<Workload>>> for Who {
    fn from(workload: Option<Arc<Workload>>) -> Self {
        workload.map_or(Self::Unknown, Self::Workload)
    }
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub addr: SocketAddr,
    pub who: Who,
    /// The identity it has proven, or must prove.
    pub identity: Option<SpiffeId>,
}

impl Peer {
    /// An end of which only the address is known.
    pub fn unknown(addr: SocketAddr) -> Self {
        Self {
            addr,
            who: Who::Unknown,
            identity: None,
        }
    }
}

/// A service as metrics and logs name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceName {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl From<&Service> for ServiceName {
    fn from(service: &Service) -> Self {
        Self {
            name: service.name.clone(),
            namespace: service.key.namespace.clone(),
            hostname: service.key.hostname.clone(),
        }
    }
}

/// The authority that a tunnel was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HboneAddr {
    Socket(SocketAddr),
    Host(Arc<str>, u16),
}

impl Display for HboneAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(out),
            Self::Host(host, port) => write!(out, "{host}:{port}"),
        }
    }
}

/// All that a record tells of a connection, apart from its course.
#[derive(Debug, Clone)]
pub struct Flow {
    pub reporter: Reporter,
    pub source: Peer,
    pub destination: Peer,
    /// The service that the client named.
    pub service: Option<ServiceName>,
    /// What the tunnel was asked for, when there is one.
    pub hbone_addr: Option<HboneAddr>,
    pub security: Security,
}

/// The label `response_flags`: why a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    None,
    /// Denied by policy.
    Deny,
    /// The destination could not be connected to.
    Connect,
    TlsFailure,
    H2HandshakeFailure,
    /// Unanswered where a NetworkPolicy is the likely reason.
    NetworkPolicy,
    /// There is no certificate to show.
    IdentityError,
    CertRevoked,
}

impl ResponseFlag {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// Why a connection was not served.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub flag: ResponseFlag,
    /// For an operator to read.
    pub reason: Arc<str>,
    /// The policy that denied it, and the index of its rule when one matched.
    pub policy: Option<(PolicyKey, Option<usize>)>,
}

impl Refusal {
    /// A refusal that no policy caused.
    pub fn new(flag: ResponseFlag, reason: impl Display) -> Self {
        Self {
            flag,
            reason: reason.to_string().into(),
            policy: None,
        }
    }

    /// A refusal by policy.
    pub fn denied(reason: impl Display, policy: Option<(PolicyKey, Option<usize>)>) -> Self {
        Self {
            policy,
            ..Self::new(ResponseFlag::Deny, reason)
        }
    }
}

/// How an open connection ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Both ends said that they were done.
    Clean,
    /// It broke, or was cut.
    Failed(Refusal),
}

impl Outcome {
    /// An end that no policy caused and that no flag tells of.
    pub fn broken(reason: impl Display) -> Self {
        Self::Failed(Refusal::new(ResponseFlag::None, reason))
    }
}

impl Telemetry {
    /// Records that a connection is served from now on.
    pub fn open(&self, flow: Flow) -> OpenFlow {
        self.open_counting(flow, Arc::default())
    }

    /// The same for the second record of a connection both ends of which are on this node: the
    /// bytes of `other` are its bytes.
    pub fn open_sharing(&self, flow: Flow, other: &OpenFlow) -> OpenFlow {
        self.open_counting(flow, other.tracked.traffic.clone())
    }

    fn open_counting(&self, flow: Flow, traffic: Arc<Traffic>) -> OpenFlow {
        let series = self.shared.flows.series(&flow, ResponseFlag::None);
        let tracked = self.shared.flows.track(flow.reporter, series, traffic);
        access::opened(&flow);
        OpenFlow {
            telemetry: self.clone(),
            flow,
            tracked,
            started: Instant::now(),
            ended: false,
        }
    }

    /// Records that a connection was not served.
    pub fn refuse(&self, flow: Flow, refusal: impl Into<Refusal>) {
        let refusal = refusal.into();
        let series = self.shared.flows.series(&flow, refusal.flag);
        Series::add(&series.failed, 1);
        access::refused(&flow, &refusal);
    }
}

/// The record of a connection that is served. Dropped unclosed, it tells of an aborted one.
pub struct OpenFlow {
    telemetry: Telemetry,
    flow: Flow,
    tracked: Arc<Tracked>,
    started: Instant,
    ended: bool,
}

impl OpenFlow {
    /// The counters for whoever moves the bytes.
    pub fn traffic(&self) -> &Traffic {
        &self.tracked.traffic
    }

    /// What was recorded at the opening.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Records the end.
    pub fn close(mut self, outcome: Outcome) {
        self.end(&outcome);
    }

    fn end(&mut self, outcome: &Outcome) {
        self.ended = true;
        let flows = &self.telemetry.shared.flows;
        flows.untrack(self.flow.reporter, &self.tracked);
        match outcome {
            Outcome::Failed(failure) if failure.flag != ResponseFlag::None => {
                Series::add(&flows.series(&self.flow, failure.flag).closed, 1);
            }
            Outcome::Clean | Outcome::Failed(_) => Series::add(&self.tracked.series.closed, 1),
        }
        access::closed(
            &self.flow,
            &self.tracked.traffic,
            self.started.elapsed(),
            outcome,
        );
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if !self.ended {
            self.end(&Outcome::broken("aborted"));
        }
    }
}
