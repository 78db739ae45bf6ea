//! The daemon dead, in every policy; the pod's administrator against it.

use redirect::{FailMode, FailPolicy, Verified};

use crate::world::{World, accept, end, refused, talk};

#[test]
#[ignore = "needs root: netns"]
fn with_the_daemon_dead_a_closed_pod_refuses_both_ways() {
    let world = World::new();
    let mut redirect = world.load();
    let enrolled = world.enrol(&mut redirect);
    let _server = world.outside.listen("10.77.9.2:80");
    let _app = world.pod.listen("0.0.0.0:80");
    let _app6 = world.pod.listen("[fd77:1::2]:80");
    for to in ["10.77.1.2:80", "[fd77:1::2]:80"] {
        // Neighbours learn each other, so that a later SYN need not be repeated.
        let _served = world.outside.connect(to).unwrap();
        accept(&enrolled.listeners.inbound);
    }
    drop(enrolled.listeners);
    for to in ["10.77.9.2:80", "[fd77:9::2]:80", "[::ffff:10.77.9.2]:80"] {
        refused(world.pod.connect(to));
    }
    for to in ["10.77.1.2:80", "[fd77:1::2]:80", "10.77.1.2:15008"] {
        refused(world.outside.connect(to));
    }
    let [(uid, counters)] = &redirect.counters().unwrap()[..] else {
        panic!("one pod is counted");
    };
    assert_eq!(uid, "pod");
    assert_eq!(
        (counters.outbound_refused, counters.inbound_refused),
        (3, 3)
    );
    assert_eq!(
        (counters.outbound_captured, counters.inbound_captured),
        (0, 2)
    );
}

#[test]
#[ignore = "needs root: netns"]
fn each_direction_opens_only_by_its_own_flag() {
    for (outbound, inbound) in [
        (FailMode::Open, FailMode::Closed),
        (FailMode::Closed, FailMode::Open),
        (FailMode::Open, FailMode::Open),
    ] {
        let world = World::new();
        let mut redirect = world.load();
        let enrolled = world.enrol_failing(&mut redirect, FailPolicy { outbound, inbound });
        let server = world.outside.listen("10.77.9.2:80");
        let app = world.pod.listen("10.77.1.2:80");
        // Alive, the flags change nothing.
        let _captured = world.pod.connect("10.77.9.2:80").unwrap();
        accept(&enrolled.listeners.outbound);
        drop(enrolled.listeners);

        let out = world.pod.connect("10.77.9.2:80");
        match outbound {
            FailMode::Open => talk(&out.unwrap(), &accept(&server).0),
            FailMode::Closed => refused(out),
        }
        let into = world.outside.connect("10.77.1.2:80");
        match inbound {
            FailMode::Open => talk(&into.unwrap(), &accept(&app).0),
            FailMode::Closed => refused(into),
        }
        refused(world.outside.connect("10.77.1.2:15008"));
        let counters = redirect.counters().unwrap()[0].1;
        assert_eq!(
            counters.outbound_open,
            u64::from(outbound == FailMode::Open)
        );
        assert_eq!(counters.inbound_open, u64::from(inbound == FailMode::Open));
    }
}

#[test]
#[ignore = "needs root: netns"]
fn a_removed_rule_or_route_is_put_back() {
    let world = World::new();
    let mut redirect = world.load();
    let enrolled = world.enrol(&mut redirect);
    assert_eq!(redirect.verify("pod").unwrap(), Verified::Intact);
    for damage in [
        "rule del fwmark 0x111/0xfff lookup 111",
        "-6 rule del fwmark 0x111/0xfff lookup 111",
        "route flush table 111",
        "-6 route flush table 111",
    ] {
        world.pod.ip(&[damage]);
        assert_eq!(
            redirect.verify("pod").unwrap(),
            Verified::Repaired,
            "{damage}"
        );
        assert_eq!(
            redirect.verify("pod").unwrap(),
            Verified::Intact,
            "{damage}"
        );
    }
    for to in ["10.77.9.2:80", "[fd77:9::2]:80"] {
        let _app = world.pod.connect(to).unwrap();
        assert_eq!(accept(&enrolled.listeners.outbound).1, end(to));
    }
}
