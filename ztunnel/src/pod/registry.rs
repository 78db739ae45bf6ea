//! The pods of this node, by every name they are looked up under.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::Pod;

/// An immutable set of pods.
#[derive(Default, Clone)]
pub(crate) struct Pods {
    by_uid: HashMap<Arc<str>, Arc<Pod>>,
    by_address: HashMap<IpAddr, Arc<Pod>>,
}

impl Pods {
    /// The pod with this address.
    pub(crate) fn at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        self.by_address.get(&ip)
    }

    /// The pod with this uid.
    pub(crate) fn uid(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.by_uid.get(uid)
    }

    /// The pod of this namespace and name.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.iter()
            .find(|pod| &*pod.namespace == namespace && &*pod.name == name)
    }

    /// All pods, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_uid.values()
    }
}

/// The current set; written by the enrolment task only.
#[derive(Default)]
pub(crate) struct Registry(ArcSwap<Pods>);

impl Registry {
    /// The set as it is now.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Pods>> {
        self.0.load()
    }

    pub(crate) fn insert(&self, pod: &Arc<Pod>) {
        let mut next = Pods::clone(&self.0.load());
        for ip in &pod.addresses {
            next.by_address.insert(*ip, pod.clone());
        }
        next.by_uid.insert(pod.uid.clone(), pod.clone());
        self.0.store(Arc::new(next));
    }

    /// Takes a pod out; addresses that a newer pod has taken over stay with it.
    pub(crate) fn remove(&self, pod: &Arc<Pod>) {
        let mut next = Pods::clone(&self.0.load());
        next.by_address.retain(|_, held| !Arc::ptr_eq(held, pod));
        next.by_uid.retain(|_, held| !Arc::ptr_eq(held, pod));
        self.0.store(Arc::new(next));
    }
}
