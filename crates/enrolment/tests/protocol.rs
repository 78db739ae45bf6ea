//! Both ends over a real socket.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::PermissionsExt as _},
    path::PathBuf,
};

use enrolment::{
    Client, ClientError, Connection, Enrol, ListenError, Listener, PodState, PodStatus, Received,
    Reply, Request,
};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/enrol.sock");
    (folder, path)
}

fn ask<T: Send + 'static>(
    path: &std::path::Path,
    question: impl FnOnce(Client) -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || question(Client::connect(&path).unwrap()))
}

fn web() -> Enrol {
    Enrol {
        uid: "1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        ..Enrol::default()
    }
}

#[tokio::test]
async fn an_enrolment_brings_its_namespace() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let asked = ask(&path, |client| {
        client.enrol(web(), File::open("/proc/self/ns/net").unwrap().as_fd())
    });
    let Received::Enrol { peer, enrol, netns } = listener.next().await else {
        panic!()
    };
    assert_eq!(enrol, web());
    let passed = std::fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&netns)
    ));
    assert_eq!(
        passed.unwrap(),
        std::fs::read_link("/proc/self/ns/net").unwrap()
    );
    peer.reply(&Reply::Ack).await.unwrap();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_gives_its_reason() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let asked = ask(&path, |client| client.unenrol("shop", "web"));
    let Received::Other { peer, .. } = listener.next().await else {
        panic!()
    };
    peer.reply(&Reply::Refused("no such pod".into()))
        .await
        .unwrap();
    let refused = asked.await.unwrap().unwrap_err();
    assert!(matches!(refused, ClientError::Refused(why) if why == "no such pod"));
}

#[tokio::test]
async fn pods_are_listed_whole_however_many_connections_they_had() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let asked = ask(&path, |client| client.pods());
    let Received::Other {
        peer,
        request: Request::Pods,
    } = listener.next().await
    else {
        panic!()
    };
    let address = "[fd00:1111:2222:3333:4444:5555:6666:7777]:65535"
        .parse()
        .unwrap();
    let connection = Connection {
        local: address,
        remote: address,
    };
    let pod = PodStatus {
        uid: "1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        state: PodState::Enrolled,
        addresses: vec![address.ip()],
        cookie: 7,
        connections_before_enrolment: vec![connection; 5000],
        connections_not_listed: 0,
        tunnels: 0,
    };
    let told = tokio::join!(peer.reply_pods(vec![pod.clone(), pod]), asked);
    told.0.unwrap();
    let pods = told.1.unwrap().unwrap();
    assert_eq!(pods.len(), 2);
    let listed = pods[0].connections_before_enrolment.len();
    assert!(listed > 100);
    assert_eq!(listed + pods[0].connections_not_listed, 5000);
}

#[tokio::test]
async fn the_socket_is_private_and_taken_once() {
    let (_folder, path) = place();
    let listener = Listener::bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_nobody_answers_at_is_replaced() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Listener::bind(&path).unwrap();
}

#[tokio::test]
async fn the_end_of_a_connection_is_told() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let asked = ask(&path, |client| client.prepare());
    let Received::Other {
        peer,
        request: Request::Prepare,
    } = listener.next().await
    else {
        panic!()
    };
    peer.reply(&Reply::Ack).await.unwrap();
    asked.await.unwrap().unwrap();
    let Received::Closed { peer: closed } = listener.next().await else {
        panic!()
    };
    assert!(closed.is(&peer));
}

#[test]
fn a_missing_daemon_is_told_apart_from_a_broken_one() {
    let (_folder, path) = place();
    assert!(Client::connect(&path).unwrap_err().is_absent());
}
