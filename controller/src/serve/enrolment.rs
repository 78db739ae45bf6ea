//! The service nodes report captured pods to; its contract is in `xds/proto/enrolment.proto`.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};
use xds::proto::enrolment::{
    PodReport, ReportRequest, ReportResponse, Snapshot, State,
    enrolment_server::{Enrolment, EnrolmentServer},
    report_request,
};

use super::{authenticate, pipeline::Event};
use crate::{
    ca::token::{NodeName, TokenKey},
    enrolments::Report,
    watch::ObjectName,
};

/// The gRPC service.
pub(crate) struct Service {
    key: Arc<TokenKey>,
    events: mpsc::Sender<Event>,
}

impl Service {
    pub(crate) fn new(key: Arc<TokenKey>, events: mpsc::Sender<Event>) -> EnrolmentServer<Self> {
        EnrolmentServer::new(Self { key, events })
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let node = authenticate(&self.key, request.metadata())?;
        tracing::info!(%node, "node reports its pods");
        let session = Session {
            node,
            requests: request.into_inner(),
            events: self.events.clone(),
            progress: Progress::Opened,
        };
        let answers = stream::unfold(session, |mut session| async move {
            let answer = session.next().await?;
            if answer.is_err() {
                session.progress = Progress::Ended;
            }
            Some((answer, session))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// A snapshot must come first.
    Opened,
    Following,
    Ended,
}

struct Session {
    node: NodeName,
    requests: Streaming<ReportRequest>,
    events: mpsc::Sender<Event>,
    progress: Progress,
}

impl Session {
    async fn next(&mut self) -> Option<Result<ReportResponse, Status>> {
        if self.progress == Progress::Ended {
            return None;
        }
        let message = tokio::select! {
            message = self.requests.message() => message,
            () = self.events.closed() => {
                return Some(Err(Status::unavailable("the controller is stopping")));
            }
        };
        let request = match message {
            Ok(request) => request?,
            Err(status) => {
                tracing::debug!(node = %self.node, %status, "report stream broke");
                return None;
            }
        };
        let sequence = request.sequence;
        let outcome = self.handle(request).await;
        Some(outcome.map(|()| ReportResponse { sequence }))
    }

    async fn handle(&mut self, request: ReportRequest) -> Result<(), Status> {
        let report = match (self.progress, request.report) {
            (_, Some(report_request::Report::Snapshot(snapshot))) => of_snapshot(snapshot)?,
            (Progress::Following, Some(report_request::Report::Pod(pod))) => of_pod(pod)?,
            (_, Some(report_request::Report::Pod(_))) => {
                return Err(Status::invalid_argument("a snapshot must come first"));
            }
            (_, None) => return Err(Status::invalid_argument("the request reports nothing")),
        };
        self.progress = Progress::Following;
        let (published, done) = oneshot::channel();
        let event = Event::Report {
            node: self.node.as_str().clone(),
            report,
            published,
        };
        let stopping = || Status::unavailable("the controller is stopping");
        self.events.send(event).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?.map_err(|error| {
            tracing::error!(node = %self.node, %error, "a report cannot be kept");
            Status::internal(error.to_string())
        })
    }
}

fn of_snapshot(snapshot: Snapshot) -> Result<Report, Status> {
    let mut pods = BTreeMap::new();
    for pod in snapshot.pods {
        match of_pod(pod)? {
            Report::Enrolled(name, uid) => drop(pods.insert(name, uid)),
            Report::Released(_) | Report::Snapshot(_) => {}
        }
    }
    Ok(Report::Snapshot(pods))
}

fn of_pod(pod: PodReport) -> Result<Report, Status> {
    if pod.namespace.is_empty() || pod.name.is_empty() {
        return Err(Status::invalid_argument(
            "a pod needs a namespace and a name",
        ));
    }
    let name = ObjectName::new(&pod.namespace, &pod.name);
    match pod.state() {
        State::Enrolled => Ok(Report::Enrolled(name, pod.uid.into())),
        State::Leaving | State::Gone => Ok(Report::Released(name)),
        State::Unspecified => Err(Status::invalid_argument(format!(
            "the state of {name} is unknown to this controller"
        ))),
    }
}
