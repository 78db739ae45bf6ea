//! The maps that steer the kernel programs, as the daemon writes and reads them.

use std::{
    fmt, io,
    net::TcpListener,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

pub use ambit_ebpf_common::Counters;
use ambit_ebpf_common::{ListenerKey, PodEntry, maps};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues, SockHash},
    util::nr_cpus,
};
use thiserror::Error;

use crate::sockets::PodListeners;

#[derive(Debug, Error)]
pub enum MapFault {
    #[error("the object has no map {name}: rebuild it with `cargo xtask ebpf`")]
    Missing { name: &'static str },
    #[error("map {name} is not as expected: a daemon of another version may have pinned it")]
    Layout {
        name: &'static str,
        source: MapError,
    },
    #[error("cannot write map {name}")]
    Write {
        name: &'static str,
        source: MapError,
    },
    #[error("cannot read map {name}")]
    Read {
        name: &'static str,
        source: MapError,
    },
    #[error("cannot keep a descriptor of map {name}")]
    Descriptor {
        name: &'static str,
        source: io::Error,
    },
}

/// The node's shared maps.
pub(crate) struct Capture {
    pods: HashMap<MapData, u64, PodEntry>,
    listeners: SockHash<MapData, ListenerKey>,
    counters: PerCpuHashMap<MapData, u64, Counters>,
    probers: HashMap<MapData, u64, u32>,
    roles: Arc<OwnedFd>,
}

impl Capture {
    pub(crate) fn take_from(object: &mut Ebpf) -> Result<Self, MapFault> {
        let name = maps::SOCKET_ROLES;
        let Some(Map::SkStorage(roles)) = object.take_map(name) else {
            return Err(MapFault::Missing { name });
        };
        let roles = roles
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| MapFault::Descriptor { name, source })?;
        Ok(Self {
            pods: typed(object, maps::PODS)?,
            listeners: typed(object, maps::LISTENERS)?,
            counters: typed(object, maps::COUNTERS)?,
            probers: typed(object, maps::PROBERS)?,
            roles: Arc::new(roles),
        })
    }

    pub(crate) fn roles(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.roles)
    }

    /// Makes exactly `cgroups` known as probing.
    pub(crate) fn set_probers(&mut self, cgroups: &[u64]) -> Result<(), MapFault> {
        let fault = |source| MapFault::Write {
            name: maps::PROBERS,
            source,
        };
        let known = self.probers.keys().collect::<Result<Vec<_>, _>>();
        for old in known.map_err(fault)? {
            if !cgroups.contains(&old) {
                self.probers.remove(&old).map_err(fault)?;
            }
        }
        for cgroup in cgroups {
            self.probers.insert(cgroup, 1, 0).map_err(fault)?;
        }
        Ok(())
    }

    /// Fills the pod's slots; what was in them is replaced, and its owner need not know.
    pub(crate) fn set_listeners(
        &mut self,
        cookie: u64,
        listeners: &PodListeners,
    ) -> Result<(), MapFault> {
        let mut fill = |role, listener: &TcpListener| {
            self.listeners
                .insert(ListenerKey::new(cookie, role), listener.as_raw_fd(), 0)
                .map_err(|source| MapFault::Write {
                    name: maps::LISTENERS,
                    source,
                })
        };
        for (role, listener) in listeners.by_role() {
            fill(role, listener)?;
        }
        Ok(())
    }

    pub(crate) fn set_pod(&mut self, cookie: u64, entry: PodEntry) -> Result<(), MapFault> {
        self.pods
            .insert(cookie, entry, 0)
            .map_err(|source| MapFault::Write {
                name: maps::PODS,
                source,
            })
    }

    pub(crate) fn pod(&self, cookie: u64) -> Result<Option<PodEntry>, MapFault> {
        found(self.pods.get(&cookie, 0)).map_err(|source| MapFault::Read {
            name: maps::PODS,
            source,
        })
    }

    /// Starts counting for a pod, or goes on.
    pub(crate) fn count_for(&mut self, cookie: u64) -> Result<(), MapFault> {
        let fault = |source| MapFault::Write {
            name: maps::COUNTERS,
            source,
        };
        if found(self.counters.get(&cookie, 0))
            .map_err(fault)?
            .is_some()
        {
            return Ok(());
        }
        let cpus = nr_cpus().map_err(|(_, source)| MapFault::Descriptor {
            name: maps::COUNTERS,
            source,
        })?;
        let zeros = PerCpuValues::try_from(vec![Counters::default(); cpus]).map_err(|source| {
            MapFault::Descriptor {
                name: maps::COUNTERS,
                source,
            }
        })?;
        self.counters.insert(cookie, zeros, 0).map_err(fault)
    }

    pub(crate) fn counters(&self, cookie: u64) -> Result<Counters, MapFault> {
        let copies = found(self.counters.get(&cookie, 0)).map_err(|source| MapFault::Read {
            name: maps::COUNTERS,
            source,
        })?;
        Ok(copies
            .iter()
            .flat_map(|copies| copies.iter())
            .fold(Counters::default(), sum))
    }

    /// Forgets all about a pod; its programs then pass everything.
    pub(crate) fn forget(&mut self, cookie: u64) -> Result<(), MapFault> {
        gone(self.pods.remove(&cookie)).map_err(|source| MapFault::Write {
            name: maps::PODS,
            source,
        })?;
        for role in [
            ListenerKey::OUTBOUND,
            ListenerKey::INBOUND,
            ListenerKey::HBONE,
        ] {
            gone(self.listeners.remove(&ListenerKey::new(cookie, role))).map_err(|source| {
                MapFault::Write {
                    name: maps::LISTENERS,
                    source,
                }
            })?;
        }
        gone(self.counters.remove(&cookie)).map_err(|source| MapFault::Write {
            name: maps::COUNTERS,
            source,
        })
    }
}

/// Tells one copy of `sk_lookup` whose pod it serves.
pub(crate) fn set_cookie(object: &mut Ebpf, cookie: u64) -> Result<(), MapFault> {
    let name = maps::COOKIE;
    // Borrowed: the program is loaded afterwards and needs the map's descriptor open.
    let map = object.map_mut(name).ok_or(MapFault::Missing { name })?;
    let mut slot: Array<_, u64> =
        Array::try_from(map).map_err(|source| MapFault::Layout { name, source })?;
    slot.set(0, cookie, 0)
        .map_err(|source| MapFault::Write { name, source })
}

fn typed<T>(object: &mut Ebpf, name: &'static str) -> Result<T, MapFault>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(MapFault::Missing { name })?;
    T::try_from(map).map_err(|source| MapFault::Layout { name, source })
}

fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

fn sum(left: Counters, right: &Counters) -> Counters {
    Counters {
        outbound_captured: left.outbound_captured + right.outbound_captured,
        outbound_refused: left.outbound_refused + right.outbound_refused,
        outbound_open: left.outbound_open + right.outbound_open,
        outbound_outside: left.outbound_outside + right.outbound_outside,
        inbound_captured: left.inbound_captured + right.inbound_captured,
        inbound_refused: left.inbound_refused + right.inbound_refused,
        inbound_open: left.inbound_open + right.inbound_open,
        inbound_probes: left.inbound_probes + right.inbound_probes,
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Capture")
    }
}
