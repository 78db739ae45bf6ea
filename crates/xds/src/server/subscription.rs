//! What one stream wants of one type, and what it was sent: pure, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;

use super::snapshot::{Entry, Table};
use crate::proto::discovery::{DeltaDiscoveryRequest, Resource};

const WILDCARD: &str = "*";

/// What must be sent to bring a client up to date.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<String>,
    /// The client waits for an answer, even if nothing is in it.
    pub(super) due: bool,
}

impl Update {
    pub(super) fn is_needed(&self) -> bool {
        self.due || !self.resources.is_empty() || !self.removed.is_empty()
    }
}

/// The interest of a stream in one resource type.
#[derive(Debug)]
pub(super) struct Subscription {
    interest: Interest,
    /// Names asked for since the last update: they are answered whatever the client has.
    asked: BTreeSet<String>,
    due: bool,
}

#[derive(Debug)]
enum Interest {
    /// Everything. What was sent is a snapshot, which costs a pointer, not a set of names.
    All(Sent),
    /// These names only, and the versions sent of what they cover.
    Named {
        names: BTreeSet<String>,
        sent: BTreeMap<Arc<str>, Arc<str>>,
    },
}

#[derive(Debug)]
enum Sent {
    /// Nothing on this stream yet; the client says it holds these versions.
    Claimed(BTreeMap<String, String>),
    Snapshot(Table),
}

impl Subscription {
    /// The subscription a first request of a type opens. It wants everything when it names
    /// nothing.
    pub(super) fn open(request: DeltaDiscoveryRequest) -> Self {
        let everything = request.resource_names_subscribe.is_empty()
            || request
                .resource_names_subscribe
                .iter()
                .any(|name| name == WILDCARD);
        let nothing = request
            .resource_names_unsubscribe
            .iter()
            .any(|name| name == WILDCARD);
        let claimed = request.initial_resource_versions.clone();
        let interest = if everything && !nothing {
            Interest::All(Sent::Claimed(claimed))
        } else {
            let sent = claimed
                .into_iter()
                .map(|(name, version)| (name.into(), version.into()));
            Interest::Named {
                names: BTreeSet::new(),
                sent: sent.collect(),
            }
        };
        let mut subscription = Self {
            interest,
            asked: BTreeSet::new(),
            due: true,
        };
        if let Interest::Named { .. } = subscription.interest {
            let reconnected = !request.initial_resource_versions.is_empty();
            subscription.change(&request);
            if reconnected {
                // Versions were echoed for the sake of not receiving them again.
                subscription.asked.clear();
            }
        }
        subscription
    }

    /// A later request on the stream.
    pub(super) fn change(&mut self, request: &DeltaDiscoveryRequest) {
        for name in &request.resource_names_subscribe {
            self.due = true;
            match &mut self.interest {
                _ if name == WILDCARD => self.want_everything(),
                Interest::All(_) => {
                    self.asked.insert(name.clone());
                }
                Interest::Named { names, .. } => {
                    names.insert(name.clone());
                    self.asked.insert(name.clone());
                }
            }
        }
        for name in &request.resource_names_unsubscribe {
            match &mut self.interest {
                Interest::All(_) if name == WILDCARD => {
                    self.interest = Interest::Named {
                        names: BTreeSet::new(),
                        sent: BTreeMap::new(),
                    };
                }
                Interest::All(_) => {}
                Interest::Named { names, .. } => {
                    names.remove(name);
                    self.asked.remove(name);
                }
            }
        }
    }

    fn want_everything(&mut self) {
        if let Interest::Named { sent, .. } = &self.interest {
            let claimed = sent
                .iter()
                .map(|(name, version)| (name.to_string(), version.to_string()));
            self.interest = Interest::All(Sent::Claimed(claimed.collect()));
        }
    }

    /// What the client lacks of `table`; from here on it counts as sent.
    pub(super) fn update(&mut self, table: &Table) -> Update {
        let mut update = match &mut self.interest {
            Interest::All(sent) => {
                let update = match sent {
                    Sent::Claimed(claimed) => since_claimed(claimed, table),
                    Sent::Snapshot(earlier) => since_snapshot(earlier, table),
                };
                *sent = Sent::Snapshot(table.clone());
                update
            }
            Interest::Named { names, sent } => since_named(names, sent, table),
        };
        for name in std::mem::take(&mut self.asked) {
            answer(&name, table, &mut update);
        }
        update.due = std::mem::take(&mut self.due);
        update
    }
}

fn since_claimed(claimed: &BTreeMap<String, String>, table: &Table) -> Update {
    let missing = |(name, entry): &(&Arc<str>, &Entry)| {
        claimed.get(&***name).map(String::as_str) != Some(&*entry.version)
    };
    let resources = table.entries().filter(missing);
    let removed = claimed.keys().filter(|name| table.entry(name).is_none());
    Update {
        resources: resources
            .map(|(name, entry)| unaliased(name, entry))
            .collect(),
        removed: removed.cloned().collect(),
        due: false,
    }
}

fn since_snapshot(earlier: &Table, table: &Table) -> Update {
    let mut update = Update::default();
    for item in table.since(earlier) {
        match item {
            DiffItem::Add(name, entry)
            | DiffItem::Update {
                new: (name, entry), ..
            } => update.resources.push(unaliased(name, entry)),
            DiffItem::Remove(name, _) => update.removed.push(name.to_string()),
        }
    }
    update
}

fn since_named(
    names: &BTreeSet<String>,
    sent: &mut BTreeMap<Arc<str>, Arc<str>>,
    table: &Table,
) -> Update {
    let covered = names.iter().flat_map(|name| table.covered(name));
    let wanted: BTreeMap<Arc<str>, Entry> = covered
        .filter_map(|name| {
            table
                .entry(&name)
                .map(|entry| (name.clone(), entry.clone()))
        })
        .collect();
    let changed = wanted
        .iter()
        .filter(|(name, entry)| sent.get(*name) != Some(&entry.version));
    let update = Update {
        resources: changed.map(|(name, entry)| aliased(name, entry)).collect(),
        removed: sent
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .map(ToString::to_string)
            .collect(),
        due: false,
    };
    let versions = wanted
        .into_iter()
        .map(|(name, entry)| (name, entry.version));
    *sent = versions.collect();
    update
}

/// A name that was asked for is answered: sent again, or told not to exist.
fn answer(name: &str, table: &Table, update: &mut Update) {
    let covered = table.covered(name);
    if covered.is_empty() && !update.removed.iter().any(|removed| removed == name) {
        update.removed.push(name.to_owned());
    }
    for name in &covered {
        let included = update
            .resources
            .iter()
            .any(|resource| resource.name == **name);
        if let Some(entry) = table.entry(name).filter(|_| !included) {
            update.resources.push(aliased(name, entry));
        }
    }
}

fn aliased(name: &str, entry: &Entry) -> Resource {
    Resource {
        aliases: entry.aliases.iter().map(ToString::to_string).collect(),
        ..unaliased(name, entry)
    }
}

fn unaliased(name: &str, entry: &Entry) -> Resource {
    Resource {
        version: entry.version.to_string(),
        resource: entry.any.clone(),
        name: name.to_owned(),
        aliases: Vec::new(),
    }
}
