//! The immutable view of the mesh that everything is compiled from.
//!
//! Its maps are persistent: a clone is constant time, so that the CA reads a snapshot while the
//! next one is built.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use model::ServiceKey;

use super::{
    authorization_policy::AuthorizationPolicy,
    core::{Gateway, Namespace, Node, Phase, Pod, Service},
    entry::{ServiceEntry, WorkloadEntry},
    object::{Kind, Object, ObjectChange, ObjectKey, ObjectName},
    peer_authentication::PeerAuthentication,
};

/// A pod, as the node that says it is on it names it: nodes cannot speak for one another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodOnNode {
    pub pod: ObjectName,
    pub node: Arc<str>,
}

/// All objects, by kind and name.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub(crate) namespaces: OrdMap<ObjectName, Arc<Namespace>>,
    pub(crate) nodes: OrdMap<ObjectName, Arc<Node>>,
    pub(crate) gateways: OrdMap<ObjectName, Arc<Gateway>>,
    pub(crate) services: OrdMap<ObjectName, Arc<Service>>,
    pub(crate) pods: OrdMap<ObjectName, Arc<Pod>>,
    pub(crate) workload_entries: OrdMap<ObjectName, Arc<WorkloadEntry>>,
    pub(crate) service_entries: OrdMap<ObjectName, Arc<ServiceEntry>>,
    pub(crate) authorization_policies: OrdMap<ObjectName, Arc<AuthorizationPolicy>>,
    pub(crate) peer_authentications: OrdMap<ObjectName, Arc<PeerAuthentication>>,
    /// The pods whose traffic their node captures, with their uid (empty where pods have none).
    pub(crate) enrolled: OrdMap<PodOnNode, Arc<str>>,
    pods_by_node: OrdMap<Arc<str>, OrdSet<ObjectName>>,
    entries_by_host: OrdMap<Arc<str>, OrdSet<ObjectName>>,
}

impl View {
    /// Applies a change and returns the object that was held before.
    pub(crate) fn apply(&mut self, change: ObjectChange) -> Option<Object> {
        match change {
            ObjectChange::Set(object) => {
                let key = object.key();
                let before = self.remove(&key);
                self.insert(key.name, object);
                before
            }
            ObjectChange::Removed(key) => self.remove(&key),
        }
    }

    fn insert(&mut self, name: ObjectName, object: Object) {
        match object {
            Object::Namespace(held) => drop(self.namespaces.insert(name, held)),
            Object::Node(held) => drop(self.nodes.insert(name, held)),
            Object::Gateway(held) => drop(self.gateways.insert(name, held)),
            Object::Service(held) => drop(self.services.insert(name, held)),
            Object::Pod(held) => {
                let on_node = self.pods_by_node.entry(held.node.clone()).or_default();
                on_node.insert(name.clone());
                self.pods.insert(name, held);
            }
            Object::WorkloadEntry(held) => drop(self.workload_entries.insert(name, held)),
            Object::ServiceEntry(held) => {
                for host in &held.hosts {
                    let named = self.entries_by_host.entry(host.clone()).or_default();
                    named.insert(name.clone());
                }
                self.service_entries.insert(name, held);
            }
            Object::AuthorizationPolicy(held) => {
                drop(self.authorization_policies.insert(name, held));
            }
            Object::PeerAuthentication(held) => drop(self.peer_authentications.insert(name, held)),
        }
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Object> {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => self.namespaces.remove(name).map(Object::Namespace),
            Kind::Node => self.nodes.remove(name).map(Object::Node),
            Kind::Gateway => self.gateways.remove(name).map(Object::Gateway),
            Kind::Service => self.services.remove(name).map(Object::Service),
            Kind::Pod => {
                let pod = self.pods.remove(name)?;
                remove_name(&mut self.pods_by_node, &pod.node, name);
                Some(Object::Pod(pod))
            }
            Kind::WorkloadEntry => self
                .workload_entries
                .remove(name)
                .map(Object::WorkloadEntry),
            Kind::ServiceEntry => {
                let entry = self.service_entries.remove(name)?;
                for host in &entry.hosts {
                    remove_name(&mut self.entries_by_host, host, name);
                }
                Some(Object::ServiceEntry(entry))
            }
            Kind::AuthorizationPolicy => {
                let policy = self.authorization_policies.remove(name);
                policy.map(Object::AuthorizationPolicy)
            }
            Kind::PeerAuthentication => {
                let policy = self.peer_authentications.remove(name);
                policy.map(Object::PeerAuthentication)
            }
        }
    }

    /// The namespace object of this name.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&ObjectName::new("", name))
    }

    /// The node object of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectName::new("", name))
    }

    /// The pods placed on a node, those that ended included.
    pub(crate) fn pods_on<'view>(
        &'view self,
        node: &str,
    ) -> impl Iterator<Item = &'view Arc<Pod>> + use<'view> {
        let names = self.pods_by_node.get(node).into_iter().flatten();
        names.filter_map(|name| self.pods.get(name))
    }

    /// Whether a pod that still runs under this account is placed on a node: what the CA asks
    /// before it signs for the node.
    pub(crate) fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        self.pods_on(node).any(|pod| {
            pod.phase == Phase::Active
                && &*pod.name.namespace == namespace
                && &*pod.service_account == service_account
        })
    }

    /// The ServiceEntries that name a host.
    pub(crate) fn entries_named<'view>(
        &'view self,
        host: &str,
    ) -> impl Iterator<Item = &'view Arc<ServiceEntry>> + use<'view> {
        let names = self.entries_by_host.get(host).into_iter().flatten();
        names.filter_map(|name| self.service_entries.get(name))
    }

    /// The ServiceEntry that gives a service its shape: the oldest of its namespace.
    pub(crate) fn entry_of(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.entries_named(&key.hostname)
            .filter(|entry| entry.name.namespace == key.namespace)
            .min_by_key(|entry| (entry.created, &entry.name))
    }
}

/// The objects of one namespace.
pub(crate) fn in_namespace<'map, T: Clone>(
    map: &'map OrdMap<ObjectName, T>,
    namespace: &str,
) -> impl Iterator<Item = (&'map ObjectName, &'map T)> + use<'map, T> {
    let namespace: Arc<str> = namespace.into();
    let first = ObjectName {
        namespace: namespace.clone(),
        name: "".into(),
    };
    map.range(first..)
        .take_while(move |(name, _)| name.namespace == namespace)
}

fn remove_name(map: &mut OrdMap<Arc<str>, OrdSet<ObjectName>>, key: &Arc<str>, name: &ObjectName) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}
