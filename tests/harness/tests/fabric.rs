//! The ground the scenario stands on, without any daemon: pods reach each other, in clear, and the
//! capture sees it. If this fails, no other network test means anything.

use std::time::Duration;

use harness::mesh::ports;
use harness::protocol::{Reply, Storm};
use harness::{Capture, End, FailureKind, Mesh, MeshOptions, app, scope};

fn lay_out(test: &str) -> Mesh {
    let options = MeshOptions::for_test(test).expect("this test lies in a target folder");
    Mesh::lay_out(options).expect("namespaces can be made")
}

#[test]
#[ignore = "needs root: netns"]
fn pods_of_two_nodes_talk_and_the_capture_sees_every_word() {
    let mesh = lay_out("fabric-clear");
    let capture = Capture::start(mesh.fabric()).unwrap();
    let web = mesh.pod("web");
    for to in [
        mesh.address_of("cart-b", ports::TELL),
        mesh.v6_address_of("cart-b", ports::TELL),
    ] {
        let answer = web.app.ask(to, "a word in clear").unwrap();
        assert_eq!(answer.told.name, "cart-b");
        assert_eq!(answer.told.peer, answer.local);
        assert_eq!(answer.told.local, to);
    }
    let captured = capture.stop().unwrap();
    assert!(!captured.carrying("a word in clear").is_empty());
    assert!(captured.tunnelled().is_empty());
    assert!(!captured.begun_in_clear_by(web.net.v4).is_empty());
}

#[test]
#[ignore = "needs root: netns"]
fn the_application_tells_a_reset_from_an_end_and_from_a_refusal() {
    let mesh = lay_out("fabric-ends");
    let web = &mesh.pod("web").app;
    web.open("reset", mesh.address_of("cart-b", ports::RESET))
        .unwrap();
    web.send("reset", "now").unwrap();
    assert_eq!(web.read_to_end("reset").unwrap().end, End::Reset);

    web.open("fin", mesh.address_of("cart-b", ports::SINK))
        .unwrap();
    web.end_write("fin").unwrap();
    let ended = web.read_to_end("fin").unwrap();
    assert_eq!(ended.end, End::Fin);
    assert!(ended.data.starts_with("0 "), "{ended:?}");

    let nobody = web.ask(mesh.address_of("cart-b", 9), "hello").unwrap_err();
    assert_eq!(app::failure(&nobody).unwrap().kind, FailureKind::Refused);
}

#[test]
#[ignore = "needs root: netns"]
fn a_transfer_and_a_storm_report_what_happened() {
    let mesh = lay_out("fabric-load");
    let web = &mesh.pod("web").app;
    let sent = web
        .upload(mesh.address_of("cart-b", ports::SINK), 10_000_000)
        .unwrap();
    assert_eq!(sent.answer, format!("10000000 {}", sent.sha256));

    let storm = Storm {
        name: "storm".to_owned(),
        to: vec![
            mesh.address_of("cart-a", ports::TELL),
            mesh.address_of("cart-b", ports::TELL),
            mesh.address_of("cart-b", 9),
        ],
        per_second: 300,
        millis: 1000,
        line: "again".to_owned(),
    };
    let report = web.storm(storm).unwrap().storm().unwrap();
    assert!(report.attempts >= 290, "{report:?}");
    assert_eq!(report.succeeded + report.failed, report.attempts);
    assert!(
        report
            .failures
            .iter()
            .all(|one| one.kind == FailureKind::Refused)
    );
    assert!(report.by_server["cart-a"] > 90 && report.by_server["cart-b"] > 90);

    let pump = web.pump(
        mesh.address_of("cart-b", ports::DISCARD),
        4,
        Duration::from_millis(200),
    );
    let Reply::Count(sent) = pump.unwrap().wait().unwrap() else {
        panic!("a count")
    };
    assert!(sent > 0);
}

#[test]
#[ignore = "needs root: netns"]
fn a_mesh_leaves_nothing_behind() {
    let mesh = lay_out("fabric-gone");
    let name = mesh.fabric().name().trim_end_matches("-fabric").to_owned();
    let folder = mesh.folder().to_owned();
    assert!(folder.join("bpf").is_dir());
    drop(mesh);
    assert!(!folder.exists());
    let left: Vec<_> = std::fs::read_dir("/run/netns")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!harness::cgroup::root().unwrap().join(&name).exists());
    assert!(
        !std::fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(&name)
    );
    scope::sweep().unwrap();
}
