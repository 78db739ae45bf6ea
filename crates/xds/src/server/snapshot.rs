//! The published state: marshalled resources by type and name, in persistent maps, so that a
//! snapshot is kept by any number of streams for the price of what changed since.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use imbl::{HashMap, OrdMap, OrdSet, ordmap::DiffItem};
use model::{Change, NetworkAddress, NetworkMode, Resource};
use sha2::{Digest as _, Sha256};

use crate::{ResourceType, convert};

/// Bytes of the content hash that make a version. Half of SHA-256 is beyond accidents, and peers
/// pay for every character on each reconnect.
const VERSION_BYTES: usize = 8;

/// One resource, ready to be sent. Equal versions mean equal content.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) version: Arc<str>,
    pub(super) any: Bytes,
    /// Other names it answers to on demand.
    pub(super) aliases: Arc<[Arc<str>]>,
    /// Names of services that an interest in also covers this resource.
    backs: Arc<[Arc<str>]>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Entry {
    fn new(resource: &Resource) -> Self {
        let any = convert::encode(resource);
        let (aliases, backs) = match resource {
            Resource::Workload(workload) => {
                let found_by_address = workload.network_mode == NetworkMode::Standard;
                let aliases = workload.addresses.iter().filter(|_| found_by_address);
                let aliases = aliases.map(|ip| alias(&workload.network.0, ip)).collect();
                let backs = workload.services.keys();
                (aliases, backs.map(|key| key.to_string().into()).collect())
            }
            Resource::Service(service) => {
                let alias = |vip: &NetworkAddress| alias(&vip.network.0, &vip.ip);
                (service.vips.iter().map(alias).collect(), Vec::new())
            }
            Resource::Authorization(_) => (Vec::new(), Vec::new()),
        };
        Self {
            version: version(&any),
            any,
            aliases: aliases.into(),
            backs: backs.into(),
        }
    }
}

fn alias(network: &str, ip: &std::net::IpAddr) -> Arc<str> {
    format!("{network}/{ip}").into()
}

fn version(any: &[u8]) -> Arc<str> {
    let digest = Sha256::digest(any);
    let mut text = String::with_capacity(2 * VERSION_BYTES);
    for byte in &digest[..VERSION_BYTES] {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text.into()
}

/// A [`Change`], marshalled.
pub(super) struct Marshalled {
    upsert: Vec<(ResourceType, Arc<str>, Entry)>,
    remove: Vec<(ResourceType, Arc<str>)>,
}

impl From<&Change> for Marshalled {
    fn from(change: &Change) -> Self {
        let upsert = change.upsert.iter().map(|resource| {
            let key = resource.key();
            let name = convert::name(&key).into();
            (ResourceType::of(&key), name, Entry::new(resource))
        });
        let remove = change.remove.iter();
        Self {
            upsert: upsert.collect(),
            remove: remove
                .map(|key| (ResourceType::of(key), convert::name(key).into()))
                .collect(),
        }
    }
}

/// The resources of one type.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    entries: OrdMap<Arc<str>, Entry>,
    /// From aliases and service names to the names of entries.
    found_as: HashMap<Arc<str>, OrdSet<Arc<str>>>,
}

impl Table {
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// What changed since `earlier`, at the cost of what changed.
    pub(super) fn since<'table>(
        &'table self,
        earlier: &'table Self,
    ) -> impl Iterator<Item = DiffItem<'table, 'table, Arc<str>, Entry>> {
        earlier.entries.diff(&self.entries)
    }

    /// The names an on-demand interest in `name` covers: the resource of that name or address,
    /// and, when it is a service, the workloads that back it.
    pub(super) fn covered(&self, name: &str) -> OrdSet<Arc<str>> {
        let mut found = self.found_as.get(name).cloned().unwrap_or_default();
        let backing = found
            .iter()
            .filter_map(|name| self.found_as.get(name))
            .cloned()
            .collect::<Vec<_>>();
        for names in backing {
            found.extend(names);
        }
        if let Some((name, _)) = self.entries.get_key_value(name) {
            found.insert(name.clone());
        }
        found
    }

    fn set(&mut self, name: Arc<str>, entry: Entry) -> bool {
        if self.entries.get(&name) == Some(&entry) {
            return false;
        }
        self.remove(&name);
        for alias in entry.aliases.iter().chain(&*entry.backs) {
            let names = self.found_as.entry(alias.clone()).or_default();
            names.insert(name.clone());
        }
        self.entries.insert(name, entry);
        true
    }

    fn remove(&mut self, name: &Arc<str>) -> bool {
        let Some(entry) = self.entries.remove(name) else {
            return false;
        };
        for alias in entry.aliases.iter().chain(&*entry.backs) {
            if let Some(names) = self.found_as.get_mut(alias) {
                names.remove(name);
                if names.is_empty() {
                    self.found_as.remove(alias);
                }
            }
        }
        true
    }
}

/// The published state at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    authorizations: Table,
    addresses: Table,
}

impl Snapshot {
    pub(super) fn table(&self, kind: ResourceType) -> &Table {
        match kind {
            ResourceType::Authorization => &self.authorizations,
            ResourceType::Address => &self.addresses,
        }
    }

    /// The snapshot after `change`, or none when it would be the same.
    pub(super) fn apply(&self, change: Marshalled) -> Option<Self> {
        let mut next = self.clone();
        let mut changed = false;
        for (kind, name) in &change.remove {
            changed |= next.table_mut(*kind).remove(name);
        }
        for (kind, name, entry) in change.upsert {
            changed |= next.table_mut(kind).set(name, entry);
        }
        changed.then_some(next)
    }

    fn table_mut(&mut self, kind: ResourceType) -> &mut Table {
        match kind {
            ResourceType::Authorization => &mut self.authorizations,
            ResourceType::Address => &mut self.addresses,
        }
    }
}
