//! Both ends over a real socket.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may panic like they do"
)]

use std::{
    fs::File,
    io::{IoSlice, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd, RawFd},
        unix::fs::PermissionsExt as _,
    },
    path::PathBuf,
};

use enrolment::{
    Client, ClientError, Connection, Enrol, ListenError, Listener, PacketError, PodState,
    PodStatus, Received, Reply, Request,
};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    socket,
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

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let (folder, _) = place();
    let path = folder.path().join("enrol.sock");
    std::fs::write(&path, "a file of somebody's").unwrap();
    assert!(matches!(Listener::bind(&path), Err(ListenError::Io { .. })));
    assert!(path.exists());
}

/// Sends packets as no client of ours would.
fn raw(path: &std::path::Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[RawFd]) {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &control[..0]
    } else {
        &control[..]
    };
    let parts = [IoSlice::new(packet)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
}

fn answer(socket: &OwnedFd) -> String {
    let mut bytes = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Drives the listener, which must pass no request on, until `asked` has its answer.
async fn refused(listener: &mut Listener, mut asked: tokio::task::JoinHandle<String>) -> String {
    loop {
        tokio::select! {
            told = &mut asked => return told.unwrap(),
            passed = listener.next() => match passed {
                Received::Closed { .. } => {}
                Received::Enrol { .. } | Received::Other { .. } => panic!("passed on: {passed:?}"),
            },
        }
    }
}

#[tokio::test]
async fn an_enrolment_with_none_or_two_descriptors_is_refused_and_they_are_closed() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    for count in [0, 2] {
        let client = raw(&path);
        let (kept, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            let enrol = serde_json::to_vec(&Request::Enrol(web())).unwrap();
            send(&client, &enrol, &vec![kept.as_raw_fd(); count]);
            drop(kept);
            let told = answer(&client);
            // Its end is seen once no copy of the passed descriptor is left.
            assert_eq!(far.read(&mut [0]).unwrap(), 0);
            told
        });
        let told = refused(&mut listener, asked).await;
        assert!(told.contains("exactly one descriptor"), "{told}");
    }
}

#[tokio::test]
async fn a_packet_that_is_no_message_is_refused_and_the_next_is_served() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let client = raw(&path);
    let client = tokio::task::spawn_blocking(move || {
        send(&client, b"{\"enrol\": 7}", &[]);
        let told = answer(&client);
        assert!(told.contains("not a message"), "{told}");
        send(&client, b"\"pods\"", &[]);
        client
    });
    let Received::Other { request, .. } = listener.next().await else {
        panic!()
    };
    assert_eq!(request, Request::Pods);
    client.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_daemon() {
    let (_folder, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let client = raw(&path);
    send(&client, b"\"pods\"", &[]);
    let Received::Other { peer, .. } = listener.next().await else {
        panic!()
    };
    let pod = PodStatus {
        uid: "1".repeat(30_000),
        namespace: "shop".into(),
        name: "web".into(),
        state: PodState::Enrolled,
        addresses: Vec::new(),
        cookie: 7,
        connections_before_enrolment: Vec::new(),
        connections_not_listed: 0,
        tunnels: 0,
    };
    let unread = peer.reply_pods(vec![pod; 200]).await;
    assert!(matches!(unread, Err(PacketError::Unread)), "{unread:?}");
}
