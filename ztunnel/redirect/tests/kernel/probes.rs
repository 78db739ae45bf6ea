//! Probes of the node: who is exempt, and for how long.

use std::net::SocketAddr;

use socket2::Socket;

use crate::world::{HOST, World, accept, ip, refused, talk};

#[test]
#[ignore = "needs root: netns"]
fn a_prober_reaches_the_app_and_nobody_else_on_the_node_does() {
    let world = World::new();
    let mut redirect = world.load();
    let enrolled = world.enrol(&mut redirect);
    for to in [
        "10.77.1.2:8080",
        "[fd77:1::2]:8080",
        "[::ffff:10.77.1.2]:8081",
    ] {
        let bound = to.replace("::ffff:10.77.1.2", "::");
        let app = world.pod.listen(&bound);
        let probe = world.as_prober(|| world.host().connect(to)).expect(to);
        talk(&probe, &accept(&app).0);

        let _stranger = world.host().connect(to).expect(to);
        accept(&enrolled.listeners.inbound);
    }
    assert_eq!(redirect.counters().unwrap()[0].1.inbound_probes, 3);
}

#[test]
#[ignore = "needs root: netns"]
fn an_exemption_ends_with_its_connection() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let app = world.pod.listen("10.77.1.2:8080");
    let from = |port| {
        move |socket: &Socket| {
            socket.set_reuse_address(true).unwrap();
            // Leaves no TIME_WAIT, so that the same 4-tuple is free at once.
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            socket
                .bind(&SocketAddr::new(ip(HOST), port).into())
                .unwrap();
        }
    };
    let host = world.host();
    let probe = world.as_prober(|| host.connect_with("10.77.1.2:8080", from(0)).unwrap());
    let port = probe.local_addr().unwrap().port();
    drop((probe, accept(&app)));

    let again = host.connect_with("10.77.1.2:8080", from(port)).unwrap();
    let (_, _, peer) = accept(&enrolled.listeners.inbound);
    assert_eq!(peer, again.local_addr().unwrap());
}

#[test]
#[ignore = "needs root: netns"]
fn a_probe_that_was_refused_leaves_no_exemption() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let from = |port| {
        move |socket: &Socket| {
            socket.set_reuse_address(true).unwrap();
            socket
                .bind(&SocketAddr::new(ip(HOST), port).into())
                .unwrap();
        }
    };
    let host = world.host();
    let free = host.listen("10.77.1.1:0").local_addr().unwrap().port();
    refused(world.as_prober(|| host.connect_with("10.77.1.2:8080", from(free))));
    let _app = world.pod.listen("10.77.1.2:8080");
    let _again = host.connect_with("10.77.1.2:8080", from(free)).unwrap();
    assert_eq!(accept(&enrolled.listeners.inbound).2.port(), free);
}

#[test]
#[ignore = "needs root: netns"]
fn a_spoofed_source_is_captured() {
    let world = World::new();
    let mut redirect = world.load();
    let _enrolled = world.enrol(&mut redirect);
    let _app = world.pod.listen("10.77.1.2:8080");
    // A node that lets its own address in from outside, which no node should.
    world.host().within(|| {
        for (setting, value) in [
            ("all/rp_filter", "0"),
            ("v9/rp_filter", "0"),
            ("v9/accept_local", "1"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{setting}"), value).unwrap();
        }
    });
    // Learns the way before it lies about itself.
    refused(world.outside.connect("10.77.9.1:1"));
    world.outside.ip(&["addr add 10.77.1.1/32 dev lo"]);
    let spoof = |socket: &Socket| {
        socket.bind(&SocketAddr::new(ip(HOST), 0).into()).unwrap();
    };
    // The answer goes to the real host, which resets.
    assert!(world.outside.connect_with("10.77.1.2:8080", spoof).is_err());
    let counters = redirect.counters().unwrap()[0].1;
    // More than one, because the SYN is repeated.
    assert!(counters.inbound_captured > 0);
    assert_eq!(counters.inbound_probes, 0);
}

#[test]
#[ignore = "needs root: netns"]
fn a_prober_inside_a_pod_is_captured_like_any_app() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let _probe = world.as_prober(|| world.pod.connect("10.77.9.2:80").unwrap());
    accept(&enrolled.listeners.outbound);
}
