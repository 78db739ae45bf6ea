//! Tells the controller which pods this daemon has captured (`ambit.v1.Enrolment`), so that a
//! workload is published as HBONE only while somebody answers for it.
//!
//! A controller that does not know the call goes by the pod's annotation instead, as istiod does;
//! then every report counts as heard.

use std::{collections::HashMap, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};
use tracing::{debug, info, warn};
use xds::proto::enrolment::{
    PodReport, ReportRequest, Snapshot, State as WireState, enrolment_client::EnrolmentClient,
    report_request::Report,
};

use super::Controller;
use crate::pod::Pod;

/// Between attempts to reach the controller.
const RETRY: Duration = Duration::from_millis(200);

/// Between attempts at a controller that did not know the call: it may have been replaced.
const UNKNOWN_RETRY: Duration = Duration::from_secs(60);

/// What is said of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Enrolled,
    Leaving,
    Gone,
}

struct Told {
    report: PodReport,
    heard: oneshot::Sender<()>,
}

/// Takes reports. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports(mpsc::UnboundedSender<Told>);

impl Reports {
    /// A place for reports, and the task that delivers them, to be run once the pods of an
    /// earlier daemon are taken up: the first message lists all pods.
    pub(crate) fn new(controller: Controller) -> (Self, Reporter) {
        let (sender, told) = mpsc::unbounded_channel();
        let reporter = Reporter {
            controller,
            told,
            enrolled: HashMap::new(),
            unheard: Vec::new(),
            sequence: 0,
        };
        (Self(sender), reporter)
    }

    /// Says it; the answer comes when the controller has published what follows from it.
    pub(crate) fn tell(&self, pod: &Pod, state: State) -> oneshot::Receiver<()> {
        let (heard, answer) = oneshot::channel();
        let state = match state {
            State::Enrolled => WireState::Enrolled,
            State::Leaving => WireState::Leaving,
            State::Gone => WireState::Gone,
        };
        let report = PodReport {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            // Pods are enrolled under uids of our own where nobody gave one; it fits any.
            uid: String::new(),
            state: state.into(),
        };
        // The reporter is gone only when the daemon ends; then nobody waits.
        self.0.send(Told { report, heard }).ok();
        answer
    }
}

/// The task that delivers reports.
pub(crate) struct Reporter {
    controller: Controller,
    told: mpsc::UnboundedReceiver<Told>,
    enrolled: HashMap<(String, String), PodReport>,
    unheard: Vec<(u64, oneshot::Sender<()>)>,
    sequence: u64,
}

impl Reporter {
    /// Delivers for ever.
    pub(crate) async fn run(mut self) {
        while let Ok(told) = self.told.try_recv() {
            self.note(told);
        }
        loop {
            let pause = match self.stream().await {
                Ok(()) => RETRY,
                Err(status) if status.code() == Code::Unimplemented => {
                    info!("the controller goes by annotations, not by reports");
                    self.hear(u64::MAX);
                    UNKNOWN_RETRY
                }
                Err(error) => {
                    debug!(%error, "the report stream ended");
                    RETRY
                }
            };
            self.pause(pause).await;
        }
    }

    async fn pause(&mut self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(told) = self.told.recv() => {
                    self.note(told);
                    if pause == UNKNOWN_RETRY {
                        self.hear(u64::MAX);
                    }
                }
            }
        }
    }

    /// Takes a report into the whole, and gives it a number.
    fn note(&mut self, told: Told) -> ReportRequest {
        let Told { report, heard } = told;
        let key = (report.namespace.clone(), report.name.clone());
        if report.state == i32::from(WireState::Enrolled) {
            self.enrolled.insert(key, report.clone());
        } else {
            self.enrolled.remove(&key);
        }
        self.sequence += 1;
        self.unheard.push((self.sequence, heard));
        ReportRequest {
            sequence: self.sequence,
            report: Some(Report::Pod(report)),
        }
    }

    fn hear(&mut self, up_to: u64) {
        for (_, heard) in self
            .unheard
            .extract_if(.., |(sequence, _)| *sequence <= up_to)
        {
            // Whoever told it may have given up waiting.
            heard.send(()).ok();
        }
    }

    async fn stream(&mut self) -> Result<(), Status> {
        let channel = self.controller.connect().await.map_err(|error| {
            warn!(%error, "cannot reach the controller to report pods; trying again");
            Status::unavailable(error.to_string())
        })?;
        let (requests, outgoing) = mpsc::unbounded_channel();
        let snapshot = Snapshot {
            pods: self.enrolled.values().cloned().collect(),
        };
        let first = ReportRequest {
            sequence: self.sequence,
            report: Some(Report::Snapshot(snapshot)),
        };
        requests
            .send(first)
            .map_err(|_| Status::internal("the stream ended at once"))?;
        let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
        *request.metadata_mut() = self
            .controller
            .credentials()
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        let mut answers = EnrolmentClient::new(channel)
            .report(request)
            .await?
            .into_inner();
        loop {
            tokio::select! {
                answer = answers.message() => match answer? {
                    Some(answer) => self.hear(answer.sequence),
                    None => return Ok(()),
                },
                Some(told) = self.told.recv() => {
                    let report = self.note(told);
                    requests.send(report).map_err(|_| Status::internal("the stream ended"))?;
                }
            }
        }
    }
}
