//! Hop 3, endpoint choice: which workload of a service takes a connection.
//!
//! Pure: the random draw is an argument. Capacity-weighted among the endpoints that the
//! service's preferences put first; two passes and no allocation.

use std::sync::Arc;

use model::{
    Health, HealthPolicy, LoadBalancing, LoadBalancingMode, RoutingScope, Service, TargetPort,
    Workload,
};

/// Picks an endpoint for `port`, and says which of its ports the service port leads to.
///
/// `draw` is uniform over all of `u64`. `None`: no endpoint may be used.
pub(crate) fn choose<'index>(
    service: &Service,
    endpoints: impl Iterator<Item = &'index Arc<Workload>> + Clone,
    source: &Workload,
    port: u16,
    draw: u64,
) -> Option<(&'index Arc<Workload>, u16)> {
    let candidates = endpoints.filter_map(|endpoint| {
        let target = target_port(service, endpoint, port)?;
        let rank = rank(service.load_balancing.as_ref(), endpoint, source)?;
        Some((endpoint, target, rank))
    });
    let (best, weight) =
        candidates
            .clone()
            .fold((0, 0_u64), |(best, weight), (endpoint, _, rank)| {
                let capacity = u64::from(endpoint.capacity);
                match rank.cmp(&best) {
                    std::cmp::Ordering::Less => (best, weight),
                    std::cmp::Ordering::Equal => (best, weight + capacity),
                    std::cmp::Ordering::Greater => (rank, capacity),
                }
            });
    // Maps the draw onto 0..weight without modulo bias worth naming.
    let mut ticket = u64::try_from((u128::from(draw) * u128::from(weight)) >> 64).ok()?;
    for (endpoint, target, rank) in candidates {
        if rank != best {
            continue;
        }
        let capacity = u64::from(endpoint.capacity);
        if ticket < capacity {
            return Some((endpoint, target));
        }
        ticket -= capacity;
    }
    None
}

/// The port of `endpoint` behind the service's `port`: the workload's own word wins over the
/// service's, and a named port is known to the workload only.
pub(crate) fn target_port(service: &Service, endpoint: &Workload, port: u16) -> Option<u16> {
    let own = endpoint
        .services
        .get(&service.key)
        .and_then(|ports| ports.iter().find(|(service_port, _)| *service_port == port))
        .map(|(_, target)| *target);
    let declared = || service.port(port).map(|declared| declared.target);
    match own.or_else(declared)? {
        TargetPort::Number(number) => Some(number),
        TargetPort::Named => None,
    }
}

/// How well an endpoint fits, from 0; `None` when it may not be used at all.
fn rank(
    preference: Option<&LoadBalancing>,
    endpoint: &Workload,
    source: &Workload,
) -> Option<usize> {
    let allow_unhealthy =
        preference.is_some_and(|preference| preference.health_policy == HealthPolicy::AllowAll);
    if endpoint.health == Health::Unhealthy && !allow_unhealthy {
        return None;
    }
    if endpoint.addresses.is_empty() {
        return None;
    }
    let Some(preference) = preference else {
        return Some(0);
    };
    let matching = preference
        .scopes
        .iter()
        .take_while(|scope| same(**scope, endpoint, source))
        .count();
    match preference.mode {
        LoadBalancingMode::Any | LoadBalancingMode::Passthrough => Some(0),
        LoadBalancingMode::Failover => Some(matching),
        LoadBalancingMode::Strict => (matching == preference.scopes.len()).then_some(0),
    }
}

fn same(scope: RoutingScope, endpoint: &Workload, source: &Workload) -> bool {
    let (there, here) = (&endpoint.locality, &source.locality);
    match scope {
        RoutingScope::Region => there.region == here.region,
        RoutingScope::Zone => there.zone == here.zone,
        RoutingScope::Subzone => there.subzone == here.subzone,
        RoutingScope::Node => endpoint.node == source.node,
        RoutingScope::Cluster => endpoint.cluster_id == source.cluster_id,
        RoutingScope::Network => endpoint.network == source.network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ServicePort;

    fn service(load_balancing: Option<LoadBalancing>) -> Service {
        let mut service = Service::new("shop", "cart", "cart.shop.svc.cluster.local");
        let target = TargetPort::Number(8080);
        service.ports = vec![ServicePort {
            port: 80,
            target,
            app_protocol: Default::default(),
        }];
        service.load_balancing = load_balancing;
        service
    }

    fn endpoint(name: &str, node: &str, capacity: u32) -> Arc<Workload> {
        let mut workload = Workload::new(name, "shop", name);
        workload.addresses = vec!["10.0.0.1".parse().unwrap()];
        workload.node = node.into();
        workload.capacity = capacity;
        Arc::new(workload)
    }

    fn tally(service: &Service, endpoints: &[Arc<Workload>]) -> Vec<usize> {
        let source = endpoint("client", "a", 1);
        let mut counts = vec![0; endpoints.len()];
        for step in 0..1000_u64 {
            let draw = step * (u64::MAX / 1000) + u64::MAX / 2000;
            if let Some((found, _)) = choose(service, endpoints.iter(), &source, 80, draw) {
                let at = endpoints.iter().position(|held| Arc::ptr_eq(held, found));
                counts[at.unwrap()] += 1;
            }
        }
        counts
    }

    #[test]
    fn capacity_weighs() {
        let endpoints = [endpoint("one", "a", 1), endpoint("three", "a", 3)];
        assert_eq!(tally(&service(None), &endpoints), [250, 750]);
    }

    #[test]
    fn unhealthy_endpoints_take_nothing_unless_allowed() {
        let mut sick = (*endpoint("sick", "a", 1)).clone();
        sick.health = Health::Unhealthy;
        let endpoints = [Arc::new(sick)];
        assert_eq!(tally(&service(None), &endpoints), [0]);
        let allow = LoadBalancing {
            mode: LoadBalancingMode::Any,
            scopes: Vec::new(),
            health_policy: HealthPolicy::AllowAll,
        };
        assert_eq!(tally(&service(Some(allow)), &endpoints), [1000]);
    }

    #[test]
    fn strict_keeps_to_the_node_and_failover_leaves_it_only_when_empty() {
        let prefer = |mode| LoadBalancing {
            mode,
            scopes: vec![RoutingScope::Node],
            health_policy: HealthPolicy::OnlyHealthy,
        };
        let near = endpoint("near", "a", 1);
        let far = endpoint("far", "b", 1);
        let both = [near, far.clone()];
        let only_far = [far];
        for mode in [LoadBalancingMode::Strict, LoadBalancingMode::Failover] {
            assert_eq!(tally(&service(Some(prefer(mode))), &both), [1000, 0]);
        }
        assert_eq!(
            tally(&service(Some(prefer(LoadBalancingMode::Strict))), &only_far),
            [0]
        );
        assert_eq!(
            tally(
                &service(Some(prefer(LoadBalancingMode::Failover))),
                &only_far
            ),
            [1000]
        );
    }

    #[test]
    fn a_workload_s_own_port_wins_and_an_unresolved_name_is_no_port() {
        let service = service(None);
        let mut workload = (*endpoint("cart", "a", 1)).clone();
        assert_eq!(target_port(&service, &workload, 80), Some(8080));
        assert_eq!(target_port(&service, &workload, 81), None);
        workload
            .services
            .insert(service.key.clone(), vec![(80, TargetPort::Number(9000))]);
        assert_eq!(target_port(&service, &workload, 80), Some(9000));
        workload
            .services
            .insert(service.key.clone(), vec![(80, TargetPort::Named)]);
        assert_eq!(target_port(&service, &workload, 80), None);
    }
}
