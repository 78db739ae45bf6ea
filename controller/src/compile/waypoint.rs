//! Which waypoint an object names, by label, and which it inherits from its namespace.
//!
//! A name is published whether or not the waypoint exists: the daemon refuses what it cannot
//! route through it, so that a missing waypoint is not a way around its policies.

use model::{GatewayAddress, GatewayDestination};

use super::{Settings, service};
use crate::watch::{ObjectName, View, core::Namespace, object::Labels};

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const MANAGED: &str = "gateway.istio.io/managed";
const HBONE_MTLS_PORT: u16 = 15008;

/// What kind of destination asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Service,
    Workload,
}

enum Named {
    Waypoint(ObjectName),
    OptedOut,
}

/// The waypoint of an object with these labels.
pub(crate) fn of(
    settings: &Settings,
    view: &View,
    namespace: &str,
    labels: &Labels,
    traffic: Traffic,
) -> Option<GatewayAddress> {
    // A waypoint or east-west gateway is where the chain ends.
    if labels.contains_key(MANAGED) {
        return None;
    }
    let name = match named(labels, namespace) {
        Some(Named::OptedOut) => return None,
        Some(Named::Waypoint(name)) => name,
        None => {
            let defaults = &view.namespace(namespace)?.labels;
            match named(defaults, namespace)? {
                Named::Waypoint(name) if takes(view, &name, traffic) => name,
                Named::Waypoint(_) | Named::OptedOut => return None,
            }
        }
    };
    Some(GatewayAddress {
        destination: GatewayDestination::Hostname(service::key(settings, &name)),
        hbone_mtls_port: HBONE_MTLS_PORT,
    })
}

/// Whether a namespace names this gateway as its default waypoint.
pub(crate) fn names(namespace: &Namespace, gateway: &ObjectName) -> bool {
    matches!(
        named(&namespace.labels, &namespace.name.name),
        Some(Named::Waypoint(name)) if name == *gateway
    )
}

fn named(labels: &Labels, namespace: &str) -> Option<Named> {
    let name = labels.get(USE_WAYPOINT)?;
    if name == "none" {
        return Some(Named::OptedOut);
    }
    let namespace = labels
        .get(USE_WAYPOINT_NAMESPACE)
        .map_or(namespace, String::as_str);
    Some(Named::Waypoint(ObjectName::new(namespace, name)))
}

/// A waypoint takes the traffic of services unless it says otherwise; one that is not known has
/// said nothing.
fn takes(view: &View, gateway: &ObjectName, traffic: Traffic) -> bool {
    let gateway = view.gateways.get(gateway);
    let says = gateway.and_then(|gateway| gateway.labels.get(WAYPOINT_FOR));
    match says.map(String::as_str) {
        Some("all") => true,
        Some("none") => false,
        Some("workload") => traffic == Traffic::Workload,
        Some(_) | None => traffic == Traffic::Service,
    }
}
