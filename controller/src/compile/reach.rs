//! Which units a change of one object can reach: dependencies by name, namespace and selector.
//!
//! Too many is only slow, too few is wrong; the property test of [`super`] finds too few.

use std::{collections::BTreeSet, sync::Arc};

use model::ServiceKey;

use super::{Settings, Unit, service, waypoint};
use crate::watch::{
    Object, View,
    object::{Labels, selects},
    view::in_namespace,
};

/// Adds the units that `object` can reach, as it is or was.
pub(crate) fn units(
    settings: &Settings,
    view: &View,
    object: &Object,
    reached: &mut BTreeSet<Unit>,
) {
    let reach = Reach { settings, view };
    match object {
        Object::Namespace(namespace) => {
            reach.everything_in(&namespace.name.name, reached);
        }
        Object::Node(node) => {
            let pods = view.pods_on(&node.name.name);
            reached.extend(pods.map(|pod| Unit::Pod(pod.name.clone())));
        }
        Object::Gateway(gateway) => {
            // It decides which kinds of objects inherit it from a namespace.
            for namespace in view.namespaces.values() {
                if waypoint::names(namespace, &gateway.name) {
                    reach.everything_in(&namespace.name.name, reached);
                }
            }
        }
        Object::Pod(pod) => {
            reached.insert(Unit::Pod(pod.name.clone()));
        }
        Object::WorkloadEntry(entry) => {
            reached.insert(Unit::WorkloadEntry(entry.name.clone()));
        }
        Object::Service(held) => {
            let key = service::key(settings, &held.name);
            reach.host(&key, reached);
            if !held.selector.is_empty() {
                reach.selected(&held.name.namespace, &held.selector, reached);
            }
        }
        Object::ServiceEntry(entry) => {
            for host in &entry.hosts {
                let key = ServiceKey {
                    namespace: entry.name.namespace.clone(),
                    hostname: host.clone(),
                };
                reach.host(&key, reached);
            }
            reached.insert(Unit::EntryEndpoints(entry.name.clone()));
            if !entry.selector.is_empty() {
                reach.selected(&entry.name.namespace, &entry.selector, reached);
            }
        }
        Object::AuthorizationPolicy(policy) => {
            reached.insert(Unit::Authorization(policy.name.clone()));
            // Without a selector it follows from its scope, so that pods and policies change apart.
            if !policy.selector.is_empty() {
                reach.selected_by_policy(&policy.name.namespace, &policy.selector, reached);
            }
        }
        Object::PeerAuthentication(policy) => {
            reached.insert(Unit::PeerAuthentication(policy.name.clone()));
            reach.heirs(&policy.name.namespace, reached);
            reach.selected_by_policy(&policy.name.namespace, &policy.selector, reached);
        }
    }
}

struct Reach<'view> {
    settings: &'view Settings,
    view: &'view View,
}

impl Reach<'_> {
    fn everything_in(&self, namespace: &str, reached: &mut BTreeSet<Unit>) {
        self.selected(namespace, &Labels::new(), reached);
        for (name, _) in in_namespace(&self.view.services, namespace) {
            reached.insert(Unit::Service(service::key(self.settings, name)));
        }
        for (name, entry) in in_namespace(&self.view.service_entries, namespace) {
            reached.insert(Unit::EntryEndpoints(name.clone()));
            reached.extend(entry.hosts.iter().map(|host| {
                Unit::Service(ServiceKey {
                    namespace: name.namespace.clone(),
                    hostname: host.clone(),
                })
            }));
        }
    }

    /// A host name is shared: another object may take it over, or hand it on.
    fn host(&self, key: &ServiceKey, reached: &mut BTreeSet<Unit>) {
        reached.insert(Unit::Service(key.clone()));
        for entry in self.view.entries_named(&key.hostname) {
            reached.insert(Unit::Service(ServiceKey {
                namespace: entry.name.namespace.clone(),
                hostname: key.hostname.clone(),
            }));
            if entry.name.namespace == key.namespace {
                reached.insert(Unit::EntryEndpoints(entry.name.clone()));
                if !entry.selector.is_empty() {
                    self.selected(&key.namespace, &entry.selector, reached);
                }
            }
        }
    }

    fn selected(&self, namespace: &str, selector: &Labels, reached: &mut BTreeSet<Unit>) {
        let pods = in_namespace(&self.view.pods, namespace);
        let pods = pods.filter(|(_, pod)| selects(selector, &pod.labels));
        reached.extend(pods.map(|(name, _)| Unit::Pod(name.clone())));
        let entries = in_namespace(&self.view.workload_entries, namespace);
        let entries = entries.filter(|(_, entry)| selects(selector, &entry.labels));
        reached.extend(entries.map(|(name, _)| Unit::WorkloadEntry(name.clone())));
        // Endpoints given inline are under policy as other workloads are.
        for (name, _) in in_namespace(&self.view.service_entries, namespace) {
            reached.insert(Unit::EntryEndpoints(name.clone()));
        }
    }

    fn selected_by_policy(
        &self,
        namespace: &Arc<str>,
        selector: &Labels,
        reached: &mut BTreeSet<Unit>,
    ) {
        if *namespace == self.settings.root_namespace {
            self.all_selected(selector, reached);
        } else {
            self.selected(namespace, selector, reached);
        }
    }

    /// PeerAuthentications that inherit from those of this namespace.
    fn heirs(&self, namespace: &Arc<str>, reached: &mut BTreeSet<Unit>) {
        let peers = self.view.peer_authentications.keys();
        let is_root = *namespace == self.settings.root_namespace;
        let heirs = peers.filter(|name| is_root || name.namespace == *namespace);
        reached.extend(heirs.cloned().map(Unit::PeerAuthentication));
    }

    fn all_selected(&self, selector: &Labels, reached: &mut BTreeSet<Unit>) {
        let pods = self.view.pods.values();
        let pods = pods.filter(|pod| selects(selector, &pod.labels));
        reached.extend(pods.map(|pod| Unit::Pod(pod.name.clone())));
        let entries = self.view.workload_entries.values();
        let entries = entries.filter(|entry| selects(selector, &entry.labels));
        reached.extend(entries.map(|entry| Unit::WorkloadEntry(entry.name.clone())));
        let entries = self.view.service_entries.keys();
        reached.extend(entries.map(|name| Unit::EntryEndpoints(name.clone())));
    }
}
