//! Claims finer than the scenario's, each on a mesh of its own.

use std::net::SocketAddr;

use harness::mesh::{PROBER, ports};
use harness::{Capture, Mesh, MeshOptions, Replica};
use netns::observe::{none, refused, refused_within_a_second};

fn mesh(test: &str) -> Mesh {
    started(MeshOptions::for_test(test).expect("this test lies in a target folder"))
}

fn started(options: MeshOptions) -> Mesh {
    Mesh::start(options).unwrap_or_else(|error| panic!("{error:#}"))
}

fn strict(mesh: &Mesh, app: &str) {
    let written = mesh.manifests.peer_authentication(app, app, "STRICT", &[]);
    written.expect("the manifests' folder is there");
}

#[test]
#[ignore = "needs root: netns"]
fn only_a_prober_reaches_a_strict_pod_in_clear() {
    let mesh = mesh("prober");
    let to = mesh.address_of("cart-a", ports::TELL);
    let kubelet = mesh.host_app(Replica::A, PROBER).unwrap();
    let stranger = mesh.host_app(Replica::A, "stranger").unwrap();
    strict(&mesh, "cart");
    refused_within_a_second(&stranger, to).unwrap();
    // Many, since each probe's exemption is used once.
    for _ in 0..20 {
        let answer = kubelet.ask(to, "are you well").unwrap();
        assert_eq!(answer.told.peer, answer.local);
        refused(&stranger, to).unwrap();
    }
}

#[test]
#[ignore = "needs root: netns"]
fn pods_of_one_node_go_through_the_tunnel_where_that_is_set() {
    let mut options = MeshOptions::for_test("same-node").unwrap();
    options.ztunnel.same_node = "tunnel";
    let mesh = started(options);
    let capture = Capture::start(&mesh.node(Replica::A).host.namespace).unwrap();
    let answer = mesh
        .pod("web")
        .app
        .ask(mesh.address_of("cart-a", ports::TELL), "a word")
        .unwrap();
    assert_eq!(answer.told.peer.ip(), mesh.pod("web").net.v4);
    let captured = capture.stop().unwrap();
    none("packets in clear", &captured.carrying("a word")).unwrap();
    assert!(!captured.tunnelled().is_empty());
}

#[test]
#[ignore = "needs root: netns"]
fn a_destination_outside_the_mesh_is_reached_as_it_is() {
    let mesh = mesh("outside");
    let web = mesh.pod("web");
    for to in [
        mesh.address_of("old-server", ports::TELL),
        mesh.v6_address_of("old-server", ports::TELL),
    ] {
        let answer = web.app.ask(to, "a word to a stranger").unwrap();
        assert_eq!((answer.peer, answer.told.local), (to, to));
        let own = if to.is_ipv4() { web.net.v4 } else { web.net.v6 };
        assert_eq!(answer.told.peer.ip(), own);
    }
}

#[test]
#[ignore = "needs root: netns"]
fn a_service_that_names_a_waypoint_is_refused_while_there_is_none() {
    let mesh = mesh("waypoint");
    let web = &mesh.pod("web").app;
    web.ask(mesh.cart(80), "while there is no waypoint")
        .unwrap();
    mesh.manifests
        .label_service("cart", "istio.io/use-waypoint", "gate")
        .unwrap();
    refused_within_a_second(web, mesh.cart(80)).unwrap();
    web.ask(mesh.six(), "others stay").unwrap();
}

#[test]
#[ignore = "needs root: netns"]
fn no_pod_reaches_a_debug_port() {
    let mesh = mesh("debug-ports");
    let node = mesh.node(Replica::A).host.v4();
    for client in ["web", "old-client"] {
        let answer = mesh
            .pod(client)
            .app
            .ask(SocketAddr::new(node, 15000), "GET /config_dump");
        assert!(answer.is_err(), "{client}: {answer:?}");
    }
}

#[test]
#[ignore = "needs root: netns"]
fn the_tunnel_port_serves_nobody_without_a_certificate() {
    let mesh = mesh("no-certificate");
    let to = mesh.address_of("cart-b", 15008);
    let app = &mesh.pod("old-client").app;
    app.open("raw", to).unwrap();
    // It may be cut while it is sent.
    app.send("raw", "CONNECT 127.0.0.1:8080 HTTP/1.1\r\nhost: a\r\n\r\n")
        .ok();
    let heard = app.read_to_end("raw").unwrap().data;
    assert!(!heard.contains("200"), "{heard:?}");
    let served = mesh.pod("cart-b").app.seen(ports::TELL).unwrap();
    assert!(served.is_empty(), "{served:?}");
}

#[test]
#[ignore = "needs root: netns"]
fn a_bad_manifest_is_refused_alone() {
    let mesh = mesh("bad-manifest");
    let bad = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: bad\n  namespace: legacy\nspec:\n  action: PERHAPS\n";
    mesh.manifests.write("bad.yaml", bad).unwrap();
    mesh.manifests.allow_only("good", "cart", &["web"]).unwrap();
    let to = mesh.address_of("cart-b", ports::TELL);
    refused_within_a_second(&mesh.pod("other").app, to).unwrap();
    mesh.pod("web").app.ask(to, "still").unwrap();
    let log = std::fs::read_to_string(mesh.log_of("controller")).unwrap();
    let told = log.lines().find(|line| line.contains("bad.yaml"));
    assert!(told.is_some_and(|line| line.contains("action")), "{told:?}");
}
