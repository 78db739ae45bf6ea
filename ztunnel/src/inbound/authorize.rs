//! Hop 5: may this peer reach this target? Pure: verified peer and target -> [`Permit`] or why not.

use std::net::SocketAddr;

use hbone::Authority;
use model::{Index, Network, Workload};
use policy::{Connection, Decision, Denial, DryRun, Permit};

use super::connections::Subject;
use crate::{
    outbound::{balance, plan::RESERVED_PORTS},
    pod::Pod,
};

/// A connection that may go on, and what policies on trial would have said.
pub(crate) struct Permitted {
    pub(crate) permit: Permit,
    pub(crate) dry_run: Vec<DryRun>,
}

/// Why a connection may not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("{0}")]
    Policy(Denial),
    /// Its policies are not known, so nothing may reach it.
    #[error("the configuration holds no workload for this pod and its addresses")]
    UnknownWorkload,
}

/// What is wrong with a CONNECT target (answered 400).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misdirected {
    #[error("{0} is not an address of this pod")]
    OtherAddress(SocketAddr),
    #[error("port {0} is reserved for the mesh")]
    ReservedPort(u16),
    #[error("no service is known as {0}")]
    UnknownHost(String),
    #[error("this pod does not serve port {1} of {0}")]
    NotAnEndpoint(String, u16),
}

/// Judges a connection to `pod`.
pub(crate) fn judge(
    index: &Index,
    network: &Network,
    pod: &Pod,
    subject: &Subject,
) -> Result<Permitted, Denied> {
    let workload = pod
        .workload(index, network)
        .ok_or(Denied::UnknownWorkload)?;
    let connection = Connection {
        source: subject.source.as_ref(),
        source_ip: subject.source_ip,
        destination_ip: subject.target.ip(),
        destination_port: subject.target.port(),
    };
    let verdict = policy::evaluate(index, workload, &connection);
    match verdict.decision {
        Decision::Permit(permit) => Ok(Permitted {
            permit,
            dry_run: verdict.dry_run,
        }),
        Decision::Denied(denial) => Err(Denied::Policy(denial)),
    }
}

/// The application's address behind a CONNECT authority: an address of this pod, or a service
/// this pod is an endpoint of.
pub(crate) fn target(
    index: &Index,
    workload: &Workload,
    authority: &Authority,
) -> Result<SocketAddr, Misdirected> {
    let target = match authority {
        Authority::Address(address) => {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if !workload.addresses.contains(&address.ip()) {
                return Err(Misdirected::OtherAddress(address));
            }
            address
        }
        Authority::Host { host, port } => by_host(index, workload, host, *port)?,
    };
    if RESERVED_PORTS.contains(&target.port()) {
        return Err(Misdirected::ReservedPort(target.port()));
    }
    Ok(target)
}

fn by_host(
    index: &Index,
    workload: &Workload,
    host: &str,
    port: u16,
) -> Result<SocketAddr, Misdirected> {
    let service = index
        .service_named(host, &workload.namespace)
        .ok_or_else(|| Misdirected::UnknownHost(host.to_owned()))?;
    let not_ours = || Misdirected::NotAnEndpoint(host.to_owned(), port);
    if !workload.services.contains_key(&service.key) {
        return Err(not_ours());
    }
    let port = balance::target_port(service, workload, port).ok_or_else(not_ours)?;
    let ip = workload.addresses.first().ok_or_else(not_ours)?;
    Ok(SocketAddr::new(*ip, port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Change, Resource, Service, ServicePort, TargetPort};

    use super::*;

    #[track_caller]
    fn check(authority: Authority, expected: Result<&str, Misdirected>) {
        let mut service = Service::new("shop", "cart", "cart.shop.svc.cluster.local");
        service.ports = vec![ServicePort {
            port: 80,
            target: TargetPort::Number(8080),
            app_protocol: Default::default(),
        }];
        let mut workload = Workload::new("c//Pod/shop/cart", "shop", "cart");
        workload.addresses = vec!["10.0.0.2".parse().unwrap()];
        workload.services.insert(service.key.clone(), Vec::new());
        let other = Service::new("shop", "other", "other.shop.svc.cluster.local");
        let upsert = [service, other]
            .map(Arc::new)
            .map(Resource::Service)
            .to_vec();
        let index = Index::default().apply(Change {
            upsert,
            remove: Vec::new(),
        });
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(target(&index, &workload, &authority), expected);
    }

    fn address(text: &str) -> Authority {
        Authority::Address(text.parse().unwrap())
    }

    fn host(name: &str, port: u16) -> Authority {
        Authority::Host {
            host: name.into(),
            port,
        }
    }

    #[test]
    fn a_target_is_an_address_of_the_pod_or_a_service_it_serves() {
        check(address("10.0.0.2:9000"), Ok("10.0.0.2:9000"));
        check(address("[::ffff:10.0.0.2]:9000"), Ok("10.0.0.2:9000"));
        check(host("cart.shop.svc.cluster.local", 80), Ok("10.0.0.2:8080"));
    }

    #[test]
    fn anything_else_is_refused() {
        let elsewhere = "10.0.0.3:80".parse().unwrap();
        check(
            address("10.0.0.3:80"),
            Err(Misdirected::OtherAddress(elsewhere)),
        );
        check(
            address("10.0.0.2:15008"),
            Err(Misdirected::ReservedPort(15008)),
        );
        check(
            host("gone.shop.svc", 80),
            Err(Misdirected::UnknownHost("gone.shop.svc".into())),
        );
        let other = "other.shop.svc.cluster.local";
        check(
            host(other, 80),
            Err(Misdirected::NotAnEndpoint(other.into(), 80)),
        );
        let cart = "cart.shop.svc.cluster.local";
        check(
            host(cart, 81),
            Err(Misdirected::NotAnEndpoint(cart.into(), 81)),
        );
    }
}
