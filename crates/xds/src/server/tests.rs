//! What a stream is sent, and above all what it is not.

use std::sync::Arc;

use model::{Action, Resource, ResourceKey, Workload};
use tonic::{Code, Request, Status};

use super::{Caller, Publisher};
use crate::{
    ResourceType::{Address, Authorization},
    convert,
    proto::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    testing::{Network, cart, gone, names, pod, policy, policy_key, request, set, soon, uid},
};

async fn anyone(_: Request<()>) -> Result<Caller, Status> {
    Ok(Caller("node-a".into()))
}

fn published(resources: Vec<model::Resource>) -> (Publisher, Network) {
    let publisher = Publisher::new();
    publisher.publish(&set(resources));
    let network = Network::default();
    network.serve(publisher.service(anyone));
    (publisher, network)
}

fn claims(response: &DeltaDiscoveryResponse) -> Vec<(String, String)> {
    let claim = |held: &discovery::Resource| (held.name.clone(), held.version.clone());
    response.resources.iter().map(claim).collect()
}

#[tokio::test(start_paused = true)]
async fn streams_wait_for_the_first_publish() {
    let publisher = Publisher::new();
    let network = Network::default();
    network.serve(publisher.service(anyone));
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    stream.silence().await;
    publisher.publish(&set(vec![pod("a", 1)]));
    assert_eq!(names(&stream.next().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_mesh_is_an_answer_and_policies_come_first() {
    let (_publisher, network) = published(Vec::new());
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    stream.subscribe(Authorization).await;
    let first = stream.next().await;
    let second = stream.next().await;
    assert_eq!(first.type_url, Authorization.url());
    assert_eq!(second.type_url, Address.url());
    assert!(first.resources.is_empty() && second.resources.is_empty());
    assert_ne!(first.nonce, second.nonce);
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_sent() {
    let (publisher, network) = published(vec![pod("a", 1), pod("b", 2), cart()]);
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    assert_eq!(names(&stream.next().await), ["a", "b", "shop/cart.shop"]);
    publisher.publish(&set(vec![pod("a", 1), cart()]));
    stream.silence().await;
    publisher.publish(&set(vec![pod("a", 1), pod("b", 3)]));
    assert_eq!(names(&stream.next().await), ["b"]);
    publisher.publish(&gone(vec![ResourceKey::Workload(uid("a"))]));
    let response = stream.next().await;
    assert_eq!(response.removed_resources, ["a"]);
    assert!(response.resources.is_empty());
    stream.silence().await;
    assert_eq!(publisher.statistics().resources(Address), 4);
    assert_eq!(publisher.statistics().removals(Address), 1);
    assert_eq!(publisher.statistics().resources(Authorization), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_costs_what_changed_meanwhile() {
    let (publisher, network) = published((0..100).map(|at| pod(&format!("p{at}"), at)).collect());
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    let initial_resource_versions = claims(&stream.next().await).into_iter().collect();
    drop(stream);
    publisher.publish(&set(vec![pod("p1", 200), pod("new", 201)]));
    publisher.publish(&gone(vec![ResourceKey::Workload(uid("p2"))]));
    let mut stream = network.stream().await;
    let request = DeltaDiscoveryRequest {
        initial_resource_versions,
        ..request(Address)
    };
    stream.send(request).await;
    let response = stream.next().await;
    assert_eq!(names(&response), ["new", "p1"]);
    assert_eq!(response.removed_resources, ["p2"]);
    stream.silence().await;
}

#[tokio::test(start_paused = true)]
async fn another_controller_gives_the_same_versions() {
    let resources = || vec![pod("a", 1), cart(), policy("p", Action::Deny)];
    let (_first, network) = published(resources());
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    let versions = claims(&stream.next().await);
    let (_second, network) = published(resources());
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    assert_eq!(claims(&stream.next().await), versions);
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_withdrawn_after_the_workloads_that_named_it() {
    let (publisher, network) = published(vec![pod("a", 1), policy("p", Action::Deny)]);
    let mut stream = network.stream().await;
    stream.subscribe(Authorization).await;
    stream.subscribe(Address).await;
    stream.next().await;
    stream.next().await;
    let mut change = set(vec![pod("a", 2), policy("q", Action::Deny)]);
    change.remove = vec![ResourceKey::Authorization(policy_key("p"))];
    publisher.publish(&change);
    assert_eq!(names(&stream.next().await), ["shop/q"]);
    assert_eq!(names(&stream.next().await), ["a"]);
    assert_eq!(stream.next().await.removed_resources, ["shop/p"]);
}

fn heavy(state: u8) -> Resource {
    let mut workload = Workload::new("heavy", "shop", "heavy");
    workload.capacity = state.into();
    workload.node = "n".repeat(256 * 1024).into();
    Resource::Workload(Arc::new(workload))
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_skips_states_instead_of_queueing_them() {
    // Together, far more than the pipe and the windows of the client hold.
    const STATES: u8 = 100;
    let (publisher, network) = published(vec![heavy(0)]);
    let mut stream = network.stream().await;
    stream.subscribe(Address).await;
    stream.next().await;
    for state in 1..=STATES {
        publisher.publish(&set(vec![heavy(state)]));
        tokio::task::yield_now().await;
    }
    let newest = convert::encode(&heavy(STATES));
    while stream.next().await.resources[0].resource != newest {}
    stream.silence().await;
    assert!(publisher.statistics().responses(Address) < u64::from(STATES) / 2);
}

#[tokio::test(start_paused = true)]
async fn a_type_nobody_publishes_is_answered_once_and_empty() {
    let (_publisher, network) = published(vec![pod("a", 1)]);
    let mut stream = network.stream().await;
    let foreign = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/example.Foreign".to_owned(),
        ..Default::default()
    };
    stream.send(foreign.clone()).await;
    let response = stream.next().await;
    assert_eq!(response.type_url, foreign.type_url);
    assert!(response.resources.is_empty());
    let acknowledged = DeltaDiscoveryRequest {
        response_nonce: response.nonce,
        ..foreign
    };
    stream.send(acknowledged).await;
    stream.silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_kept_until_the_client_takes_a_later_push() {
    let (publisher, network) = published(vec![policy("p", Action::Deny)]);
    let rejections = publisher.rejections();
    let mut stream = network.stream().await;
    stream.subscribe(Authorization).await;
    let nonce = stream.next().await.nonce;
    let refusal = DeltaDiscoveryRequest {
        node: Some(discovery::Node {
            id: "ztunnel~10.0.0.1".into(),
            metadata: None,
        }),
        response_nonce: nonce,
        error_detail: Some(discovery::Status {
            code: 3,
            message: "no good".into(),
            details: Vec::new(),
        }),
        ..request(Authorization)
    };
    stream.send(refusal).await;
    soon(rejections.clone().wait_for(|held| !held.is_empty()))
        .await
        .unwrap();
    let held: Vec<_> = rejections.borrow().iter().cloned().collect();
    assert_eq!(held[0].caller, Caller("node-a".into()));
    assert_eq!(held[0].node, "ztunnel~10.0.0.1");
    assert_eq!(held[0].reason, "no good");
    stream.silence().await;
    publisher.publish(&set(vec![policy("p", Action::Allow)]));
    let accepted = DeltaDiscoveryRequest {
        response_nonce: stream.next().await.nonce,
        ..request(Authorization)
    };
    assert!(!rejections.borrow().is_empty());
    stream.send(accepted).await;
    soon(rejections.clone().wait_for(|held| held.is_empty()))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusals_end_with_their_stream() {
    let (publisher, network) = published(vec![policy("p", Action::Deny)]);
    let mut rejections = publisher.rejections();
    let stream = network.stream().await;
    let refusal = DeltaDiscoveryRequest {
        error_detail: Some(discovery::Status::default()),
        ..request(Authorization)
    };
    stream.send(refusal).await;
    soon(rejections.wait_for(|held| !held.is_empty()))
        .await
        .unwrap();
    drop(stream);
    soon(rejections.wait_for(|held| held.is_empty()))
        .await
        .unwrap();
    assert_eq!(publisher.statistics().streams(), 0);
}

fn named(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: texts(subscribe),
        resource_names_unsubscribe: texts(unsubscribe),
        ..request(Address)
    }
}

#[tokio::test(start_paused = true)]
async fn on_demand_streams_get_what_they_name_and_what_backs_it() {
    let (publisher, network) = published(vec![pod("a", 1), pod("b", 2), cart()]);
    let mut stream = network.stream().await;
    stream.send(named(&["*"], &["*"])).await;
    assert!(stream.next().await.resources.is_empty());
    stream.send(named(&["/10.0.0.1"], &[])).await;
    let response = stream.next().await;
    assert_eq!(names(&response), ["a"]);
    assert_eq!(response.resources[0].aliases, ["/10.0.0.1"]);
    stream.send(named(&["/10.9.9.9"], &[])).await;
    assert_eq!(stream.next().await.removed_resources, ["/10.9.9.9"]);
    stream.send(named(&["/10.96.0.1"], &[])).await;
    assert_eq!(names(&stream.next().await), ["a", "b", "shop/cart.shop"]);
    publisher.publish(&set(vec![pod("c", 3)]));
    assert_eq!(names(&stream.next().await), ["c"]);
    stream.send(named(&[], &["/10.96.0.1"])).await;
    assert_eq!(
        stream.next().await.removed_resources,
        ["b", "c", "shop/cart.shop"]
    );
    publisher.publish(&set(vec![pod("b", 9)]));
    stream.silence().await;
}

#[tokio::test(start_paused = true)]
async fn an_on_demand_reconnect_is_not_sent_what_it_holds() {
    let (publisher, network) = published(vec![pod("a", 1), pod("b", 2)]);
    let mut stream = network.stream().await;
    stream.send(named(&["a", "b"], &[])).await;
    let initial_resource_versions = claims(&stream.next().await).into_iter().collect();
    drop(stream);
    publisher.publish(&set(vec![pod("b", 3)]));
    let mut stream = network.stream().await;
    let request = DeltaDiscoveryRequest {
        initial_resource_versions,
        ..named(&["a", "b"], &[])
    };
    stream.send(request).await;
    assert_eq!(names(&stream.next().await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_authenticated_gets_no_stream() {
    let publisher = Publisher::new();
    let network = Network::default();
    network.serve(publisher.service(|request: Request<()>| async move {
        match request.metadata().get("authorization") {
            Some(_) => Ok(Caller("someone".into())),
            None => Err(Status::unauthenticated("no token")),
        }
    }));
    let channel = network.channel().await.unwrap();
    let mut service =
        discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient::new(
            channel,
        );
    let opening = service.delta_aggregated_resources(tokio_stream::pending());
    let status = soon(opening).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(publisher.statistics().streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_their_publisher() {
    let (publisher, network) = published(Vec::new());
    let stream = network.stream().await;
    stream.subscribe(Address).await;
    drop(publisher);
    assert_eq!(stream.end().await.unwrap().code(), Code::Unavailable);
}
