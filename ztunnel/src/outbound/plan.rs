//! Hop 3: where a pod's connection goes. Pure: (index, pod, destination) -> [`Plan`].
//!
//! Order of the contract ("Outbound routing order"). A destination that is in the mesh is never
//! planned in clear: what cannot be tunnelled to it is rejected.

use std::{net::SocketAddr, sync::Arc};

use model::{
    GatewayAddress, GatewayDestination, Index, LoadBalancingMode, Service, SpiffeId,
    TunnelProtocol, Workload,
};

use super::balance;

/// Port of HBONE in every pod.
pub(crate) const HBONE_PORT: u16 = 15008;

/// Ports that are never an application's: our own, and those of Istio's ztunnel (contract, "Ports").
pub(crate) const RESERVED_PORTS: [u16; 4] = [15001, 15006, HBONE_PORT, 15080];

/// What is to be done with a connection.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Through mutual TLS to the workload's node.
    Hbone(HboneRoute),
    /// In clear, as it would go without the mesh: the destination is outside of it.
    Passthrough(PlainRoute),
    Reject(Rejection),
}

/// A way through the tunnel.
#[derive(Debug)]
pub(crate) struct HboneRoute {
    pub(crate) endpoint: Arc<Workload>,
    /// The application's address: the CONNECT authority.
    pub(crate) target: SocketAddr,
    /// Where the tunnel is dialled.
    pub(crate) tunnel: SocketAddr,
    /// Identities of which the peer must show one.
    pub(crate) expected: Vec<SpiffeId>,
    /// The service the client named, if it named one.
    pub(crate) service: Option<Arc<Service>>,
}

/// A way outside the mesh.
#[derive(Debug)]
pub(crate) struct PlainRoute {
    pub(crate) target: SocketAddr,
    pub(crate) endpoint: Option<Arc<Workload>>,
    pub(crate) service: Option<Arc<Service>>,
}

/// Why a connection goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("port {0} is reserved for the mesh")]
    ReservedPort(u16),
    #[error("service {0} has no healthy endpoint for port {1}")]
    NoEndpoint(String, u16),
    #[error("{what} is bound to waypoint {waypoint}, and there is no waypoint to send it through")]
    Waypoint { what: String, waypoint: String },
    #[error("workload {0} is on another network and no gateway to it is known")]
    OtherNetwork(String),
    #[error("workload {workload} has no usable identity: {why}")]
    Identity {
        workload: String,
        why: model::SpiffeError,
    },
    #[error("workload {0} has no address")]
    NoAddress(String),
}

/// Plans one connection of `source` to `destination`. `draw` is uniform over `u64`.
pub(crate) fn plan(index: &Index, source: &Workload, destination: SocketAddr, draw: u64) -> Plan {
    if RESERVED_PORTS.contains(&destination.port()) {
        return Plan::Reject(Rejection::ReservedPort(destination.port()));
    }
    let service = index.service_at(&source.network, destination.ip(), &source.namespace);
    let planned = match service {
        Some(service) => to_service(index, source, service, destination, draw),
        None => to_address(index, source, destination),
    };
    planned.unwrap_or_else(Plan::Reject)
}

fn to_service(
    index: &Index,
    source: &Workload,
    service: &Arc<Service>,
    destination: SocketAddr,
    draw: u64,
) -> Result<Plan, Rejection> {
    refuse_waypoint(service.waypoint.as_ref(), || {
        format!("service {}", service.key)
    })?;
    let passthrough = service
        .load_balancing
        .as_ref()
        .is_some_and(|preference| preference.mode == LoadBalancingMode::Passthrough);
    if passthrough {
        // The client chose the address itself; it may still be one of the mesh.
        return to_address(index, source, destination);
    }
    let no_endpoint = || Rejection::NoEndpoint(service.key.to_string(), destination.port());
    let endpoints = index.endpoints(&service.key).ok_or_else(no_endpoint)?;
    let (endpoint, port) =
        balance::choose(service, endpoints.iter(), source, destination.port(), draw)
            .ok_or_else(no_endpoint)?;
    let target = endpoint
        .socket_address(destination.ip(), port)
        .ok_or_else(|| Rejection::NoAddress(endpoint.uid.to_string()))?;
    to_workload(source, endpoint, target, Some(service))
}

fn to_address(
    index: &Index,
    source: &Workload,
    destination: SocketAddr,
) -> Result<Plan, Rejection> {
    match index.workload_at(&source.network, destination.ip()) {
        Some(workload) => {
            refuse_waypoint(workload.waypoint.as_ref(), || {
                format!("workload {}", workload.uid)
            })?;
            to_workload(source, workload, destination, None)
        }
        None => Ok(Plan::Passthrough(PlainRoute {
            target: destination,
            endpoint: None,
            service: None,
        })),
    }
}

fn to_workload(
    source: &Workload,
    endpoint: &Arc<Workload>,
    target: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Result<Plan, Rejection> {
    if endpoint.network != source.network {
        return Err(Rejection::OtherNetwork(endpoint.uid.to_string()));
    }
    let service = service.cloned();
    match endpoint.tunnel_protocol {
        TunnelProtocol::None => Ok(Plan::Passthrough(PlainRoute {
            target,
            endpoint: Some(endpoint.clone()),
            service,
        })),
        TunnelProtocol::Hbone => Ok(Plan::Hbone(HboneRoute {
            expected: expected_identities(endpoint, service.as_deref())?,
            endpoint: endpoint.clone(),
            tunnel: SocketAddr::new(target.ip(), HBONE_PORT),
            target,
            service,
        })),
    }
}

/// The workload's own identity, and the ones its service vouches for.
fn expected_identities(
    endpoint: &Workload,
    service: Option<&Service>,
) -> Result<Vec<SpiffeId>, Rejection> {
    let own = endpoint.identity().map_err(|why| Rejection::Identity {
        workload: endpoint.uid.to_string(),
        why,
    })?;
    let names = service
        .map(|service| service.subject_alt_names.as_slice())
        .unwrap_or_default();
    // A name that is no SPIFFE identity could match no certificate of ours: leaving it out
    // makes nothing reachable.
    let others = names
        .iter()
        .filter_map(|name| name.parse::<SpiffeId>().ok());
    Ok(std::iter::once(own).chain(others).collect())
}

/// Nothing that names a waypoint is reachable around it (promise 2).
fn refuse_waypoint(
    waypoint: Option<&GatewayAddress>,
    what: impl FnOnce() -> String,
) -> Result<(), Rejection> {
    let Some(waypoint) = waypoint else {
        return Ok(());
    };
    let waypoint = match &waypoint.destination {
        GatewayDestination::Address(address) => address.ip.to_string(),
        GatewayDestination::Hostname(service) => service.to_string(),
    };
    Err(Rejection::Waypoint {
        what: what(),
        waypoint,
    })
}

#[cfg(test)]
mod tests;
