//! The index: everything a daemon decides on, as an immutable snapshot.
//!
//! Its maps are persistent, so a snapshot is cloned in constant time and a change costs what it
//! touches. Writers apply a [`Change`] to a clone and swap it in; readers never wait.

use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdSet, Vector};

use crate::{
    Authorization, Network, NetworkAddress, NetworkMode, PolicyKey, Scope, Service, ServiceKey,
    TunnelProtocol, Visibility, Workload, WorkloadUid,
};

/// One thing the index holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    Authorization(Arc<Authorization>),
}

impl Resource {
    /// The key it is stored under.
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Workload(workload) => ResourceKey::Workload(workload.uid.clone()),
            Self::Service(service) => ResourceKey::Service(service.key.clone()),
            Self::Authorization(policy) => ResourceKey::Authorization(policy.key.clone()),
        }
    }
}

/// The name of a [`Resource`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    Workload(WorkloadUid),
    Service(ServiceKey),
    Authorization(PolicyKey),
}

/// What one configuration message changes.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub upsert: Vec<Resource>,
    pub remove: Vec<ResourceKey>,
}

/// A workload that backs a service.
pub type Endpoint = Arc<Workload>;

/// Workloads, services and policies, by every name they are looked up under.
#[derive(Debug, Clone, Default)]
pub struct Index {
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    by_address: HashMap<NetworkAddress, Vector<Arc<Workload>>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, OrdSet<ServiceKey>>,
    by_hostname: HashMap<Arc<str>, OrdSet<ServiceKey>>,
    cidr_services: OrdSet<ServiceKey>,
    endpoints: HashMap<ServiceKey, Vector<Endpoint>>,
    policies: HashMap<PolicyKey, Arc<Authorization>>,
    scoped_policies: HashMap<PolicyScope, OrdSet<PolicyKey>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PolicyScope {
    Global,
    Namespace(Arc<str>),
}

impl Index {
    /// The snapshot after `change`.
    #[must_use]
    pub fn apply(&self, change: Change) -> Self {
        let mut next = self.clone();
        for key in change.remove {
            next.remove(&key);
        }
        for resource in change.upsert {
            next.remove(&resource.key());
            next.insert(resource);
        }
        next
    }

    fn insert(&mut self, resource: Resource) {
        match resource {
            Resource::Workload(workload) => self.insert_workload(workload),
            Resource::Service(service) => self.insert_service(service),
            Resource::Authorization(policy) => self.insert_policy(policy),
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        match key {
            ResourceKey::Workload(uid) => self.remove_workload(uid),
            ResourceKey::Service(key) => self.remove_service(key),
            ResourceKey::Authorization(key) => self.remove_policy(key),
        }
    }

    fn insert_workload(&mut self, workload: Arc<Workload>) {
        for address in indexed_addresses(&workload) {
            let holders = self.by_address.entry(address).or_default();
            let at = holders.binary_search_by_key(&precedence(&workload), |held| precedence(held));
            holders.insert(at.unwrap_or_else(|at| at), workload.clone());
        }
        for service in workload.services.keys() {
            let endpoints = self.endpoints.entry(service.clone()).or_default();
            let at = endpoints.binary_search_by(|held| held.uid.cmp(&workload.uid));
            endpoints.insert(at.unwrap_or_else(|at| at), workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(workload) = self.workloads.remove(uid) else {
            return;
        };
        for address in indexed_addresses(&workload) {
            if let Some(holders) = self.by_address.get_mut(&address) {
                holders.retain(|held| held.uid != *uid);
                if holders.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for service in workload.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(service) {
                if let Ok(at) = endpoints.binary_search_by(|held| held.uid.cmp(uid)) {
                    endpoints.remove(at);
                }
                if endpoints.is_empty() {
                    self.endpoints.remove(service);
                }
            }
        }
    }

    fn insert_service(&mut self, service: Arc<Service>) {
        for vip in &service.vips {
            self.by_vip
                .entry(vip.clone())
                .or_default()
                .insert(service.key.clone());
        }
        if !service.cidr_vips.is_empty() {
            self.cidr_services.insert(service.key.clone());
        }
        let hostname = service.key.hostname.clone();
        self.by_hostname
            .entry(hostname)
            .or_default()
            .insert(service.key.clone());
        self.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.remove(key) else {
            return;
        };
        for vip in &service.vips {
            remove_from(&mut self.by_vip, vip, key);
        }
        remove_from(&mut self.by_hostname, &key.hostname, key);
        self.cidr_services.remove(key);
    }

    fn insert_policy(&mut self, policy: Arc<Authorization>) {
        if let Some(scope) = policy_scope(&policy) {
            self.scoped_policies
                .entry(scope)
                .or_default()
                .insert(policy.key.clone());
        }
        self.policies.insert(policy.key.clone(), policy);
    }

    fn remove_policy(&mut self, key: &PolicyKey) {
        let Some(policy) = self.policies.remove(key) else {
            return;
        };
        if let Some(scope) = policy_scope(&policy) {
            remove_from(&mut self.scoped_policies, &scope, key);
        }
    }

    /// The workload with this name.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload an address names. Of several, a pod wins over other kinds, then one in the
    /// mesh over one outside (contract, "Duplicate IP").
    pub fn workload_at(&self, network: &Network, ip: IpAddr) -> Option<&Arc<Workload>> {
        let address = NetworkAddress {
            network: network.clone(),
            ip,
        };
        self.by_address.get(&address)?.front()
    }

    /// The pod of this namespace and name, if known.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.workloads
            .values()
            .find(|held| &*held.namespace == namespace && &*held.name == name)
    }

    /// The service with this name.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service a virtual address stands for, as seen by a client of `namespace`: exact
    /// addresses first, then ranges by the client's own namespace, prefix length and canonicity.
    pub fn service_at(
        &self,
        network: &Network,
        ip: IpAddr,
        namespace: &str,
    ) -> Option<&Arc<Service>> {
        let address = NetworkAddress {
            network: network.clone(),
            ip,
        };
        let visible = |service: &&Arc<Service>| {
            service.visibility == Visibility::Public || &*service.key.namespace == namespace
        };
        let exact = self.by_vip.get(&address).and_then(|keys| {
            keys.iter()
                .filter_map(|key| self.services.get(key))
                .filter(visible)
                .max_by_key(|held| (&*held.key.namespace == namespace, held.canonical))
        });
        exact.or_else(|| {
            self.cidr_services
                .iter()
                .filter_map(|key| self.services.get(key))
                .filter(visible)
                .filter_map(|service| Some((service, longest_prefix(service, network, ip)?)))
                .max_by_key(|(held, prefix)| {
                    (&*held.key.namespace == namespace, *prefix, held.canonical)
                })
                .map(|(service, _)| service)
        })
    }

    /// The service a fully qualified host name stands for: the client's own namespace first,
    /// then the canonical one.
    pub fn service_named(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        self.by_hostname
            .get(hostname)?
            .iter()
            .filter_map(|key| self.services.get(key))
            .filter(|held| {
                held.visibility == Visibility::Public || &*held.key.namespace == namespace
            })
            .max_by_key(|held| (&*held.key.namespace == namespace, held.canonical))
    }

    /// The workloads that back a service, in a stable order, healthy or not.
    pub fn endpoints(&self, key: &ServiceKey) -> Option<&Vector<Endpoint>> {
        self.endpoints.get(key)
    }

    /// The policy with this name.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    /// The names of all policies that hold for a workload: global, its namespace's, its own.
    pub fn policies_for<'index>(
        &'index self,
        workload: &'index Workload,
    ) -> impl Iterator<Item = &'index PolicyKey> + use<'index> {
        let scoped = |scope: &PolicyScope| self.scoped_policies.get(scope).into_iter().flatten();
        scoped(&PolicyScope::Global)
            .chain(scoped(&PolicyScope::Namespace(workload.namespace.clone())))
            .chain(&workload.authorization_policies)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }
}

fn indexed_addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + '_ {
    let named = workload.network_mode == NetworkMode::Standard;
    workload
        .addresses
        .iter()
        .filter(move |_| named)
        .map(|ip| NetworkAddress {
            network: workload.network.clone(),
            ip: *ip,
        })
}

fn precedence(workload: &Workload) -> (bool, bool, WorkloadUid) {
    let is_pod = workload.uid.0.contains("//Pod/");
    (
        !is_pod,
        workload.tunnel_protocol == TunnelProtocol::None,
        workload.uid.clone(),
    )
}

fn longest_prefix(service: &Service, network: &Network, ip: IpAddr) -> Option<u8> {
    service
        .cidr_vips
        .iter()
        .filter(|(vip_network, range)| vip_network == network && range.contains(&ip))
        .map(|(_, range)| range.prefix_len())
        .max()
}

fn policy_scope(policy: &Authorization) -> Option<PolicyScope> {
    match policy.scope {
        Scope::Global => Some(PolicyScope::Global),
        Scope::Namespace => Some(PolicyScope::Namespace(policy.key.namespace.clone())),
        Scope::WorkloadSelector => None,
    }
}

fn remove_from<K, V>(map: &mut HashMap<K, OrdSet<V>>, key: &K, value: &V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone + Ord,
{
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TargetPort;

    fn workload(uid: &str, ip: &str, service: Option<&ServiceKey>) -> Resource {
        let mut workload = Workload::new(uid, "shop", "cart");
        workload.addresses = vec![ip.parse().unwrap()];
        if let Some(key) = service {
            workload
                .services
                .insert(key.clone(), vec![(80, TargetPort::Number(8080))]);
        }
        Resource::Workload(Arc::new(workload))
    }

    fn upsert(resources: Vec<Resource>) -> Change {
        Change {
            upsert: resources,
            remove: Vec::new(),
        }
    }

    #[test]
    fn an_address_that_moves_is_found_at_its_new_owner_only() {
        let ip = "10.0.0.1".parse().unwrap();
        let network = Network::default();
        let first =
            Index::default().apply(upsert(vec![workload("c//Pod/shop/a", "10.0.0.1", None)]));
        let moved = first.apply(upsert(vec![
            workload("c//Pod/shop/a", "10.0.0.2", None),
            workload("c//Pod/shop/b", "10.0.0.1", None),
        ]));
        assert_eq!(
            &*first.workload_at(&network, ip).unwrap().uid.0,
            "c//Pod/shop/a"
        );
        assert_eq!(
            &*moved.workload_at(&network, ip).unwrap().uid.0,
            "c//Pod/shop/b"
        );
    }

    #[test]
    fn a_pod_wins_a_shared_address_over_other_kinds() {
        let ip = "10.0.0.1".parse().unwrap();
        for order in [
            ["c//Pod/shop/z", "c/x/WorkloadEntry/shop/a"],
            ["c/x/WorkloadEntry/shop/a", "c//Pod/shop/z"],
        ] {
            let resources = order.map(|uid| workload(uid, "10.0.0.1", None)).to_vec();
            let index = Index::default().apply(upsert(resources));
            let found = index.workload_at(&Network::default(), ip).unwrap();
            assert_eq!(&*found.uid.0, "c//Pod/shop/z");
        }
    }

    #[test]
    fn endpoints_follow_their_workloads_even_before_the_service_is_known() {
        let key = Service::new("shop", "cart", "cart.shop.svc.cluster.local").key;
        let index = Index::default().apply(upsert(vec![
            workload("c//Pod/shop/a", "10.0.0.1", Some(&key)),
            workload("c//Pod/shop/b", "10.0.0.2", Some(&key)),
        ]));
        assert_eq!(index.endpoints(&key).unwrap().len(), 2);
        let gone = Change {
            upsert: vec![workload("c//Pod/shop/b", "10.0.0.2", None)],
            remove: vec![ResourceKey::Workload(WorkloadUid("c//Pod/shop/a".into()))],
        };
        assert!(index.apply(gone).endpoints(&key).is_none());
    }

    #[test]
    fn the_longest_range_wins_among_cidr_services() {
        let cidr = |name: &str, range: &str| {
            let mut service = Service::new("egress", name, name);
            service.cidr_vips = vec![(Network::default(), range.parse().unwrap())];
            Resource::Service(Arc::new(service))
        };
        let index = Index::default().apply(upsert(vec![
            cidr("wide", "240.0.0.0/8"),
            cidr("narrow", "240.1.0.0/16"),
        ]));
        let found = index.service_at(&Network::default(), "240.1.2.3".parse().unwrap(), "shop");
        assert_eq!(&*found.unwrap().name, "narrow");
    }
}
