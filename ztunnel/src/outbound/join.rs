//! Hops 3 to 6 within one node: hands a connection to a pod that this daemon serves too.
//!
//! Same identities, policy and records as through the tunnel, and nothing on any wire; only
//! while both pods hold valid certificates.

use std::{rc::Rc, sync::Arc};

use telemetry::{Flow, Refusal};
use tokio::net::TcpStream;

use super::{Outgoing, plan::HboneRoute};
use crate::{
    inbound::{
        self, authorize,
        connections::{Registered, Subject},
    },
    pod::{Pod, Ticket},
    record::{self, Failure},
    relay,
    worker::Worker,
};

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    mut outgoing: Outgoing,
    route: HboneRoute,
    pod: Arc<Pod>,
) {
    let telemetry = &worker.node.telemetry;
    let (near, far) = record::joined(&outgoing, &route);
    // Boxed: what comes before the bytes is larger than what carries them.
    let mut admitted = match Box::pin(admit(worker, &outgoing, &route, &pod, &far)).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            relay::reset(&outgoing.stream);
            telemetry.refuse(far, refusal.clone());
            telemetry.refuse(near, refusal);
            return;
        }
    };
    outgoing.ticket.established();
    admitted.ticket.established();
    let near = telemetry.open(near);
    let far = telemetry.open_sharing(far, &near);
    let joined = relay::join(
        outgoing.stream,
        admitted.app,
        &worker.scratch,
        near.traffic(),
    );
    let denied = &mut admitted.registered.denied;
    let outcome = inbound::until_denied(joined, denied, record::outcome_of_join).await;
    far.close(outcome.clone());
    near.close(outcome);
}

/// A connection that reached the application.
struct Admitted {
    app: TcpStream,
    registered: Registered,
    ticket: Ticket,
}

async fn admit(
    worker: &Worker,
    outgoing: &Outgoing,
    route: &HboneRoute,
    pod: &Arc<Pod>,
    far: &Flow,
) -> Result<Admitted, Refusal> {
    let source = identities(worker, outgoing, route).await?;
    let ticket = pod
        .budget
        .admit()
        .map_err(|over| Failure::over_budget(&over))?;
    let (source_ip, target) = (outgoing.client.ip(), route.target);
    let subject = Subject {
        source: Some(source),
        source_ip,
        target,
    };
    let registered = worker.connections.register(pod, subject.clone());
    let node = &worker.node;
    let permitted = authorize::judge(&node.index(), &node.config.network, pod, &subject)
        .map_err(|denied| Failure::denied(&denied))?;
    record::dry_run(far, &permitted.dry_run);
    let app = inbound::dial::dial(permitted.permit, pod, source_ip, target)
        .await
        .map_err(|error| Failure::app(&error))?;
    Ok(Admitted {
        app,
        registered,
        ticket,
    })
}

/// The source's identity, once both sides have shown a valid certificate for theirs.
async fn identities(
    worker: &Worker,
    outgoing: &Outgoing,
    route: &HboneRoute,
) -> Result<model::SpiffeId, Refusal> {
    let source = outgoing
        .source
        .identity()
        .map_err(|error| Failure::identity(&error))?;
    let destination = route
        .endpoint
        .identity()
        .map_err(|error| Failure::identity(&error))?;
    for id in [&source, &destination] {
        worker
            .node
            .identities
            .certificate(id)
            .await
            .map_err(|error| Failure::certificate(&error))?;
    }
    Ok(source)
}
