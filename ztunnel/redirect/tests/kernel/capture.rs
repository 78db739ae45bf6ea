//! What is captured, what is not, and with which addresses.

use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::world::{
    HOST, OUTSIDE, OUTSIDE6, POD, POD6, World, accept, canonical, end, ip, refused, talk,
};

#[test]
#[ignore = "needs root: netns"]
fn outbound_connections_arrive_with_their_own_destination() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    for (to, source) in [
        ("10.96.0.10:80", POD),
        ("[fd96::10]:81", POD6),
        ("[::ffff:10.96.0.11]:82", POD),
        ("10.77.9.2:83", POD),
        ("10.77.1.1:84", POD),
    ] {
        let app = world.pod.connect(to).expect(to);
        let (taken, destination, peer) = accept(&enrolled.listeners.outbound);
        assert_eq!(destination, canonical(end(to)), "{to}");
        assert_eq!(peer.ip(), ip(source), "{to}");
        assert_eq!(app.peer_addr().unwrap(), end(to), "{to}");
        talk(&app, &taken);
    }
}

#[test]
#[ignore = "needs root: netns"]
fn a_socket_bound_to_a_device_is_captured() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    for to in ["10.77.9.2:80", "[fd77:9::2]:80"] {
        let bind = |socket: &Socket| socket.bind_device(Some(b"eth0")).unwrap();
        let _app = world.pod.connect_with(to, bind).expect(to);
        assert_eq!(accept(&enrolled.listeners.outbound).1, end(to));
    }
}

#[test]
#[ignore = "needs root: netns"]
fn a_socket_keeps_its_own_mark_beside_ours() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let mark = |socket: &Socket| socket.set_mark(0x0077_7fff).unwrap();
    let app = world.pod.connect_with("10.96.0.1:80", mark).unwrap();
    assert_eq!(SockRef::from(&app).mark().unwrap(), 0x0077_7111);
    assert_eq!(accept(&enrolled.listeners.outbound).1, end("10.96.0.1:80"));
}

#[test]
#[ignore = "needs root: netns"]
fn multipath_tcp_is_captured() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let to: SocketAddr = end("10.77.9.2:80");
    let socket = world
        .pod
        .within(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap());
    socket.connect(&to.into()).unwrap();
    assert_eq!(accept(&enrolled.listeners.outbound).1, to);
}

#[test]
#[ignore = "needs root: netns"]
fn the_daemons_own_sockets_leave_as_the_pod() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    for (address, source) in [(OUTSIDE, POD), (OUTSIDE6, POD6)] {
        let to = SocketAddr::new(ip(address), 15008);
        let server = world.outside.listen(&to.to_string());
        let family = redirect::Family::of(to.ip());
        let socket = enrolled.sockets.outbound(family).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.connect(&to.into()).unwrap();
        assert_eq!(accept(&server).2.ip(), ip(source));
    }
}

#[test]
#[ignore = "needs root: netns"]
fn inbound_connections_are_captured_and_reach_the_app_from_their_source() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    for (to, client) in [("10.77.1.2:8080", OUTSIDE), ("[fd77:1::2]:8080", OUTSIDE6)] {
        let app = world.pod.listen(to);
        let caller = world.outside.connect(to).expect(to);
        let (taken, destination, peer) = accept(&enrolled.listeners.inbound);
        assert_eq!((destination, peer.ip()), (end(to), ip(client)));
        talk(&caller, &taken);

        let socket = enrolled
            .sockets
            .to_app(peer.ip(), destination.ip())
            .unwrap();
        socket.set_nonblocking(false).unwrap();
        socket
            .connect(&destination.into())
            .expect("the app is reached");
        let (served, _, seen) = accept(&app);
        assert_eq!(seen.ip(), ip(client));
        talk(&TcpStream::from(socket), &served);
    }
}

#[test]
#[ignore = "needs root: netns"]
fn tunnels_have_a_listener_of_their_own() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    for to in ["10.77.1.2:15008", "[fd77:1::2]:15008"] {
        let _peer = world.outside.connect(to).expect(to);
        assert_eq!(accept(&enrolled.listeners.hbone).1, end(to));
        // The pod's own tunnel to itself.
        let _own = world.pod.connect(to).expect(to);
        assert_eq!(accept(&enrolled.listeners.hbone).1, end(to));
    }
}

#[test]
#[ignore = "needs root: netns"]
fn the_pods_traffic_to_itself_is_left_alone() {
    let world = World::new();
    let _enrolled = world.enrol(&mut world.load());
    for to in ["127.0.0.1:80", "[::1]:80", "10.77.1.2:81", "[fd77:1::2]:81"] {
        let app = world.pod.listen(to);
        let caller = world.pod.connect(to).expect(to);
        talk(&caller, &accept(&app).0);
    }
}

#[test]
#[ignore = "needs root: netns"]
fn the_daemons_listeners_cannot_be_reached_by_number() {
    let world = World::new();
    let enrolled = world.enrol(&mut world.load());
    let listeners = &enrolled.listeners;
    for listener in [&listeners.outbound, &listeners.inbound, &listeners.hbone] {
        let port = listener.local_addr().unwrap().port();
        for address in [
            "127.0.0.1",
            "[::1]",
            POD,
            "[fd77:1::2]",
            "[::ffff:10.77.1.2]",
        ] {
            refused(world.pod.connect(&format!("{address}:{port}")));
        }
        // From outside it is a port like any other: the inbound listener's.
        let to = format!("{POD}:{port}");
        let _caller = world.outside.connect(&to).unwrap();
        let (_, destination, peer) = accept(&listeners.inbound);
        assert_eq!(destination, end(&to));
        let socket = enrolled
            .sockets
            .to_app(peer.ip(), destination.ip())
            .unwrap();
        socket.set_nonblocking(false).unwrap();
        refused(socket.connect(&destination.into()));
    }
}

#[test]
#[ignore = "needs root: netns"]
fn what_is_not_enrolled_is_untouched() {
    let world = World::new();
    let _redirect = world.load();
    let server = world.outside.listen("10.77.9.2:80");
    for from in [&world.pod, world.host()] {
        let caller = from.connect("10.77.9.2:80").unwrap();
        talk(&caller, &accept(&server).0);
    }
    let app = world.pod.listen("10.77.1.2:80");
    let caller = world.outside.connect("10.77.1.2:80").unwrap();
    let (served, _, peer) = accept(&app);
    assert_eq!(peer.ip(), ip(OUTSIDE));
    talk(&caller, &served);
    assert_ne!(ip(HOST), peer.ip());
}

#[test]
#[ignore = "needs root: netns"]
fn a_pod_without_ipv6_is_captured() {
    let world = World::new();
    world.pod.within(|| {
        for scope in ["all", "default", "lo"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
    });
    let enrolled = world.enrol(&mut world.load());
    assert_eq!(enrolled.addresses, [ip(POD)]);
    let _app = world.pod.connect("10.96.0.1:80").unwrap();
    assert_eq!(accept(&enrolled.listeners.outbound).1, end("10.96.0.1:80"));
    let _caller = world.outside.connect("10.77.1.2:80").unwrap();
    assert_eq!(accept(&enrolled.listeners.inbound).1, end("10.77.1.2:80"));
}
