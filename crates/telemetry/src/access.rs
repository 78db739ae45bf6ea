//! The access log: target `access`, one line at a connection's end, one at debug at its opening.
//!
//! Field names are those of Istio's ztunnel, so that what parses its log parses ours. Identities
//! are shown only when mutual TLS has proven them.

use std::{fmt::Display, time::Duration};

use model::SpiffeId;
use tracing::{Level, enabled, event};

use crate::{
    Flow, Outcome, Peer, Refusal, Reporter, Security, Traffic, Who, flow::ServiceName, labels,
};

/// What a line tells of one end.
struct End<'a> {
    workload: Option<&'a str>,
    namespace: Option<&'a str>,
    cluster: Option<&'a str>,
    identity: Option<String>,
}

impl<'a> End<'a> {
    fn of(peer: &'a Peer, identity: Option<SpiffeId>, security: Security) -> Self {
        let (workload, namespace, cluster) = match &peer.who {
            Who::Workload(workload) => (
                said(&workload.name),
                said(&workload.namespace),
                said(&workload.cluster_id),
            ),
            Who::Claimed(claims) => (
                claims
                    .service_name
                    .as_deref()
                    .or(claims.workload.as_deref()),
                claims.namespace.as_deref(),
                claims.cluster.as_deref(),
            ),
            Who::Unknown => (None, None, None),
        };
        Self {
            workload,
            namespace,
            cluster,
            identity: match security {
                Security::MutualTls => identity.map(|id| id.to_string()),
                Security::Unknown => None,
            },
        }
    }
}

fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn shown(value: Option<&impl Display>) -> Option<tracing::field::DisplayValue<&dyn Display>> {
    value.map(|value| tracing::field::display(value as &dyn Display))
}

/// One event with the fields of every line, and those of this one.
macro_rules! line {
    ($level:ident, $flow:expr, $message:literal $(, $($field:tt)+)?) => {{
        let flow: &Flow = $flow;
        let source = End::of(&flow.source, flow.source.identity.clone(), flow.security);
        let destination =
            End::of(&flow.destination, labels::destination_identity(flow), flow.security);
        event!(
            target: "access",
            Level::$level,
            {
                src.addr = %flow.source.addr,
                src.workload = source.workload,
                src.namespace = source.namespace,
                src.cluster = source.cluster,
                src.identity = source.identity,
                dst.addr = %flow.destination.addr,
                dst.hbone_addr = shown(flow.hbone_addr.as_ref()),
                dst.service = flow.service.as_ref().map(|service: &ServiceName| &*service.hostname),
                dst.workload = destination.workload,
                dst.namespace = destination.namespace,
                dst.cluster = destination.cluster,
                dst.identity = destination.identity,
                direction = flow.reporter.direction(),
                $($($field)+,)?
            },
            $message
        );
    }};
}

pub(crate) fn opened(flow: &Flow) {
    if enabled!(target: "access", Level::DEBUG) {
        line!(DEBUG, flow, "connection opened");
    }
}

/// A connection that was not served. A line for each: a refusal must never be silent.
pub(crate) fn refused(flow: &Flow, refusal: &Refusal) {
    if !enabled!(target: "access", Level::WARN) {
        return;
    }
    let policy = refusal.policy.as_ref();
    line!(
        WARN,
        flow,
        "connection failed",
        response_flags = refusal.flag.as_str(),
        policy = shown(policy.map(|(key, _)| key)),
        rule = policy.and_then(|(_, rule)| *rule),
        error = &*refusal.reason
    );
}

pub(crate) fn closed(flow: &Flow, traffic: &Traffic, open: Duration, outcome: &Outcome) {
    let wanted = match outcome {
        Outcome::Clean => enabled!(target: "access", Level::INFO),
        Outcome::Failed(_) => enabled!(target: "access", Level::ERROR),
    };
    if !wanted {
        return;
    }
    // Seen from the reporter's own workload, unlike the metrics (see `traffic`).
    let (sent, received) = match flow.reporter {
        Reporter::Source => (traffic.to_destination(), traffic.to_source()),
        Reporter::Destination => (traffic.to_source(), traffic.to_destination()),
    };
    let duration = format!("{}ms", open.as_millis());
    match outcome {
        Outcome::Clean => line!(
            INFO,
            flow,
            "connection complete",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration
        ),
        Outcome::Failed(failure) => line!(
            ERROR,
            flow,
            "connection complete",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration,
            policy = shown(failure.policy.as_ref().map(|(key, _)| key)),
            rule = failure.policy.as_ref().and_then(|(_, rule)| *rule),
            error = &*failure.reason
        ),
    }
}
