//! Takes pods into the mesh and lets them go, each step in an order that leaks nothing.
//!
//! In: namespace prepared, record written, listeners in their slots, and only then the one map
//! entry that turns both directions on. Out: [`Redirect::stop_capture`] turns new connections
//! direct and keeps serving 15008; [`Redirect::remove`] takes the rest away when the last tunnel
//! is idle. Rule and route stay, because open connections need them until they end.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use ambit_ebpf_common::PodEntry;
use aya::EbpfError;
use thiserror::Error;

use crate::{
    address::Addresses,
    capture::{self, Counters, MapFault},
    load::Redirect,
    netlink::Added,
    netns::{self, Identity},
    policy_route,
    program::{self, ProgramFault},
    record::{FailMode, FailPolicy, Record, RecordError, Recorded, Stage},
    sockets::{BoundListeners, PodListeners, PodSockets},
};

/// Who asks to join.
#[derive(Debug)]
pub struct EnrolRequest {
    /// The pod's uid: letters, digits, `-`, `_` and `.`.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub netns: OwnedFd,
    /// A path that outlives this daemon; looked for if there is none.
    pub netns_path: Option<PathBuf>,
    /// The pod's own, at most two of a family; empty to read them from the namespace.
    pub addresses: Vec<IpAddr>,
    pub fail: FailPolicy,
}

impl From<Recorded> for EnrolRequest {
    fn from(recorded: Recorded) -> Self {
        Self {
            uid: recorded.uid,
            namespace: recorded.namespace,
            name: recorded.name,
            netns: recorded.netns,
            netns_path: Some(recorded.netns_path),
            addresses: recorded.addresses,
            fail: recorded.fail,
        }
    }
}

/// What the daemon serves an enrolled pod with.
#[derive(Debug)]
pub struct Enrolled {
    pub sockets: PodSockets,
    pub listeners: PodListeners,
    pub addresses: Vec<IpAddr>,
    /// Connections older than the first enrolment and still open, as (local, remote): they stay
    /// outside the mesh until they end.
    pub established: Vec<(SocketAddr, SocketAddr)>,
}

#[derive(Debug, Error)]
pub enum EnrolError {
    #[error("cannot look into the pod's network namespace")]
    Namespace(#[source] io::Error),
    #[error("the namespace belongs to pod {uid} already: un-enrol that one first")]
    Taken { uid: String },
    #[error("the pod shares the node's own network namespace and cannot be enrolled")]
    HostNetwork,
    #[error("{given} addresses are {problem}")]
    Addresses { given: usize, problem: &'static str },
    #[error("cannot set up rule and route in the pod")]
    PolicyRoute(#[source] io::Error),
    #[error("cannot open the daemon's sockets in the pod")]
    Sockets(#[source] io::Error),
    #[error("cannot keep a record of the pod")]
    Record(#[from] RecordError),
    #[error("cannot load the pod's programs")]
    Load(#[source] Box<EbpfError>),
    #[error("cannot attach the pod's program")]
    Program(#[from] ProgramFault),
    #[error("cannot tell the kernel about the pod")]
    Map(#[from] MapFault),
    #[error("cannot remove the pod's former enrolment")]
    Former(#[from] UnenrolError),
}

#[derive(Debug, Error)]
pub enum UnenrolError {
    #[error("pod {uid} is not enrolled")]
    Unknown { uid: String },
    #[error("cannot change the record of the pod")]
    Record(#[from] RecordError),
    #[error("cannot tell the kernel about the pod")]
    Map(#[from] MapFault),
    #[error("cannot remove the pin {}", path.display())]
    Unpin { path: PathBuf, source: io::Error },
}

/// How a pod's rule, route and settings were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    Intact,
    /// Something was missing: for a while the pod's connections were not looped to the daemon.
    Repaired,
}

#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("pod {uid} is not enrolled")]
    Unknown { uid: String },
    #[error("cannot check rule and route of pod {uid}")]
    PolicyRoute { uid: String, source: io::Error },
}

/// A pod this daemon serves.
pub(crate) struct Pod {
    sockets: PodSockets,
    addresses: Addresses,
}

impl Redirect {
    /// Takes a pod into the mesh. When it returns, every new connection is captured.
    ///
    /// Enrolling a pod again, after a restart or to take over from another daemon, replaces its
    /// listeners without a gap.
    ///
    /// # Errors
    /// Leaves the pod as it was.
    pub fn enrol(&mut self, request: EnrolRequest) -> Result<Enrolled, EnrolError> {
        let identity =
            netns::identify(&self.home, request.netns.as_fd()).map_err(EnrolError::Namespace)?;
        self.refuse_foreign(&request.uid, identity)?;
        let before = self.same_namespace_before(&request.uid, identity)?;
        let netns_path = match request.netns_path {
            Some(path) => Some(path),
            None => netns::find_path(request.netns.as_fd()).map_err(EnrolError::Namespace)?,
        };
        let sockets = PodSockets::new(
            request.netns,
            self.home.clone(),
            identity.cookie,
            self.capture.roles(),
        );
        let (addresses, bound) = prepare(&sockets, &request.addresses)?;
        let mut record = Record {
            uid: request.uid,
            namespace: request.namespace,
            name: request.name,
            netns_path,
            inode: identity.inode,
            cookie: identity.cookie,
            addresses: addresses.iter().collect(),
            fail: request.fail,
            stage: Stage::Capturing,
            older: before
                .as_ref()
                .map_or_else(Vec::new, |old| old.older.clone()),
        };
        self.records.save(&record)?;
        let listeners = self
            .capture_pod(&sockets, &addresses, bound, record.fail)
            .inspect_err(|_| {
                if before.is_none() {
                    self.undo(&record);
                }
            })?;
        let established = sockets.established().map_err(EnrolError::Namespace)?;
        let established = match before {
            None => {
                record.older = established;
                self.records.save(&record)?;
                record.older
            }
            Some(_) => still_open(&record.older, established),
        };
        self.pods.insert(
            record.uid,
            Pod {
                sockets: sockets.clone(),
                addresses,
            },
        );
        Ok(Enrolled {
            sockets,
            listeners,
            addresses: record.addresses,
            established,
        })
    }

    /// Lets new connections go directly, both ways, except inbound HBONE.
    ///
    /// The listeners have to be served until the last tunnel is idle.
    ///
    /// # Errors
    /// If the pod is not enrolled; else nothing has changed.
    pub fn stop_capture(&mut self, uid: &str) -> Result<(), UnenrolError> {
        let mut record = self.record_of(uid)?;
        if let Some(entry) = self.capture.pod(record.cookie)? {
            let stage = PodEntry::DRAINING;
            self.capture
                .set_pod(record.cookie, PodEntry { stage, ..entry })?;
        }
        record.stage = Stage::Draining;
        self.records.save(&record)?;
        Ok(())
    }

    /// Takes away what is left of a pod. Drop its listeners first: without its program they
    /// could be reached by number.
    ///
    /// # Errors
    /// If the pod is not enrolled, or something could not be removed; try again then.
    pub fn remove(&mut self, uid: &str) -> Result<(), UnenrolError> {
        let record = self.record_of(uid)?;
        self.forget(uid, record.cookie)
    }

    /// The enrolments an earlier daemon left, with their namespaces open.
    ///
    /// One whose namespace is gone, or is another one by now, is forgotten and removed.
    ///
    /// # Errors
    /// If the records cannot be listed.
    pub fn recorded(&mut self) -> Result<Vec<Recorded>, RecordError> {
        let mut alive = Vec::new();
        for record in self.records.all()? {
            match record {
                Ok(record) => match self.reopen(&record) {
                    Some((netns, netns_path)) => alive.push(Recorded {
                        uid: record.uid,
                        namespace: record.namespace,
                        name: record.name,
                        netns,
                        netns_path,
                        addresses: record.addresses,
                        fail: record.fail,
                        stage: record.stage,
                    }),
                    None => {
                        tracing::warn!(uid = record.uid, "the pod's namespace is gone: forgotten");
                        if let Err(error) = self.forget(&record.uid, record.cookie) {
                            tracing::warn!(uid = record.uid, %error, "cannot forget a pod");
                        }
                    }
                },
                // Its pod stays captured and fails as its policy says.
                Err(error) => tracing::error!(%error, "an enrolment cannot be restored"),
            }
        }
        Ok(alive)
    }

    /// Checks that nothing in the pod was taken away, and puts it back.
    ///
    /// # Errors
    /// If the pod is not enrolled or its namespace refuses.
    pub fn verify(&self, uid: &str) -> Result<Verified, VerifyError> {
        let pod = self.pods.get(uid).ok_or_else(|| VerifyError::Unknown {
            uid: uid.to_owned(),
        })?;
        let found = pod
            .sockets
            .within(|| policy_route::ensure(&pod.addresses))
            .flatten()
            .map_err(|source| VerifyError::PolicyRoute {
                uid: uid.to_owned(),
                source,
            })?;
        Ok(match found {
            Added::New => Verified::Repaired,
            Added::WasThere => Verified::Intact,
        })
    }

    /// What became of each pod's connections in the kernel, by uid.
    ///
    /// # Errors
    /// If the kernel's map cannot be read.
    pub fn counters(&self) -> Result<Vec<(String, Counters)>, MapFault> {
        self.pods
            .iter()
            .map(|(uid, pod)| Ok((uid.clone(), self.capture.counters(pod.sockets.cookie())?)))
            .collect()
    }

    fn refuse_foreign(&self, uid: &str, identity: Identity) -> Result<(), EnrolError> {
        if self.home.identity().map_err(EnrolError::Namespace)? == identity {
            return Err(EnrolError::HostNetwork);
        }
        let taken = |(other, pod): &(&String, &Pod)| {
            other.as_str() != uid && pod.sockets.cookie() == identity.cookie
        };
        match self.pods.iter().find(taken) {
            Some((other, _)) => Err(EnrolError::Taken { uid: other.clone() }),
            None => Ok(()),
        }
    }

    /// The pod's record, if it is about this namespace; an older namespace is let go.
    fn same_namespace_before(
        &mut self,
        uid: &str,
        identity: Identity,
    ) -> Result<Option<Record>, EnrolError> {
        let Some(before) = self.records.find(uid)? else {
            return Ok(None);
        };
        if before.identity() == identity {
            return Ok(Some(before));
        }
        tracing::info!(uid, "the pod has a new namespace");
        self.forget(uid, before.cookie)?;
        Ok(None)
    }

    fn undo(&mut self, record: &Record) {
        if let Err(error) = self.forget(&record.uid, record.cookie) {
            tracing::warn!(uid = record.uid, %error, "cannot undo an enrolment");
        }
    }

    fn capture_pod(
        &mut self,
        sockets: &PodSockets,
        addresses: &Addresses,
        bound: BoundListeners,
        fail: FailPolicy,
    ) -> Result<PodListeners, EnrolError> {
        let cookie = sockets.cookie();
        let entry = PodEntry {
            stage: PodEntry::CAPTURING,
            fail: fail_bits(fail),
            ip4: addresses.ipv4_words(),
            ip6: addresses.ipv6_words(),
            ports: bound.ports().map_err(EnrolError::Sockets)?,
            reserved: 0,
        };
        self.capture.count_for(cookie)?;
        if self.capture.pod(cookie)?.is_none() {
            // Guards the listeners' ports from the moment they listen, and captures nothing yet.
            let stage = PodEntry::DRAINING;
            self.capture.set_pod(cookie, PodEntry { stage, ..entry })?;
        }
        let mut object = self.object.load().map_err(EnrolError::Load)?;
        capture::set_cookie(&mut object, cookie)?;
        let pin = self.pod_pins.join(cookie.to_string());
        program::attach_to_netns(&mut object, self.log, sockets.netns(), &pin)?;
        let listeners = bound.listen().map_err(EnrolError::Sockets)?;
        self.capture.set_listeners(cookie, &listeners)?;
        self.capture.set_pod(cookie, entry)?;
        Ok(listeners)
    }

    fn record_of(&self, uid: &str) -> Result<Record, UnenrolError> {
        self.records
            .find(uid)?
            .ok_or_else(|| UnenrolError::Unknown {
                uid: uid.to_owned(),
            })
    }

    fn forget(&mut self, uid: &str, cookie: u64) -> Result<(), UnenrolError> {
        self.pods.remove(uid);
        self.capture.forget(cookie)?;
        let path = self.pod_pins.join(cookie.to_string());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(UnenrolError::Unpin { path, source });
            }
            _ => {}
        }
        // Last, so that a failure before can be tried again.
        self.records.forget(uid)?;
        Ok(())
    }

    /// Opens the recorded namespace, wherever it is now, if it still is the same.
    fn reopen(&self, record: &Record) -> Option<(OwnedFd, PathBuf)> {
        let elsewhere = || netns::find_path_of(record.inode).ok().flatten();
        let candidates = [record.netns_path.clone(), elsewhere()];
        candidates.into_iter().flatten().find_map(|path| {
            let netns: OwnedFd = fs::File::open(&path).ok()?.into();
            let identity = netns::identify(&self.home, netns.as_fd()).ok()?;
            (identity == record.identity()).then_some((netns, path))
        })
    }
}

/// Makes the namespace ready: addresses known, policy route in place, sockets bound.
fn prepare(
    sockets: &PodSockets,
    given: &[IpAddr],
) -> Result<(Addresses, BoundListeners), EnrolError> {
    sockets
        .within(|| {
            let addresses = if given.is_empty() {
                policy_route::addresses().map_err(EnrolError::Namespace)?
            } else {
                given.iter().copied().collect()
            };
            let problem = if addresses.is_empty() {
                Some("too few: the pod has no address yet")
            } else if !addresses.fit() {
                Some("too many: at most two of a family are supported")
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(EnrolError::Addresses {
                    given: addresses.iter().count(),
                    problem,
                });
            }
            policy_route::ensure(&addresses).map_err(EnrolError::PolicyRoute)?;
            let bound = BoundListeners::bind().map_err(EnrolError::Sockets)?;
            Ok((addresses, bound))
        })
        .map_err(EnrolError::Namespace)?
}

fn fail_bits(fail: FailPolicy) -> u32 {
    let bit = |mode, bit| match mode {
        FailMode::Closed => 0,
        FailMode::Open => bit,
    };
    bit(fail.outbound, PodEntry::FAIL_OPEN_OUTBOUND)
        | bit(fail.inbound, PodEntry::FAIL_OPEN_INBOUND)
}

fn still_open(
    older: &[(SocketAddr, SocketAddr)],
    now: Vec<(SocketAddr, SocketAddr)>,
) -> Vec<(SocketAddr, SocketAddr)> {
    let older: HashSet<_> = older.iter().collect();
    now.into_iter()
        .filter(|open| older.contains(open))
        .collect()
}
