//! Both ends in one process, for the tests: gRPC over in-memory pipes that can be cut.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture};
use model::{
    Action, Authorization, Change, PolicyKey, Resource, ResourceKey, Rules, Scope, Service,
    ServiceKey, TargetPort, Workload, WorkloadUid,
};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{
    Streaming,
    server::NamedService,
    transport::{Channel, Server},
};

use crate::{
    BoxError, ResourceType, channel,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};

const PIPE: usize = 64 * 1024;

/// Clocks are paused in these tests, so this passes at once where nothing is left to happen.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The future's output; fails the test where it never comes.
#[track_caller]
pub(crate) fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let waiting = tokio::time::timeout(SOON, future);
    let caller = std::panic::Location::caller();
    async move {
        waiting
            .await
            .unwrap_or_else(|_| panic!("nothing happened at {caller}"))
    }
}

/// A network between clients and whatever serves at the moment.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<Wiring>>);

#[derive(Default)]
struct Wiring {
    serving: Option<mpsc::UnboundedSender<io::Result<DuplexStream>>>,
    server: JoinSet<()>,
    links: JoinSet<()>,
}

impl Network {
    /// Puts a service in place of the one before.
    pub(crate) fn serve<Service>(&self, service: Service)
    where
        Service: tonic::codegen::Service<
                tonic::codegen::http::Request<tonic::body::Body>,
                Response = tonic::codegen::http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        Service::Future: Send + 'static,
    {
        let (incoming, connections) = mpsc::unbounded_channel();
        let connections = UnboundedReceiverStream::new(connections);
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(connections);
        let mut wiring = self.0.lock().unwrap();
        wiring.serving = Some(incoming);
        wiring.server.spawn(async move { serving.await.unwrap() });
    }

    /// Breaks every connection. New ones are possible.
    pub(crate) fn cut(&self) {
        self.0.lock().unwrap().links.abort_all();
    }

    /// Breaks every connection and refuses new ones until something serves again.
    pub(crate) fn stop(&self) {
        self.0.lock().unwrap().serving = None;
        self.cut();
    }

    fn dial(&self) -> io::Result<DuplexStream> {
        let mut wiring = self.0.lock().unwrap();
        let serving = wiring.serving.clone();
        let serving = serving.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (client, mut near) = tokio::io::duplex(PIPE);
        let (mut far, server) = tokio::io::duplex(PIPE);
        serving
            .send(Ok(server))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        wiring.links.spawn(async move {
            // Ends with either side, or when it is cut.
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        });
        Ok(client)
    }

    pub(crate) async fn channel(&self) -> Result<Channel, BoxError> {
        let network = self.clone();
        let uri = "http://controller".parse()?;
        Ok(channel::connect(uri, move || std::future::ready(network.dial())).await?)
    }

    /// What a client calls for its channels.
    pub(crate) fn connector(
        &self,
    ) -> impl Fn() -> BoxFuture<'static, Result<Channel, BoxError>> + use<> {
        let network = self.clone();
        move || {
            let network = network.clone();
            Box::pin(async move { network.channel().await })
        }
    }

    /// A client of which the test writes every request.
    pub(crate) async fn stream(&self) -> RawClient {
        let (requests, outgoing) = mpsc::channel(64);
        let channel = self.channel().await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let responses = service
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        RawClient {
            requests,
            responses,
        }
    }
}

pub(crate) struct RawClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl RawClient {
    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// Subscribes to everything of a type.
    pub(crate) async fn subscribe(&self, kind: ResourceType) {
        self.send(request(kind)).await;
    }

    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = soon(self.responses.message()).await.unwrap();
        response.expect("the stream goes on")
    }

    /// The stream's end, as the client sees it.
    pub(crate) async fn end(mut self) -> Option<tonic::Status> {
        loop {
            match soon(self.responses.next()).await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Some(status),
                None => return None,
            }
        }
    }

    /// Nothing comes.
    #[track_caller]
    pub(crate) fn silence(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let waiting = tokio::time::timeout(SOON, self.responses.message());
        async move {
            if let Ok(unexpected) = waiting.await {
                panic!("expected nothing at {caller}, got {unexpected:?}");
            }
        }
    }
}

pub(crate) fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        ..Default::default()
    }
}

/// The names of the resources in a response, in order.
pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    let mut names: Vec<_> = response
        .resources
        .iter()
        .map(|held| held.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

/// A pod called `name` at 10.0.0.`last`, which backs the service `cart`.
pub(crate) fn pod(name: &str, last: u8) -> Resource {
    let mut workload = Workload::new(name, "shop", name);
    workload.addresses = vec![[10, 0, 0, last].into()];
    workload
        .services
        .insert(cart_key(), vec![(80, TargetPort::Number(8080))]);
    Resource::Workload(Arc::new(workload))
}

fn cart_key() -> ServiceKey {
    Service::new("shop", "cart", "cart.shop").key
}

/// The service `shop/cart.shop` at 10.96.0.1.
pub(crate) fn cart() -> Resource {
    let mut service = Service::new("shop", "cart", "cart.shop");
    service.vips = vec![model::NetworkAddress {
        network: model::Network::default(),
        ip: [10, 96, 0, 1].into(),
    }];
    Resource::Service(Arc::new(service))
}

/// A policy `shop/name`, without rules.
pub(crate) fn policy(name: &str, action: Action) -> Resource {
    Resource::Authorization(Arc::new(Authorization {
        key: policy_key(name),
        scope: Scope::Namespace,
        action,
        dry_run: false,
        rules: Rules::Valid(Vec::new()),
    }))
}

pub(crate) fn policy_key(name: &str) -> PolicyKey {
    PolicyKey {
        namespace: "shop".into(),
        name: name.into(),
    }
}

pub(crate) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(name.into())
}

pub(crate) fn set(upsert: Vec<Resource>) -> Change {
    Change {
        upsert,
        remove: Vec::new(),
    }
}

pub(crate) fn gone(remove: Vec<ResourceKey>) -> Change {
    Change {
        upsert: Vec::new(),
        remove,
    }
}
