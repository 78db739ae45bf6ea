//! Hops 3 and 4: a connection that a pod began.

pub(crate) mod balance;
pub(crate) mod dial;
mod join;
pub(crate) mod plan;
pub(crate) mod tunnel;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use hbone::{Baggage, ConnectRequest, Forwarded, Traceparent, Traffic, Tunnel};
use model::Workload;
use telemetry::Refusal;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::debug;

use self::{
    plan::{HboneRoute, PlainRoute, Plan},
    tunnel::TunnelKey,
};
use crate::{
    config::SameNode,
    pod::{Pod, Ticket},
    record::{self, Failure},
    relay,
    worker::Worker,
};

/// How long a destination outside the mesh may take to accept: what a client's own connect waits
/// is its own choice, but the daemon does not hold a pending connection for ever.
const PLAIN_DEADLINE: Duration = Duration::from_secs(120);

/// A connection on its way out, as far as it is known before it is planned.
pub(crate) struct Outgoing {
    pub(crate) pod: Arc<Pod>,
    pub(crate) source: Arc<Workload>,
    pub(crate) stream: TcpStream,
    pub(crate) client: SocketAddr,
    /// Where the application believes it connects.
    pub(crate) destination: SocketAddr,
    pub(crate) ticket: Ticket,
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
    ticket: Ticket,
) {
    let Ok(local) = stream.local_addr() else {
        debug!(%client, "the connection was gone before it was served");
        return;
    };
    // The accepted socket's local address is the original destination: nothing was rewritten.
    let destination = SocketAddr::new(local.ip().to_canonical(), local.port());
    let Some(source) = worker.node.workload_of(&pod).await else {
        relay::reset(&stream);
        record::unknown_source(&worker.node, &pod, client, destination);
        return;
    };
    let plan = plan::plan(&worker.node.index(), &source, destination, rand::random());
    let outgoing = Outgoing {
        pod,
        source,
        stream,
        client,
        destination,
        ticket,
    };
    match plan {
        Plan::Hbone(route) => match same_node(&worker, &route) {
            Some(pod) => Box::pin(join::serve(&worker, outgoing, route, pod)).await,
            None => Box::pin(through_tunnel(&worker, outgoing, route)).await,
        },
        Plan::Passthrough(route) => Box::pin(passthrough(&worker, outgoing, route)).await,
        Plan::Reject(why) => {
            relay::reset(&outgoing.stream);
            record::rejected(&worker.node, &outgoing, &why);
        }
    }
}

/// The destination's pod, when this daemon may hand the connection to it itself.
fn same_node(worker: &Worker, route: &HboneRoute) -> Option<Arc<Pod>> {
    if worker.node.config.same_node == SameNode::Tunnel {
        return None;
    }
    let pods = worker.node.pods();
    let pod = pods.at(route.target.ip())?;
    let index = worker.node.index();
    let workload = pod.workload(&index, &worker.node.config.network)?;
    (workload.uid == route.endpoint.uid).then(|| pod.clone())
}

async fn through_tunnel(worker: &Rc<Worker>, mut outgoing: Outgoing, route: HboneRoute) {
    let flow = record::tunnelled(&outgoing, &route);
    // Boxed: it is many times larger than what carries the connection afterwards.
    let opened = Box::pin(open(worker, &outgoing, &route)).await;
    drop(route);
    match opened {
        Ok(tunnel) => {
            outgoing.ticket.established();
            let open = worker.node.telemetry.open(flow);
            let traffic = open.traffic();
            let traffic = Traffic {
                to_tunnel: &traffic.to_destination,
                from_tunnel: &traffic.to_source,
            };
            let end = hbone::relay(tunnel, outgoing.stream, traffic).await;
            open.close(record::outcome_of_relay(end));
        }
        Err(refusal) => {
            relay::reset(&outgoing.stream);
            worker.node.telemetry.refuse(flow, refusal);
        }
    }
}

async fn open(
    worker: &Rc<Worker>,
    outgoing: &Outgoing,
    route: &HboneRoute,
) -> Result<Tunnel, Refusal> {
    let identity = outgoing.source.identity();
    let key = TunnelKey {
        pod: outgoing.pod.uid.clone(),
        source: identity.map_err(|error| Failure::identity(&error))?,
        source_ip: outgoing.client.ip(),
        expected: route.expected.clone(),
        address: route.tunnel,
    };
    let request = ConnectRequest {
        baggage: Some(Baggage::from(&*outgoing.source)),
        forwarded: Some(Forwarded {
            client: outgoing.client,
            host: route
                .service
                .as_ref()
                .map(|service| service.key.hostname.clone()),
        }),
        traceparent: Some(Traceparent::random()),
        ..ConnectRequest::new(route.target)
    };
    let started = Instant::now();
    let tunnel = tunnel::open(worker, &outgoing.pod, &key, &request)
        .await
        .map_err(|error| Failure::stream(&error))?;
    worker
        .node
        .telemetry
        .metrics()
        .tunnel_opened(started.elapsed());
    Ok(tunnel)
}

async fn passthrough(worker: &Rc<Worker>, mut outgoing: Outgoing, route: PlainRoute) {
    let flow = record::passthrough(&outgoing, &route);
    let dialled = timeout(PLAIN_DEADLINE, dial::from_pod(&outgoing.pod, route.target)).await;
    let failure = match dialled {
        Ok(Ok(server)) => {
            outgoing.ticket.established();
            let open = worker.node.telemetry.open(flow);
            let end = relay::join(outgoing.stream, server, &worker.scratch, open.traffic()).await;
            open.close(record::outcome_of_join(end));
            return;
        }
        Ok(Err(error)) => Failure::dial(&error),
        Err(_) => Failure::unanswered(route.target, PLAIN_DEADLINE),
    };
    relay::reset(&outgoing.stream);
    worker.node.telemetry.refuse(flow, failure);
}
