//! Enrols and un-enrols pods: the one owner of the redirection.
//!
//! Order of enrolment: capture, acknowledge, publish as HBONE. Order of un-enrolment: publish as
//! plain, stop capture, serve 15008 until the pod's streams have ended.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use enrolment::{Connection, PodState, PodStatus};
use model::{SpiffeId, chain};
use redirect::{Counters, EnrolRequest, Enrolled, Redirect, Stage, Verified};
use telemetry::Redirected;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use crate::{
    control::reports::{Reports, State},
    node::Node,
    pod::{Budget, Phase, Pod, PodName},
    worker::Crew,
};

/// How long the controller may take to publish that a pod leaves. Until it has, peers would go
/// on tunnelling to a pod that no longer answers, so the pod stays enrolled.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

/// How long a pod that has left still takes tunnels at the least: peers learn of it at different
/// times.
const LEAVING: Duration = Duration::from_secs(2);

/// How often it is looked whether pods are gone, whether their policy routes still stand, and
/// whether those that leave have gone quiet.
pub(crate) const ROUND: Duration = Duration::from_secs(1);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("take-over in progress, retry")]
    HandingOver,
    #[error("cannot capture the pod")]
    Capture(#[from] redirect::EnrolError),
    #[error("cannot stop capturing the pod")]
    Release(#[from] redirect::UnenrolError),
    #[error("no pod {0} is enrolled here")]
    Unknown(String),
    #[error(
        "the controller did not publish within {PUBLISH_DEADLINE:?} that the pod leaves; it stays \
         enrolled (is the controller up?)"
    )]
    Unpublished,
}

/// The owner of the redirection and of the set of pods.
pub(crate) struct Enroller {
    redirect: Redirect,
    node: Arc<Node>,
    crew: Crew,
    reports: Reports,
    /// Connections that were open when a pod was enrolled, by pod uid.
    older: HashMap<Arc<str>, Vec<Connection>>,
    leaving: HashMap<Arc<str>, Instant>,
}

impl Enroller {
    pub(crate) fn new(redirect: Redirect, node: Arc<Node>, crew: Crew, reports: Reports) -> Self {
        let (older, leaving) = Default::default();
        Self {
            redirect,
            node,
            crew,
            reports,
            older,
            leaving,
        }
    }

    /// Takes up the pods that were enrolled before this daemon started. One that cannot be is
    /// reported; it stays captured and refused until it is enrolled anew.
    pub(crate) fn restore(&mut self) {
        let recorded = match self.redirect.recorded() {
            Ok(recorded) => recorded,
            Err(error) => {
                error!(%error, "cannot read which pods were enrolled");
                return;
            }
        };
        for recorded in recorded {
            let uid = recorded.uid.clone();
            match recorded.stage {
                Stage::Capturing => {
                    if let Err(error) = self.capture(recorded.into()) {
                        error!(%uid, error = chain(&error), "cannot take up a pod again");
                    }
                }
                // Its peers were told before it began to leave, and its tunnels ended with the
                // daemon that served them.
                Stage::Draining => {
                    if let Err(error) = self.redirect.remove(&uid) {
                        error!(%uid, %error, "cannot remove what is left of a pod");
                    }
                }
            }
        }
    }

    /// Captures a pod's traffic, serves it, and has it published.
    pub(crate) fn enrol(&mut self, request: EnrolRequest) -> Result<(), EnrolError> {
        self.leaving.remove(request.uid.as_str());
        self.capture(request)
    }

    fn capture(&mut self, request: EnrolRequest) -> Result<(), EnrolError> {
        let name = PodName {
            uid: request.uid.as_str().into(),
            namespace: request.namespace.as_str().into(),
            name: request.name.as_str().into(),
        };
        let Enrolled {
            sockets,
            listeners,
            addresses,
            established,
        } = self.redirect.enrol(request)?;
        let config = &self.node.config;
        let budget = Budget::new(config.pod_connections, config.pod_handshakes);
        let pod = Pod::new(name, addresses, sockets, budget);
        if let Some(before) = self.node.pods().uid(&pod.uid) {
            // Enrolled again: its connections go on, new ones come to the new listeners.
            before.advance(Phase::Closing);
        }
        let older = established
            .into_iter()
            .map(|(local, remote)| Connection { local, remote });
        self.older
            .entry(pod.uid.clone())
            .or_insert_with(|| older.collect());
        self.node.pods.insert(&pod);
        self.crew.listen(&pod, listeners);
        self.prefetch(&pod);
        info!(namespace = %pod.namespace, pod = %pod.name, addresses = ?pod.addresses, "enrolled");
        self.node.telemetry.metrics().pod_started();
        self.reports.tell(&pod, State::Enrolled);
        Ok(())
    }

    fn prefetch(&self, pod: &Pod) {
        let index = self.node.index();
        let workload = pod.workload(&index, &self.node.config.network);
        if let Some(Ok(id)) = workload.map(|workload| workload.identity()) {
            self.node.identities.prefetch(&id);
        }
    }

    /// Begins to let a pod go: has it published as plain, and only then stops capturing it.
    pub(crate) async fn unenrol(&mut self, namespace: &str, name: &str) -> Result<(), EnrolError> {
        let unknown = || EnrolError::Unknown(format!("{namespace}/{name}"));
        let pod = self
            .node
            .pods()
            .named(namespace, name)
            .cloned()
            .ok_or_else(unknown)?;
        let published = self.reports.tell(&pod, State::Leaving);
        if !matches!(timeout(PUBLISH_DEADLINE, published).await, Ok(Ok(()))) {
            self.reports.tell(&pod, State::Enrolled);
            return Err(EnrolError::Unpublished);
        }
        self.redirect.stop_capture(&pod.uid)?;
        self.leave(&pod);
        info!(namespace = %pod.namespace, pod = %pod.name, "un-enrolled; serving its open tunnels");
        Ok(())
    }

    fn leave(&mut self, pod: &Arc<Pod>) {
        pod.advance(Phase::Leaving);
        self.leaving.insert(pod.uid.clone(), Instant::now());
    }

    /// What `ambit pods` shows.
    pub(crate) fn pods(&self) -> Vec<PodStatus> {
        let pods = self.node.pods();
        let mut told: Vec<PodStatus> = pods.iter().map(|pod| self.status(pod)).collect();
        told.sort_by(|one, other| {
            (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name))
        });
        told
    }

    fn status(&self, pod: &Pod) -> PodStatus {
        let older = self
            .older
            .get(&pod.uid)
            .map(Vec::as_slice)
            .unwrap_or_default();
        // Of those that were open at enrolment, the ones that still are.
        let open = pod.sockets.established().unwrap_or_default();
        let still = older
            .iter()
            .filter(|held| open.contains(&(held.local, held.remote)));
        PodStatus {
            uid: pod.uid.to_string(),
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            state: match *pod.phase().borrow() {
                Phase::Serving => PodState::Enrolled,
                Phase::Leaving | Phase::Closing | Phase::Gone => PodState::Leaving,
            },
            addresses: pod.addresses.clone(),
            cookie: pod.sockets.cookie(),
            connections_before_enrolment: still.cloned().collect(),
            connections_not_listed: 0,
            tunnels: pod.streams(),
        }
    }

    /// Looks after the pods: forgets those whose namespace is gone, repairs what was taken away
    /// inside them, ends those that have left and gone quiet. To be run every [`ROUND`].
    pub(crate) fn round(&mut self) {
        let pods: Vec<Arc<Pod>> = self.node.pods().iter().cloned().collect();
        for pod in pods {
            if !pod.sockets.alive() {
                info!(namespace = %pod.namespace, pod = %pod.name, "gone");
                self.remove(&pod);
                continue;
            }
            match self.leaving.get(&pod.uid) {
                Some(since) if since.elapsed() >= LEAVING && pod.streams() == 0 => {
                    self.remove(&pod);
                }
                Some(_) => {}
                None => self.verify(&pod),
            }
        }
        self.forget();
        self.tell();
    }

    /// Brings the gauges of what the mesh does not protect up to date.
    fn tell(&self) {
        let metrics = self.node.telemetry.metrics();
        let pods = self.node.pods();
        let with_older = self.older.iter().filter(|(_, older)| !older.is_empty());
        let statuses = with_older.filter_map(|(uid, _)| Some(self.status(pods.uid(uid)?)));
        let older = statuses.map(|status| status.connections_before_enrolment.len());
        metrics.connections_before_enrolment(older.sum());
        match self.redirect.counters() {
            Ok(counters) => metrics.redirected(counters.iter().flat_map(|(uid, counters)| {
                let rows = pods.uid(uid).map(|pod| redirected(pod, counters));
                rows.into_iter().flatten()
            })),
            Err(error) => warn!(%error, "cannot read what the kernel did with connections"),
        }
    }

    fn verify(&self, pod: &Pod) {
        match self.redirect.verify(&pod.uid) {
            Ok(Verified::Intact) => {}
            Ok(Verified::Repaired) => warn!(
                namespace = %pod.namespace,
                pod = %pod.name,
                "policy route or settings were taken away inside the pod; put back"
            ),
            Err(error) => error!(pod = %pod.name, %error, "cannot check a pod's policy route"),
        }
    }

    /// Ends what is left of a pod.
    fn remove(&mut self, pod: &Arc<Pod>) {
        self.node.pods.remove(pod);
        self.leaving.remove(&pod.uid);
        self.older.remove(&pod.uid);
        pod.advance(Phase::Gone);
        if let Err(error) = self.redirect.remove(&pod.uid) {
            error!(pod = %pod.name, %error, "cannot remove what is left of a pod");
        }
        self.reports.tell(pod, State::Gone);
        self.node.telemetry.metrics().pod_stopped();
    }

    /// Drops the certificates of identities that no pod here has any longer.
    fn forget(&self) {
        let index = self.node.index();
        let pods = self.node.pods();
        let workloads = pods
            .iter()
            .filter_map(|pod| pod.workload(&index, &self.node.config.network));
        let held: HashSet<SpiffeId> = workloads
            .filter_map(|workload| workload.identity().ok())
            .collect();
        for status in self.node.identities.snapshot() {
            if !held.contains(&status.id) {
                self.node.identities.forget(&status.id);
            }
        }
    }

    /// Closes every pod's listeners, once their queues are empty: a successor has taken over, or
    /// the daemon ends. Capture goes on.
    pub(crate) fn close(&self) {
        for pod in self.node.pods().iter() {
            pod.advance(Phase::Closing);
        }
    }
}

/// The kernel's counters of a pod, one row each.
fn redirected<'a>(pod: &'a Pod, counters: &Counters) -> [Redirected<'a>; 8] {
    use telemetry::Direction::{Inbound, Outbound};
    [
        (Outbound, "captured", counters.outbound_captured),
        (Outbound, "refused", counters.outbound_refused),
        (Outbound, "failed_open", counters.outbound_open),
        (Outbound, "outside", counters.outbound_outside),
        (Inbound, "captured", counters.inbound_captured),
        (Inbound, "refused", counters.inbound_refused),
        (Inbound, "failed_open", counters.inbound_open),
        (Inbound, "probe", counters.inbound_probes),
    ]
    .map(|(direction, outcome, connections)| Redirected {
        namespace: &pod.namespace,
        pod: &pod.name,
        direction,
        outcome,
        connections,
    })
}
