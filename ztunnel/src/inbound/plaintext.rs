//! Hops 5 and 6 for a connection that came in clear, from outside the mesh.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::net::TcpStream;
use tracing::debug;

use super::{authorize, connections::Subject, dial, until_denied};
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
    let node = &worker.node;
    // A pod can be faster than its configuration.
    let workload = node.workload_of(&pod).await;
    let flow = record::plaintext(node, workload.as_ref(), client, target);
    if RESERVED_PORTS.contains(&target.port()) {
        relay::reset(&stream);
        node.telemetry
            .refuse(flow, Failure::reserved(target.port()));
        return;
    }
    let subject = Subject {
        source: None,
        source_ip: client.ip(),
        target,
    };
    let mut registered = worker.connections.register(&pod, subject.clone());
    let judged = authorize::judge(&node.index(), &node.config.network, &pod, &subject);
    let permitted = match judged {
        Ok(permitted) => permitted,
        Err(denied) => {
            relay::reset(&stream);
            node.telemetry.refuse(flow, Failure::denied(&denied));
            return;
        }
    };
    record::dry_run(&flow, &permitted.dry_run);
    match dial::dial(permitted.permit, &pod, client.ip(), target).await {
        Ok(app) => {
            ticket.established();
            let open = node.telemetry.open(flow);
            let joined = relay::join(stream, app, &worker.scratch, open.traffic());
            let outcome =
                until_denied(joined, &mut registered.denied, record::outcome_of_join).await;
            open.close(outcome);
        }
        Err(error) => {
            relay::reset(&stream);
            node.telemetry.refuse(flow, Failure::app(&error));
        }
    }
}
