//! Both ends together, and the client against a server of which the test writes every response.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use arc_swap::ArcSwap;
use futures_util::stream::BoxStream;
use model::{Action, Change, Index, Resource, ResourceKey, Rules, Scope};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{Changed, Client, Handle, Node};
use crate::{
    ResourceType::{self, Address, Authorization},
    convert,
    proto::{
        ambit::RefusedResource,
        discovery::{
            self, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    server::{Caller, Publisher},
    testing::{Network, cart, gone, pod, policy, policy_key, set, soon, uid},
};

struct Daemon {
    index: Arc<ArcSwap<Index>>,
    handle: Handle,
    streams: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

fn daemon(network: &Network) -> Daemon {
    let index = Arc::new(ArcSwap::from_pointee(Index::default()));
    let node = Node::ztunnel([10, 0, 0, 9].into(), "ztunnel-1", "ambit-system");
    let (client, handle) = Client::new(node, index.clone());
    let connector = network.connector();
    let streams = Arc::new(AtomicUsize::new(0));
    let opened = streams.clone();
    let mut running = JoinSet::new();
    running.spawn(async move {
        let metadata = move || {
            opened.fetch_add(1, SeqCst);
            Ok(MetadataMap::new())
        };
        client.run(connector, metadata).await;
    });
    Daemon {
        index,
        handle,
        streams,
        _running: running,
    }
}

impl Daemon {
    fn workloads(&self) -> Vec<String> {
        let index = self.index.load();
        let mut uids: Vec<_> = index.workloads().map(|held| held.uid.to_string()).collect();
        uids.sort();
        uids
    }

    fn rules(&self, name: &str) -> Option<Rules> {
        let index = self.index.load();
        index
            .policy(&policy_key(name))
            .map(|held| held.rules.clone())
    }

    /// Waits until the index is as wanted.
    #[track_caller]
    fn becomes(&self, wanted: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let mut changes = self.handle.changes();
        soon(async move {
            while !wanted(self) {
                changes.next().await.unwrap();
            }
        })
    }
}

async fn anyone(_: Request<()>) -> Result<Caller, Status> {
    Ok(Caller("node-a".into()))
}

fn publish(network: &Network, resources: Vec<Resource>) -> Publisher {
    let publisher = Publisher::new();
    publisher.publish(&set(resources));
    network.serve(publisher.service(anyone));
    publisher
}

/// Lets everything happen that is going to.
async fn settle() {
    tokio::time::sleep(crate::testing::SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_is_ready_once_both_types_are_there() {
    let network = Network::default();
    let daemon = daemon(&network);
    settle().await;
    assert!(!daemon.handle.is_ready());
    let _publisher = publish(
        &network,
        vec![pod("a", 1), cart(), policy("p", Action::Deny)],
    );
    soon(daemon.handle.ready()).await;
    assert_eq!(daemon.workloads(), ["a"]);
    assert_eq!(daemon.rules("p"), Some(Rules::Valid(Vec::new())));
    assert_eq!(daemon.handle.statistics().resources(Address), 2);
    assert_eq!(daemon.handle.statistics().messages(Authorization), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_nothing_is_sent_again() {
    let network = Network::default();
    let publisher = publish(
        &network,
        vec![pod("a", 1), pod("b", 2), policy("p", Action::Deny)],
    );
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    for _ in 0..3 {
        network.cut();
        settle().await;
    }
    assert_eq!(daemon.streams.load(SeqCst), 4);
    assert_eq!(publisher.statistics().resources(Address), 2);
    assert_eq!(publisher.statistics().resources(Authorization), 1);
    assert_eq!(publisher.statistics().removals(Address), 0);
    assert!(daemon.handle.is_ready());
    assert_eq!(daemon.workloads(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_the_controller_was_away_arrives_alone() {
    let network = Network::default();
    let first = publish(
        &network,
        vec![pod("a", 1), pod("b", 2), policy("p", Action::Deny)],
    );
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    network.stop();
    drop(first);
    settle().await;
    assert_eq!(daemon.workloads(), ["a", "b"]);
    let second = publish(
        &network,
        vec![pod("a", 1), pod("c", 3), policy("p", Action::Deny)],
    );
    daemon
        .becomes(|daemon| daemon.workloads() == ["a", "c"])
        .await;
    settle().await;
    assert_eq!(second.statistics().resources(Address), 1);
    assert_eq!(second.statistics().removals(Address), 1);
    assert_eq!(second.statistics().resources(Authorization), 0);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_still_reading_takes_nothing_away() {
    let network = Network::default();
    let first = publish(&network, vec![pod("a", 1)]);
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    network.stop();
    drop(first);
    let second = Publisher::new();
    network.serve(second.service(anyone));
    settle().await;
    assert_eq!(second.statistics().streams(), 1);
    assert_eq!(daemon.workloads(), ["a"]);
    second.publish(&set(vec![pod("a", 1)]));
    settle().await;
    assert_eq!(second.statistics().resources(Address), 0);
    assert_eq!(daemon.workloads(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_large_push_is_applied_whole() {
    let network = Network::default();
    let pods = (0..3000).map(|at| pod(&format!("p{at}"), (at % 250) as u8));
    let publisher = publish(&network, pods.collect());
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    assert_eq!(daemon.workloads().len(), 3000);
    publisher.publish(&gone(vec![ResourceKey::Workload(uid("p7"))]));
    daemon
        .becomes(|daemon| daemon.workloads().len() == 2999)
        .await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_by_key() {
    let network = Network::default();
    let publisher = publish(&network, vec![pod("a", 1)]);
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    let mut changes = daemon.handle.changes();
    publisher.publish(&set(vec![cart()]));
    let changed = soon(changes.next()).await.unwrap();
    assert!(!changed.policies());
    assert_eq!(changed, Changed::Keys([cart().key()].into()));
    publisher.publish(&set(vec![policy("p", Action::Deny)]));
    assert!(soon(changes.next()).await.unwrap().policies());
    for last in 0..200 {
        publisher.publish(&set(vec![pod("a", last)]));
        daemon
            .becomes(|daemon| {
                daemon.index.load().workload(&uid("a")).unwrap().addresses
                    == [std::net::IpAddr::from([10, 0, 0, last])]
            })
            .await;
    }
    assert_eq!(soon(changes.next()).await, Some(Changed::Everything));
}

/// A server that does as the test says, one stream at a time.
#[derive(Clone)]
struct Scripted(Arc<Mutex<mpsc::UnboundedSender<Script>>>);

struct Script {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Scripted {
    type DeltaAggregatedResourcesStream =
        BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(16);
        let script = Script {
            requests: request.into_inner(),
            responses,
        };
        self.0
            .lock()
            .unwrap()
            .send(script)
            .map_err(|_| Status::aborted("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn scripted(network: &Network) -> mpsc::UnboundedReceiver<Script> {
    let (streams, opened) = mpsc::unbounded_channel();
    let service = Scripted(Arc::new(Mutex::new(streams)));
    network.serve(AggregatedDiscoveryServiceServer::new(service));
    opened
}

impl Script {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.message()).await.unwrap().unwrap()
    }

    /// The first requests, of both types.
    async fn subscriptions(&mut self) -> [DeltaDiscoveryRequest; 2] {
        [self.request().await, self.request().await]
    }

    async fn respond(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    /// Sends a response and returns the client's answer to it.
    async fn push(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let nonce = response.nonce.clone();
        self.respond(response).await;
        let answer = self.request().await;
        assert_eq!(answer.response_nonce, nonce);
        answer
    }

    async fn silence(&mut self) {
        let waiting = tokio::time::timeout(crate::testing::SOON, self.requests.message());
        if let Ok(unexpected) = waiting.await {
            panic!("expected nothing, got {unexpected:?}");
        }
    }
}

fn good(resource: &Resource, version: &str) -> discovery::Resource {
    discovery::Resource {
        version: version.to_owned(),
        resource: convert::encode(resource),
        name: convert::name(&resource.key()),
        aliases: Vec::new(),
    }
}

fn bad(name: &str, version: &str) -> discovery::Resource {
    discovery::Resource {
        version: version.to_owned(),
        resource: b"\xff\xff".as_slice().into(),
        name: name.to_owned(),
        aliases: Vec::new(),
    }
}

fn response(
    kind: ResourceType,
    nonce: &str,
    resources: Vec<discovery::Resource>,
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_ask_for_everything_policies_first() {
    let network = Network::default();
    let mut opened = scripted(&network);
    let _daemon = daemon(&network);
    let mut stream = soon(opened.recv()).await.unwrap();
    let [policies, addresses] = stream.subscriptions().await;
    assert_eq!(policies.type_url, Authorization.url());
    assert_eq!(addresses.type_url, Address.url());
    let node = policies.node.unwrap();
    assert_eq!(
        node.id,
        "ztunnel~10.0.0.9~ztunnel-1.ambit-system~ambit-system.svc.cluster.local"
    );
    assert!(policies.resource_names_subscribe.is_empty());
    assert!(policies.initial_resource_versions.is_empty());
    assert!(policies.response_nonce.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_bad_resource_is_refused_alone_by_name_and_once() {
    let network = Network::default();
    let mut opened = scripted(&network);
    let daemon = daemon(&network);
    let mut stream = soon(opened.recv()).await.unwrap();
    stream.subscriptions().await;
    let both = vec![good(&pod("a", 1), "1"), good(&pod("b", 2), "1")];
    assert_eq!(
        stream.push(response(Address, "1", both)).await.error_detail,
        None
    );
    let mixed = vec![
        good(&pod("a", 7), "2"),
        bad("b", "2"),
        good(&pod("c", 3), "2"),
    ];
    let refusal = stream
        .push(response(Address, "2", mixed))
        .await
        .error_detail
        .unwrap();
    assert!(
        refusal.message.starts_with("refused 1 of 3 resources: b: "),
        "{}",
        refusal.message
    );
    let detail = RefusedResource::decode(refusal.details[0].value.as_slice()).unwrap();
    assert_eq!(detail.name, "b");
    stream.silence().await;
    assert_eq!(daemon.workloads(), ["a", "b", "c"]);
    let index = daemon.index.load();
    assert_eq!(
        index.workload(&uid("a")).unwrap().addresses[0].to_string(),
        "10.0.0.7"
    );
    assert_eq!(
        index.workload(&uid("b")).unwrap().addresses[0].to_string(),
        "10.0.0.2"
    );
    assert_eq!(daemon.handle.statistics().refused(Address), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_claims_what_is_held_but_not_what_was_refused() {
    let network = Network::default();
    let mut opened = scripted(&network);
    let daemon = daemon(&network);
    let mut stream = soon(opened.recv()).await.unwrap();
    stream.subscriptions().await;
    let both = vec![
        good(&pod("a", 1), "1"),
        good(&pod("b", 2), "1"),
        good(&pod("c", 3), ""),
    ];
    stream.push(response(Address, "1", both)).await;
    stream
        .push(response(Address, "2", vec![bad("b", "2")]))
        .await;
    drop(stream);
    let mut stream = soon(opened.recv()).await.unwrap();
    let [_, addresses] = stream.subscriptions().await;
    let claims = [("a", "1"), ("c", "")].map(|(name, version)| (name.into(), version.into()));
    assert_eq!(addresses.initial_resource_versions, claims.into());
    assert_eq!(daemon.workloads(), ["a", "b", "c"]);
    // The server knows nothing of "b", so that it does not send it means that it is gone.
    stream.push(response(Address, "1", Vec::new())).await;
    assert_eq!(daemon.workloads(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_policy_denies_unless_a_good_one_is_held() {
    let network = Network::default();
    let mut opened = scripted(&network);
    let daemon = daemon(&network);
    let mut stream = soon(opened.recv()).await.unwrap();
    stream.subscriptions().await;
    let held = vec![good(&policy("held", Action::Deny), "1")];
    stream.push(response(Authorization, "1", held)).await;
    let broken = vec![bad("shop/held", "2"), bad("shop/new", "2")];
    let refusal = stream
        .push(response(Authorization, "2", broken))
        .await
        .error_detail;
    assert_eq!(refusal.unwrap().details.len(), 2);
    assert_eq!(daemon.rules("held"), Some(Rules::Valid(Vec::new())));
    assert!(matches!(daemon.rules("new"), Some(Rules::Malformed(_))));
    let scope = daemon
        .index
        .load()
        .policy(&policy_key("new"))
        .unwrap()
        .scope;
    assert_eq!(scope, Scope::Global);
    let mended = vec![good(&policy("new", Action::Allow), "3")];
    let answer = stream.push(response(Authorization, "3", mended)).await;
    assert_eq!(answer.error_detail, None);
    assert_eq!(daemon.rules("new"), Some(Rules::Valid(Vec::new())));
    let mut removal = response(Authorization, "4", Vec::new());
    removal.removed_resources = vec!["shop/new".into(), "shop/never".into()];
    stream.push(removal).await;
    assert_eq!(daemon.rules("new"), None);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_away_is_not_asked_in_a_hot_loop() {
    let network = Network::default();
    let daemon = daemon(&network);
    settle().await;
    let failures = daemon
        .handle
        .statistics()
        .terminations(super::Termination::ConnectionError);
    // 10 ms, doubling to 15 s, each at least halved: some 20 attempts in the first minute.
    assert!(
        (5..40).contains(&failures),
        "{failures} attempts in a minute"
    );
}

#[tokio::test(start_paused = true)]
async fn one_bad_resource_reaches_the_controller_by_name() {
    let network = Network::default();
    let publisher = publish(&network, Vec::new());
    let daemon = daemon(&network);
    soon(daemon.handle.ready()).await;
    let mut unusable = model::Workload::new("bad", "shop", "bad");
    unusable.waypoint = Some(model::GatewayAddress {
        destination: model::GatewayDestination::Hostname(model::ServiceKey {
            namespace: "shop".into(),
            hostname: "waypoint".into(),
        }),
        hbone_mtls_port: 0,
    });
    let mut rejections = publisher.rejections();
    publisher.publish(&Change {
        upsert: vec![Resource::Workload(Arc::new(unusable)), pod("a", 1)],
        remove: Vec::new(),
    });
    soon(rejections.wait_for(|held| !held.is_empty()))
        .await
        .unwrap();
    let held: Vec<_> = rejections.borrow().iter().cloned().collect();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].resource.as_deref(), Some("bad"));
    assert!(
        held[0].reason.starts_with("waypoint.hbone_mtls_port: "),
        "{}",
        held[0].reason
    );
    assert_eq!(daemon.workloads(), ["a"]);
    settle().await;
    assert_eq!(publisher.statistics().resources(Address), 2);
    publisher.publish(&gone(vec![ResourceKey::Workload(uid("bad"))]));
    soon(rejections.wait_for(|held| held.is_empty()))
        .await
        .unwrap();
}
