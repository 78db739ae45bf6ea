//! Hop 7: what is told of each connection, in one place for all hops.
//!
//! Builds flow records and gives failures their flag; counts and logs nothing itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hbone::{ConnectRequest, RelayEnd};
use model::{SpiffeId, Workload, chain};
use policy::{Denial, DryRun};
use telemetry::{
    Claims, Flow, HboneAddr, Outcome, Peer, Refusal, Reporter, ResponseFlag, Security, ServiceName,
    Who,
};
use tracing::info;

use crate::{
    inbound::{
        authorize::{Denied, Misdirected},
        dial::DialError as AppError,
    },
    node::Node,
    outbound::{
        Outgoing,
        dial::DialError,
        plan::{HboneRoute, PlainRoute, Rejection},
        tunnel::{StreamError, TunnelError},
    },
    pod::{Ends, OverBudget, Pod, accept::Role},
    relay::Broken,
};

fn source(outgoing: &Outgoing, security: Security) -> Peer {
    let identity = outgoing.source.identity().ok();
    Peer {
        addr: outgoing.client,
        who: Who::Workload(outgoing.source.clone()),
        identity: identity.filter(|_| security == Security::MutualTls),
    }
}

/// The record of a connection that leaves through a tunnel.
pub(crate) fn tunnelled(outgoing: &Outgoing, route: &HboneRoute) -> Flow {
    Flow {
        reporter: Reporter::Source,
        source: source(outgoing, Security::MutualTls),
        destination: Peer {
            addr: route.tunnel,
            who: Who::Workload(route.endpoint.clone()),
            identity: route.expected.first().cloned(),
        },
        service: route.service.as_deref().map(ServiceName::from),
        hbone_addr: Some(HboneAddr::Socket(route.target)),
        security: Security::MutualTls,
    }
}

/// The two records of a connection between pods of this node.
pub(crate) fn joined(outgoing: &Outgoing, route: &HboneRoute) -> (Flow, Flow) {
    let mut near = tunnelled(outgoing, route);
    near.destination.addr = route.target;
    near.hbone_addr = None;
    let far = Flow {
        reporter: Reporter::Destination,
        ..near.clone()
    };
    (near, far)
}

/// The record of a connection to a destination outside the mesh.
pub(crate) fn passthrough(outgoing: &Outgoing, route: &PlainRoute) -> Flow {
    Flow {
        reporter: Reporter::Source,
        source: source(outgoing, Security::Unknown),
        destination: Peer {
            addr: route.target,
            who: route.endpoint.clone().into(),
            identity: None,
        },
        service: route.service.as_deref().map(ServiceName::from),
        hbone_addr: None,
        security: Security::Unknown,
    }
}

/// Records a connection that was not let out.
pub(crate) fn rejected(node: &Node, outgoing: &Outgoing, why: &Rejection) {
    let route = PlainRoute {
        target: outgoing.destination,
        endpoint: None,
        service: None,
    };
    let flow = passthrough(outgoing, &route);
    node.telemetry
        .refuse(flow, Refusal::new(ResponseFlag::Connect, why));
}

/// Records a connection of a pod whose workload the controller never told of.
pub(crate) fn unknown_source(node: &Node, pod: &Pod, client: SocketAddr, to: SocketAddr) {
    let flow = Flow {
        reporter: Reporter::Source,
        source: Peer::unknown(client),
        destination: Peer::unknown(to),
        service: None,
        hbone_addr: None,
        security: Security::Unknown,
    };
    let why = format!(
        "the controller has told of no workload for pod {}/{}",
        pod.namespace, pod.name
    );
    node.telemetry
        .refuse(flow, Refusal::new(ResponseFlag::Connect, why));
}

/// The record of a connection that came through a tunnel.
pub(crate) fn inbound(
    node: &Node,
    workload: &Arc<Workload>,
    peer: &SpiffeId,
    address: SocketAddr,
    target: SocketAddr,
    request: &ConnectRequest,
) -> Flow {
    let index = node.index();
    let hostname = request
        .forwarded
        .as_ref()
        .and_then(|forwarded| forwarded.host.clone());
    let service = hostname
        .as_ref()
        .and_then(|hostname| index.service_named(hostname, &workload.namespace))
        .filter(|service| workload.services.contains_key(&service.key));
    // The client's own port, when the tunnel's other end is the client's own node.
    let client = request.forwarded.as_ref().map(|forwarded| forwarded.client);
    let client = client
        .filter(|client| client.ip() == address.ip())
        .unwrap_or(address);
    Flow {
        reporter: Reporter::Destination,
        source: Peer {
            addr: client,
            who: from_mesh(node, peer, address, request),
            identity: Some(peer.clone()),
        },
        destination: Peer {
            addr: target,
            who: Who::Workload(workload.clone()),
            identity: workload.identity().ok(),
        },
        service: service.map(|service| ServiceName::from(&**service)),
        hbone_addr: None,
        security: Security::MutualTls,
    }
}

/// A peer's address names it only while its identity agrees; else there is what it says itself.
fn from_mesh(node: &Node, peer: &SpiffeId, address: SocketAddr, request: &ConnectRequest) -> Who {
    let known = node.workload_at(address.ip());
    match known.filter(|known| known.identity().as_ref() == Ok(peer)) {
        Some(known) => Who::Workload(known),
        None => request.baggage.as_ref().map_or(Who::Unknown, |said| {
            Who::Claimed(Box::new(Claims {
                cluster: said.cluster.clone(),
                namespace: Some(peer.namespace().into()),
                workload: said.workload.as_ref().map(|(_, name)| name.clone()),
                service_name: said.service_name.clone(),
                service_version: said.service_version.clone(),
                region: said.region.clone(),
                zone: said.zone.clone(),
            }))
        }),
    }
}

/// The record of a request for something that is not here.
pub(crate) fn misdirected(
    node: &Node,
    workload: &Arc<Workload>,
    peer: &SpiffeId,
    address: SocketAddr,
    request: &ConnectRequest,
) -> Flow {
    let nowhere = SocketAddr::new(
        workload.addresses.first().copied().unwrap_or(address.ip()),
        0,
    );
    Flow {
        service: None,
        ..inbound(node, workload, peer, address, nowhere, request)
    }
}

/// The record of a connection that came in clear.
pub(crate) fn plaintext(
    node: &Node,
    workload: Option<&Arc<Workload>>,
    client: SocketAddr,
    target: SocketAddr,
) -> Flow {
    Flow {
        reporter: Reporter::Destination,
        source: Peer {
            addr: client,
            who: node.workload_at(client.ip()).into(),
            identity: None,
        },
        destination: Peer {
            addr: target,
            who: workload.cloned().into(),
            identity: None,
        },
        service: None,
        hbone_addr: None,
        security: Security::Unknown,
    }
}

/// Records a tunnel that did not come about.
pub(crate) fn tunnel_failed(
    node: &Node,
    pod: &Pod,
    workload: &Arc<Workload>,
    address: SocketAddr,
    failure: Refusal,
) {
    let ip = pod.addresses.first().copied().unwrap_or(address.ip());
    let target = SocketAddr::new(ip, crate::outbound::plan::HBONE_PORT);
    node.telemetry
        .refuse(plaintext(node, Some(workload), address, target), failure);
}

/// Records a connection that its pod's budget did not admit.
pub(crate) fn over_budget(node: &Node, role: Role, ends: Ends, over: &OverBudget) {
    let reporter = match role {
        Role::Outbound => Reporter::Source,
        Role::Plaintext | Role::Hbone => Reporter::Destination,
    };
    let end = |addr: SocketAddr| Peer {
        who: node.workload_at(addr.ip().to_canonical()).into(),
        ..Peer::unknown(addr)
    };
    let flow = Flow {
        reporter,
        source: end(ends.client),
        destination: end(ends.destination),
        service: None,
        hbone_addr: None,
        security: Security::Unknown,
    };
    node.telemetry.refuse(flow, Failure::over_budget(over));
}

/// Tells what policies on trial would have done.
pub(crate) fn dry_run(flow: &Flow, verdicts: &[DryRun]) {
    for verdict in verdicts {
        let identity = flow.source.identity.as_ref().map(ToString::to_string);
        info!(
            target: "access",
            source = %flow.source.addr,
            identity = identity.as_deref().unwrap_or("-"),
            destination = %flow.destination.addr,
            "{verdict}"
        );
    }
}

/// How a tunnelled connection ended.
pub(crate) fn outcome_of_relay(end: RelayEnd) -> Outcome {
    match end {
        RelayEnd::Clean => Outcome::Clean,
        RelayEnd::ResetByPeer {
            which: hbone::Side::Socket,
        } => Outcome::broken("reset by the application"),
        RelayEnd::ResetByPeer {
            which: hbone::Side::Tunnel,
        } => Outcome::broken("reset by the far side"),
        RelayEnd::SocketFailed(error) => Outcome::broken(chain(&error)),
        RelayEnd::TunnelFailed(error) => Outcome::broken(format!("tunnel: {}", chain(&error))),
    }
}

/// How a connection between two sockets ended.
pub(crate) fn outcome_of_join(end: Result<(), Broken>) -> Outcome {
    match end {
        Ok(()) => Outcome::Clean,
        Err(broken) => Outcome::broken(chain(&broken)),
    }
}

/// A connection that a changed policy ended.
pub(crate) fn cut(denial: &Denial) -> Outcome {
    Outcome::Failed(denied(denial))
}

fn denied(denial: &Denial) -> Refusal {
    let rule = match denial {
        Denial::MatchedDeny { rule, .. } => Some(*rule),
        Denial::NoAllowMatched { .. } | Denial::Malformed { .. } | Denial::MissingPolicy { .. } => {
            None
        }
    };
    Refusal::denied(denial, denial.policy().map(|policy| (policy.clone(), rule)))
}

/// Gives every reason for not serving a connection its flag.
pub(crate) struct Failure;

impl Failure {
    pub(crate) fn denied(why: &Denied) -> Refusal {
        match why {
            Denied::Policy(denial) => denied(denial),
            Denied::UnknownWorkload => Refusal::new(ResponseFlag::Connect, why),
        }
    }

    pub(crate) fn misdirected(why: &Misdirected) -> Refusal {
        Refusal::new(ResponseFlag::Connect, why)
    }

    pub(crate) fn reserved(port: u16) -> Refusal {
        Refusal::new(ResponseFlag::Connect, Rejection::ReservedPort(port))
    }

    pub(crate) fn over_budget(why: &OverBudget) -> Refusal {
        Refusal::new(ResponseFlag::Connect, why)
    }

    pub(crate) fn identity(why: &model::SpiffeError) -> Refusal {
        Refusal::new(ResponseFlag::IdentityError, why)
    }

    pub(crate) fn certificate(why: &identity::IdentityError) -> Refusal {
        Refusal::new(ResponseFlag::IdentityError, chain(why))
    }

    pub(crate) fn handshake(why: &identity::HandshakeError) -> Refusal {
        Refusal::new(ResponseFlag::TlsFailure, chain(why))
    }

    pub(crate) fn handshake_deadline(waited: Duration) -> Refusal {
        Refusal::new(
            ResponseFlag::TlsFailure,
            format!("no handshake within {waited:?}"),
        )
    }

    pub(crate) fn http2(why: &hbone::Error) -> Refusal {
        Refusal::new(ResponseFlag::H2HandshakeFailure, chain(why))
    }

    pub(crate) fn app(why: &AppError) -> Refusal {
        Refusal::new(ResponseFlag::Connect, chain(why))
    }

    pub(crate) fn dial(why: &DialError) -> Refusal {
        Refusal::new(ResponseFlag::Connect, chain(why))
    }

    pub(crate) fn unanswered(target: SocketAddr, waited: Duration) -> Refusal {
        Refusal::new(
            ResponseFlag::Connect,
            format!("{target} did not answer within {waited:?}"),
        )
    }

    pub(crate) fn stream(why: &StreamError) -> Refusal {
        let flag = match why {
            StreamError::Refused(hbone::ConnectError::Refused { status, .. })
                if *status == http::StatusCode::UNAUTHORIZED =>
            {
                ResponseFlag::Deny
            }
            StreamError::Refused(_) | StreamError::Unanswered => ResponseFlag::Connect,
            StreamError::Tunnel(error) => match **error {
                TunnelError::Certificate { .. } => ResponseFlag::IdentityError,
                TunnelError::Socket(_) | TunnelError::Connect { .. } => ResponseFlag::Connect,
                TunnelError::Deadline { .. } => ResponseFlag::NetworkPolicy,
                TunnelError::Tls { .. } => ResponseFlag::TlsFailure,
                TunnelError::Http2 { .. } => ResponseFlag::H2HandshakeFailure,
            },
        };
        Refusal::new(flag, chain(why))
    }
}
