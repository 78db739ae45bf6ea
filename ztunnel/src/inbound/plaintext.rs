//! Hops 5 and 6 for a connection that came in clear, from outside the mesh.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use telemetry::{Flow, Refusal};
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    authorize,
    connections::{Registered, Subject},
    dial, until_denied,
};
use crate::{
    outbound::plan::RESERVED_PORTS,
    pod::{Pod, Ticket},
    record::{self, Failure},
    relay,
    worker::Worker,
};

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
    mut ticket: Ticket,
) {
    let Ok(local) = stream.local_addr() else {
        debug!(%client, "the connection was gone before it was served");
        return;
    };
    let target = SocketAddr::new(local.ip().to_canonical(), local.port());
    // Boxed: what comes before the bytes is larger than what carries them.
    let admitted = match Box::pin(admit(&worker, &pod, client, target)).await {
        Ok(admitted) => admitted,
        Err(refused) => {
            relay::reset(&stream);
            let Refused { flow, refusal } = *refused;
            worker.node.telemetry.refuse(flow, refusal);
            return;
        }
    };
    ticket.established();
    let Admitted {
        app,
        mut registered,
        flow,
    } = admitted;
    let open = worker.node.telemetry.open(flow);
    let joined = relay::join(stream, app, &worker.scratch, open.traffic());
    let outcome = until_denied(joined, &mut registered.denied, record::outcome_of_join).await;
    open.close(outcome);
}

/// A connection that reached the application.
struct Admitted {
    app: TcpStream,
    registered: Registered,
    flow: Flow,
}

/// One that did not.
struct Refused {
    flow: Flow,
    refusal: Refusal,
}

async fn admit(
    worker: &Worker,
    pod: &Arc<Pod>,
    client: SocketAddr,
    target: SocketAddr,
) -> Result<Admitted, Box<Refused>> {
    let node = &worker.node;
    // A pod can be faster than its configuration.
    let workload = node.workload_of(pod).await;
    let flow = record::plaintext(node, workload.as_ref(), client, target);
    let reached = reach(worker, pod, client, target, &flow).await;
    match reached {
        Ok((app, registered)) => Ok(Admitted {
            app,
            registered,
            flow,
        }),
        Err(refusal) => Err(Box::new(Refused { flow, refusal })),
    }
}

async fn reach(
    worker: &Worker,
    pod: &Arc<Pod>,
    client: SocketAddr,
    target: SocketAddr,
    flow: &Flow,
) -> Result<(TcpStream, Registered), Refusal> {
    if RESERVED_PORTS.contains(&target.port()) {
        return Err(Failure::reserved(target.port()));
    }
    let source_ip = client.ip();
    let subject = Subject {
        source: None,
        source_ip,
        target,
    };
    let registered = worker.connections.register(pod, subject.clone());
    let node = &worker.node;
    let permitted = authorize::judge(&node.index(), &node.config.network, pod, &subject)
        .map_err(|denied| Failure::denied(&denied))?;
    record::dry_run(flow, &permitted.dry_run);
    let app = dial::dial(permitted.permit, pod, source_ip, target)
        .await
        .map_err(|error| Failure::app(&error))?;
    Ok((app, registered))
}
