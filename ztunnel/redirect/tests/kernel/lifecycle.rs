//! Restart, take-over, un-enrolment, and what is older than enrolment.

use std::{fs, net::TcpStream};

use redirect::{Config, EnrolError, EnrolRequest, LoadError, Redirect, Stage};

use crate::world::{Netns, World, accept, end, refused, talk};

#[test]
#[ignore = "needs root: netns"]
fn a_restart_finds_its_pods_and_is_never_off() {
    let world = World::new();
    let mut first = world.load();
    let enrolled = world.enrol(&mut first);
    let _server = world.outside.listen("10.77.9.2:80");
    drop((first, enrolled));
    refused(world.pod.connect("10.77.9.2:80"));

    let mut second = world.load();
    refused(world.pod.connect("10.77.9.2:80"));
    let [recorded] = <[_; 1]>::try_from(second.recorded().unwrap()).expect("one pod");
    assert_eq!(
        (recorded.uid.as_str(), recorded.stage),
        ("pod", Stage::Capturing)
    );
    let enrolled = second.enrol(EnrolRequest::from(recorded)).unwrap();
    let app = world.pod.connect("10.77.9.2:80").unwrap();
    talk(&app, &accept(&enrolled.listeners.outbound).0);
    assert_eq!(world.pinned_pods(), 1);
}

#[test]
#[ignore = "needs root: netns"]
fn a_second_daemon_takes_over_without_a_refusal() {
    let world = World::new();
    let mut first = world.load();
    let old = world.enrol(&mut first);
    let kept = world.pod.connect("10.96.0.1:80").unwrap();
    let kept_end = accept(&old.listeners.outbound).0;

    let mut second = world.load();
    let recorded = second.recorded().unwrap().remove(0);
    let new = second.enrol(EnrolRequest::from(recorded)).unwrap();
    let _app = world.pod.connect("10.96.0.2:80").unwrap();
    assert_eq!(accept(&new.listeners.outbound).1, end("10.96.0.2:80"));
    let _caller = world.outside.connect("10.77.1.2:80").unwrap();
    assert_eq!(accept(&new.listeners.inbound).1, end("10.77.1.2:80"));

    drop((first, old));
    talk(&kept, &kept_end);
    let _app = world.pod.connect("10.96.0.3:80").unwrap();
    assert_eq!(accept(&new.listeners.outbound).1, end("10.96.0.3:80"));
    assert_eq!(world.pinned_pods(), 1);
}

#[test]
#[ignore = "needs root: netns"]
fn another_namespace_behind_the_recorded_path_is_refused() {
    let world = World::new();
    let mut first = world.load();
    drop(world.enrol(&mut first));
    drop(first);
    let record = fs::read_to_string(world.record()).unwrap();
    let mut fields: serde_json::Value = serde_json::from_str(&record).unwrap();
    fields["cookie"] = 1.into();
    fs::write(world.record(), fields.to_string()).unwrap();

    let mut second = world.load();
    assert!(second.recorded().unwrap().is_empty());
    assert!(!world.record().exists());
}

#[test]
#[ignore = "needs root: netns"]
fn a_new_namespace_takes_the_place_of_the_old_one() {
    let world = World::new();
    let mut redirect = world.load();
    let old = world.enrol(&mut redirect);
    let other = Netns::new();
    other.ip(&[
        "link set lo up",
        "link add eth0 type veth peer name unused",
        "addr add 10.5.5.5/24 dev eth0",
    ]);
    other.ip(&["link set eth0 up"]);
    let mut request = world.request(Default::default());
    request.netns = fs::File::open(other.path()).unwrap().into();
    request.netns_path = Some(other.path());
    let new = redirect.enrol(request).unwrap();
    assert_ne!(new.sockets.cookie(), old.sockets.cookie());
    assert_eq!(world.pinned_pods(), 1);
    let _app = other.connect("10.96.0.1:80").unwrap();
    assert_eq!(accept(&new.listeners.outbound).1, end("10.96.0.1:80"));
}

#[test]
#[ignore = "needs root: netns"]
fn unenrolment_goes_direct_first_and_serves_tunnels_to_the_end() {
    let world = World::new();
    let mut redirect = world.load();
    let enrolled = world.enrol(&mut redirect);
    let server = world.outside.listen("10.77.9.2:80");
    let app = world.pod.listen("10.77.1.2:80");
    let kept = world.pod.connect("10.96.0.1:80").unwrap();
    let kept_end = accept(&enrolled.listeners.outbound).0;

    redirect.stop_capture("pod").unwrap();
    let direct = |from: &Netns, to: &str, server| {
        let caller: TcpStream = from.connect(to).unwrap();
        talk(&caller, &accept(server).0);
    };
    direct(&world.pod, "10.77.9.2:80", &server);
    direct(&world.outside, "10.77.1.2:80", &app);
    let _tunnel = world.outside.connect("10.77.1.2:15008").unwrap();
    accept(&enrolled.listeners.hbone);
    talk(&kept, &kept_end);
    let port = enrolled.listeners.outbound.local_addr().unwrap().port();
    refused(world.outside.connect(&format!("10.77.1.2:{port}")));

    drop(enrolled.listeners);
    redirect.remove("pod").unwrap();
    direct(&world.pod, "10.77.9.2:80", &server);
    direct(&world.outside, "10.77.1.2:80", &app);
    refused(world.outside.connect("10.77.1.2:15008"));
    talk(&kept, &kept_end);
    assert_eq!(world.pinned_pods(), 0);
    assert!(!world.record().exists());
    assert!(redirect.counters().unwrap().is_empty());
}

#[test]
#[ignore = "needs root: netns"]
fn connections_older_than_enrolment_live_on_and_are_listed() {
    let world = World::new();
    let mut redirect = world.load();
    let server = world.outside.listen("10.77.9.2:80");
    let app = world.pod.listen("[::]:80");
    let out = world.pod.connect("10.77.9.2:80").unwrap();
    let out_end = accept(&server).0;
    let into = world.outside.connect("10.77.1.2:80").unwrap();
    let into_end = accept(&app).0;

    let enrolled = world.enrol(&mut redirect);
    let mut listed = enrolled.established.clone();
    let mut expected = vec![
        (out.local_addr().unwrap(), out.peer_addr().unwrap()),
        (into.peer_addr().unwrap(), into.local_addr().unwrap()),
    ];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    talk(&out, &out_end);
    talk(&into, &into_end);

    let _looped = world.pod.connect("10.96.0.1:80").unwrap();
    drop((into, into_end));
    let again = world.enrol(&mut world.load());
    assert_eq!(again.established.len(), 1);
    assert!(again.sockets.alive());
}

#[test]
#[ignore = "needs root: netns"]
fn a_taken_namespace_and_the_nodes_own_are_refused() {
    let world = World::new();
    let mut redirect = world.load();
    let _enrolled = world.enrol(&mut redirect);
    let mut second = world.request(Default::default());
    second.uid = "other".to_owned();
    assert!(matches!(redirect.enrol(second), Err(EnrolError::Taken { uid }) if uid == "pod"));
    let mut host = world.request(Default::default());
    host.netns = fs::File::open("/proc/thread-self/ns/net").unwrap().into();
    assert!(matches!(redirect.enrol(host), Err(EnrolError::HostNetwork)));
}

#[test]
#[ignore = "needs root: netns"]
fn enrolment_is_quick_and_cheap() {
    let world = World::new();
    let mut redirect = world.load();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    // The first one warms caches up.
    drop(world.enrol(&mut redirect));
    redirect.remove("pod").unwrap();
    let before = open();
    let started = std::time::Instant::now();
    let _enrolled = world.enrol(&mut redirect);
    let took = started.elapsed();
    println!("enrolled in {took:?} with {} descriptors", open() - before);
    assert_eq!(open() - before, 4);
    assert!(took < std::time::Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_missing_object_names_the_command_that_builds_it() {
    let config = Config {
        cgroup: "/nowhere".into(),
        pin_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        object: "/nowhere/ambit-ebpf.o".into(),
        prober_cgroups: Vec::new(),
        ebpf_log: redirect::EbpfLog::Off,
    };
    let error = Redirect::load(config).unwrap_err();
    assert!(matches!(error, LoadError::Object { .. }));
    assert!(error.to_string().contains("cargo xtask ebpf"), "{error}");
}
