//! Hops 5 and 6 for connections that came through a tunnel.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use hbone::{
    Baggage, ReadAhead, Settings, Traffic,
    server::{Incoming, Server},
};
use http::StatusCode;
use model::{SpiffeId, Workload};
use telemetry::{Direction, Flow, Refusal};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::debug;

use super::{
    authorize::{self, Denied},
    connections::{Registered, Subject},
    dial, until_denied,
};
use crate::{
    node::Stage,
    pod::{Pod, Ticket},
    record::{self, Failure},
    worker::{Worker, reached},
};

/// TLS and the HTTP/2 preface must be done in this time: a peer that connects and says nothing
/// holds a descriptor no longer.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A tunnel whose peer is known.
struct Peer {
    identity: SpiffeId,
    address: SocketAddr,
}

/// Serves one tunnel to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    address: SocketAddr,
    mut ticket: Ticket,
) {
    let Some(workload) = worker.node.workload_of(&pod).await else {
        debug!(pod = %pod.name, peer = %address, "a tunnel came before the pod's configuration");
        return;
    };
    let handshake = timeout(
        HANDSHAKE_DEADLINE,
        Box::pin(handshake(&worker, &workload, stream)),
    )
    .await;
    let (mut server, identity) = match handshake {
        Ok(Ok(done)) => done,
        Ok(Err(failure)) => {
            record::tunnel_failed(&worker.node, &pod, &workload, address, failure);
            return;
        }
        Err(_) => {
            let failure = Failure::handshake_deadline(HANDSHAKE_DEADLINE);
            record::tunnel_failed(&worker.node, &pod, &workload, address, failure);
            return;
        }
    };
    ticket.established();
    let peer = Rc::new(Peer { identity, address });
    let mut stage = worker.node.stage();
    let mut asked_to_end = false;
    loop {
        tokio::select! {
            biased;
            incoming = server.accept() => match incoming {
                Some(Ok(incoming)) => {
                    let (worker, pod, peer) = (worker.clone(), pod.clone(), peer.clone());
                    worker.clone().spawn(async move {
                        let gone = pod.gone();
                        tokio::select! {
                            () = stream_to_app(worker, pod, peer, incoming) => {}
                            () = gone => {}
                        }
                    });
                }
                Some(Err(error)) => {
                    debug!(pod = %pod.name, peer = %address, %error, "a request or tunnel failed");
                }
                None => return,
            },
            () = reached(&mut stage, Stage::Draining), if !asked_to_end => {
                server.graceful_shutdown();
                asked_to_end = true;
            }
        }
    }
}

type Tunnelled = Server<identity::ServerStream<ReadAhead<TcpStream>>>;

async fn handshake(
    worker: &Worker,
    workload: &Workload,
    stream: TcpStream,
) -> Result<(Tunnelled, SpiffeId), Refusal> {
    let id = workload
        .identity()
        .map_err(|error| Failure::identity(&error))?;
    let certificate = worker
        .node
        .identities
        .certificate(&id)
        .await
        .map_err(|error| Failure::certificate(&error))?;
    let started = Instant::now();
    let shaken = identity::accept(ReadAhead::new(stream), &certificate).await;
    let metrics = worker.node.telemetry.metrics();
    metrics.handshake(Direction::Inbound, started.elapsed(), &shaken);
    let (stream, peer) = shaken.map_err(|error| Failure::handshake(&error))?;
    let server = Server::handshake(stream, &Settings::server())
        .await
        .map_err(|error| Failure::http2(&error))?;
    Ok((server, peer))
}

/// Serves one CONNECT.
async fn stream_to_app(worker: Rc<Worker>, pod: Arc<Pod>, peer: Rc<Peer>, incoming: Incoming) {
    let _stream = pod.stream();
    let node = &worker.node;
    let index = node.index();
    let Some(workload) = pod.workload(&index, &node.config.network).cloned() else {
        incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
        return;
    };
    let target = authorize::target(&index, &workload, &incoming.request().authority);
    drop(index);
    let (identity, address, request) = (&peer.identity, peer.address, incoming.request());
    let target = match target {
        Ok(target) => target,
        Err(misdirected) => {
            let flow = record::misdirected(node, &workload, identity, address, request);
            incoming.refuse(StatusCode::BAD_REQUEST);
            node.telemetry
                .refuse(flow, Failure::misdirected(&misdirected));
            return;
        }
    };
    let flow = record::inbound(node, &workload, identity, address, target, request);
    let source = Some(identity.clone());
    let subject = Subject {
        source,
        source_ip: address.ip(),
        target,
    };
    let mut admitted = match Box::pin(admit(&worker, &pod, subject, &flow)).await {
        Ok(admitted) => admitted,
        Err((status, refusal)) => {
            incoming.refuse(status);
            node.telemetry.refuse(flow, refusal);
            return;
        }
    };
    let tunnel = match incoming.accept(Some(&Baggage::from(&*workload))) {
        Ok(tunnel) => tunnel,
        Err(error) => {
            node.telemetry.refuse(flow, Failure::http2(&error));
            return;
        }
    };
    admitted.ticket.established();
    let open = node.telemetry.open(flow);
    let traffic = open.traffic();
    let traffic = Traffic {
        to_tunnel: &traffic.to_source,
        from_tunnel: &traffic.to_destination,
    };
    let relayed = hbone::relay(tunnel, admitted.app, traffic);
    let denied = &mut admitted.registered.denied;
    let outcome = until_denied(relayed, denied, record::outcome_of_relay).await;
    open.close(outcome);
}

/// A connection that reached the application.
struct Admitted {
    app: TcpStream,
    registered: Registered,
    ticket: Ticket,
}

/// Hops 5 and 6, or the answer to the peer and the reason for the record.
async fn admit(
    worker: &Worker,
    pod: &Arc<Pod>,
    subject: Subject,
    flow: &Flow,
) -> Result<Admitted, (StatusCode, Refusal)> {
    let ticket = pod
        .budget
        .admit()
        .map_err(|over| (StatusCode::SERVICE_UNAVAILABLE, Failure::over_budget(&over)))?;
    let registered = worker.connections.register(pod, subject.clone());
    let node = &worker.node;
    let permitted = authorize::judge(&node.index(), &node.config.network, pod, &subject)
        .map_err(|denied| (status(&denied), Failure::denied(&denied)))?;
    record::dry_run(flow, &permitted.dry_run);
    let app = dial::dial(permitted.permit, pod, subject.source_ip, subject.target)
        .await
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, Failure::app(&error)))?;
    Ok(Admitted {
        app,
        registered,
        ticket,
    })
}

/// Contract, "Errors".
fn status(denied: &Denied) -> StatusCode {
    match denied {
        Denied::Policy(_) => StatusCode::UNAUTHORIZED,
        Denied::UnknownWorkload => StatusCode::SERVICE_UNAVAILABLE,
    }
}
