//! What the mesh knows: identities, workloads, services, policies, and the [`Index`] of them.
//!
//! Pure values, parsed at the edge and valid ever after. No I/O, no runtime, no wire format:
//! `xds` turns messages into these types, `policy` and the daemons decide on them.

mod authorization;
mod chain;
mod index;
mod service;
mod spiffe;
mod workload;

pub use authorization::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Rules, Scope, ServiceAccountMatch,
    StringMatch,
};
pub use chain::chain;
pub use index::{Change, Endpoint, Index, Resource, ResourceKey};
pub use service::{
    AppProtocol, HealthPolicy, LoadBalancing, LoadBalancingMode, RoutingScope, Service, ServiceKey,
    ServicePort, TargetPort, Visibility,
};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use workload::{
    ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, Health,
    Locality, Network, NetworkAddress, NetworkMode, TunnelProtocol, Workload, WorkloadType,
    WorkloadUid,
};
