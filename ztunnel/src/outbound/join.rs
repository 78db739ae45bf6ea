//! Hops 3 to 6 within one node: hands a connection to a pod that this daemon serves too.
//!
//! Same identities, policy and records as through the tunnel, and nothing on any wire; only
//! while both pods hold valid certificates.

use std::{rc::Rc, sync::Arc};

use telemetry::Refusal;

use super::{Outgoing, plan::HboneRoute};
use crate::{
    inbound::{self, authorize, connections::Subject},
    pod::Pod,
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
    let node = &worker.node;
    let (near, far) = record::joined(&outgoing, &route);
    let (source, stream) = match Box::pin(identities(worker, &outgoing, &route)).await {
        Ok(source) => (source, outgoing.stream),
        Err(failure) => {
            relay::reset(&outgoing.stream);
            node.telemetry.refuse(near, failure);
            return;
        }
    };
    let _admitted = match pod.budget.admit() {
        Ok(ticket) => ticket,
        Err(over) => {
            relay::reset(&stream);
            node.telemetry.refuse(near, Failure::over_budget(&over));
            return;
        }
    };
    let client = outgoing.client.ip();
    let subject = Subject {
        source: Some(source),
        source_ip: client,
        target: route.target,
    };
    let mut registered = worker.connections.register(&pod, subject.clone());
    let judged = authorize::judge(&node.index(), &node.config.network, &pod, &subject);
    let permitted = match judged {
        Ok(permitted) => permitted,
        Err(denied) => {
            relay::reset(&stream);
            node.telemetry.refuse(far, Failure::denied(&denied));
            node.telemetry.refuse(near, Failure::denied(&denied));
            return;
        }
    };
    record::dry_run(&far, &permitted.dry_run);
    let app = match Box::pin(inbound::dial::dial(
        permitted.permit,
        &pod,
        client,
        route.target,
    ))
    .await
    {
        Ok(app) => app,
        Err(error) => {
            relay::reset(&stream);
            node.telemetry.refuse(far, Failure::app(&error));
            node.telemetry.refuse(near, Failure::app(&error));
            return;
        }
    };
    outgoing.ticket.established();
    let near = node.telemetry.open(near);
    let far = node.telemetry.open_sharing(far, &near);
    let joined = relay::join(stream, app, &worker.scratch, near.traffic());
    let outcome =
        inbound::until_denied(joined, &mut registered.denied, record::outcome_of_join).await;
    far.close(outcome.clone());
    near.close(outcome);
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
