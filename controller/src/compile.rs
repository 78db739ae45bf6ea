//! Step 2 of a configuration: a [`View`] of the mesh, compiled to resources.
//!
//! What comes out is a sum of units, each a pure function of the view. A change names the units
//! it can reach, only those are computed again, and only resources that differ come out. The
//! property that carries it, tested: the sum after any changes is the sum of a fresh start.

pub(crate) mod authorization;
mod entry;
pub(crate) mod peer;
mod reach;
mod service;
mod waypoint;
mod workload;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use model::{Change, Network, Resource, ResourceKey, ServiceKey, TrustDomain};

use crate::watch::{ObjectChange, ObjectName, PodOnNode, View};

/// What the mesh is called; fixed for the life of a controller.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// Policies of this namespace hold for the whole mesh.
    pub root_namespace: Arc<str>,
    pub cluster_id: Arc<str>,
    pub cluster_domain: Arc<str>,
    pub network: Network,
}

/// What is compiled as one piece.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    Pod(ObjectName),
    WorkloadEntry(ObjectName),
    /// The workloads a ServiceEntry gives inline.
    EntryEndpoints(ObjectName),
    Service(ServiceKey),
    Authorization(ObjectName),
    /// The policy a PeerAuthentication with port modes becomes.
    PeerAuthentication(ObjectName),
    /// The policy that refuses plaintext, which workloads under STRICT name.
    Strict,
}

/// A change to the view.
#[derive(Debug, Clone)]
pub enum Input {
    Object(ObjectChange),
    /// The pod of this uid is captured by its node.
    Enrolled(PodOnNode, Arc<str>),
    /// The pod is not captured, or about to be released.
    Released(PodOnNode),
}

/// Holds the view and what it compiled to.
#[derive(Debug)]
pub struct Compiler {
    settings: Arc<Settings>,
    view: View,
    outputs: HashMap<Unit, Vec<Resource>>,
}

impl Compiler {
    /// A compiler of an empty view, and the resources even that has.
    pub fn new(settings: Arc<Settings>) -> (Self, Change) {
        let mut compiler = Self {
            settings,
            view: View::default(),
            outputs: HashMap::new(),
        };
        let change = compiler.recompile(BTreeSet::from([Unit::Strict]));
        (compiler, change)
    }

    /// The view as of the last change.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Applies changes and returns the resources they change.
    pub fn apply(&mut self, inputs: impl IntoIterator<Item = Input>) -> Change {
        let mut reached = BTreeSet::new();
        for input in inputs {
            match input {
                Input::Object(change) => {
                    let after = match &change {
                        ObjectChange::Set(object) => Some(object.clone()),
                        ObjectChange::Removed(_) => None,
                    };
                    let before = self.view.apply(change);
                    if before == after {
                        continue;
                    }
                    // What an object reached before the change is reached by its going, too.
                    for object in before.iter().chain(&after) {
                        reach::units(&self.settings, &self.view, object, &mut reached);
                    }
                }
                Input::Enrolled(place, uid) => {
                    reached.insert(Unit::Pod(place.pod.clone()));
                    self.view.enrolled.insert(place, uid);
                }
                Input::Released(place) => {
                    self.view.enrolled.remove(&place);
                    reached.insert(Unit::Pod(place.pod));
                }
            }
        }
        self.recompile(reached)
    }

    fn recompile(&mut self, units: BTreeSet<Unit>) -> Change {
        let mut change = Change::default();
        for unit in units {
            let after = compile(&self.settings, &self.view, &unit);
            let before = self.outputs.remove(&unit).unwrap_or_default();
            let keys: BTreeSet<ResourceKey> = after.iter().map(Resource::key).collect();
            let gone = before.iter().map(Resource::key);
            change.remove.extend(gone.filter(|key| !keys.contains(key)));
            let changed = after.iter().filter(|resource| !before.contains(resource));
            change.upsert.extend(changed.cloned());
            if !after.is_empty() {
                self.outputs.insert(unit, after);
            }
        }
        change
    }

    /// Everything that is published.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.outputs.values().flatten()
    }

    /// What the node layer cannot do of the policies it was given, for operators.
    pub fn policy_notes(&self) -> Vec<(ObjectName, authorization::Note)> {
        let policies = self.view.authorization_policies.values();
        policies
            .flat_map(|policy| {
                let notes = authorization::convert(&self.settings, policy).notes;
                notes.into_iter().map(|note| (policy.name.clone(), note))
            })
            .collect()
    }
}

fn compile(settings: &Settings, view: &View, unit: &Unit) -> Vec<Resource> {
    match unit {
        Unit::Pod(name) => {
            let pod = view.pods.get(name);
            let workload = pod.and_then(|pod| workload::of_pod(settings, view, pod));
            workload.map(resource).into_iter().collect()
        }
        Unit::WorkloadEntry(name) => {
            let entry = view.workload_entries.get(name);
            let workload = entry.map(|entry| workload::of_entry(settings, view, entry));
            workload.map(resource).into_iter().collect()
        }
        Unit::EntryEndpoints(name) => {
            let entry = view.service_entries.get(name);
            let endpoints = entry.map(|entry| entry::endpoints(settings, view, entry));
            endpoints.into_iter().flatten().map(resource).collect()
        }
        Unit::Service(key) => {
            let service = service::of_key(settings, view, key);
            let service = service.map(|service| Resource::Service(Arc::new(service)));
            service.into_iter().collect()
        }
        Unit::Authorization(name) => {
            let policy = view.authorization_policies.get(name);
            let policy = policy.and_then(|policy| authorization::convert(settings, policy).policy);
            let policy = policy.map(|policy| Resource::Authorization(Arc::new(policy)));
            policy.into_iter().collect()
        }
        Unit::PeerAuthentication(name) => {
            let policy = peer::port_policy(settings, view, name);
            let policy = policy.map(|policy| Resource::Authorization(Arc::new(policy)));
            policy.into_iter().collect()
        }
        Unit::Strict => vec![Resource::Authorization(Arc::new(peer::strict(settings)))],
    }
}

fn resource(workload: model::Workload) -> Resource {
    Resource::Workload(Arc::new(workload))
}

#[cfg(test)]
mod tests;
