//! Servers that misbehave, scripted by hand.

use std::time::Duration;

use bytes::Bytes;
use hbone::{
    ConnectError, Error, RelayEnd, Settings, Side,
    client::{self, Connection},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{Watched, local, request, watch};

/// A client whose server is the test, and how its driver will have ended.
async fn client_of(io: DuplexStream) -> (Connection, JoinSet<Result<(), Error>>) {
    let (connection, driver) = client::handshake(io, &Settings::client())
        .await
        .expect("begins");
    let mut drivers = JoinSet::new();
    drivers.spawn_local(driver);
    (connection, drivers)
}

async fn end_of(mut drivers: JoinSet<Result<(), Error>>) -> Result<(), Error> {
    drivers.join_next().await.expect("one").expect("no panic")
}

/// A server of frames: type, flags, stream, payload (RFC 9113 section 4.1).
struct Frames(DuplexStream);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, entry 8 of the static table (RFC 7541 appendix A).
const STATUS_200: &[u8] = &[0x88];

impl Frames {
    /// Reads the preface and answers with empty settings.
    async fn accept(io: DuplexStream) -> Self {
        let mut frames = Self(io);
        let mut preface = [0; 24];
        frames.0.read_exact(&mut preface).await.expect("a preface");
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // A peer that hung up is what some of these tests are about.
        self.0.write_all(&frame).await.ok();
    }

    async fn read(&mut self) -> (u8, u32) {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.expect("a frame");
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).await.expect("a payload");
        if head[3] == SETTINGS && head[4] & ACK == 0 {
            self.send(SETTINGS, ACK, 0, &[]).await;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        (head[3], stream)
    }

    /// Awaits a request and answers it 200.
    async fn answer(&mut self) -> u32 {
        let stream = loop {
            if let (HEADERS, stream) = self.read().await {
                break stream;
            }
        };
        self.send(HEADERS, END_HEADERS, stream, STATUS_200).await;
        stream
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_speaks_is_given_up() {
    local(async {
        let (near, _silent) = duplex(64 << 10);
        let (connection, drivers) = client_of(near).await;
        let before = Instant::now();
        let request = request();
        let (refused, end) = tokio::join!(connection.connect(&request), end_of(drivers));
        assert_eq!(
            before.elapsed().as_secs(),
            30,
            "a PING after 10 s, dead 20 s later"
        );
        assert!(matches!(end, Err(Error::Unresponsive(_))), "{end:?}");
        let refused = refused.err().expect("refused");
        assert!(matches!(refused, ConnectError::Stream(_)), "{refused}");
        assert!(connection.is_closed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_lives_on() {
    local(async {
        let ends = crate::support::ends().await;
        let ended = timeout(Duration::from_secs(600), async {
            while !ends.connection.is_closed() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
        assert!(ended.is_err(), "it ended");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_no_http2_is_an_error() {
    local(async {
        let (near, mut far) = duplex(64 << 10);
        let (connection, drivers) = client_of(near).await;
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .expect("writes");
        let request = request();
        let (refused, end) = tokio::join!(connection.connect(&request), end_of(drivers));
        assert!(matches!(end, Err(Error::Connection(_))), "{end:?}");
        assert!(refused.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_its_status() {
    local(async {
        let mut ends = crate::support::ends().await;
        let request = request();
        let answer = async {
            let incoming = ends
                .incoming
                .recv()
                .await
                .expect("a stream")
                .expect("valid");
            incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
        };
        let (refused, ()) = tokio::join!(ends.connection.connect(&request), answer);
        let refused = refused.err().expect("refused");
        assert_eq!(
            refused.to_string(),
            "the peer answered 503 Service Unavailable"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_reset_in_the_middle_resets_the_socket() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let (connection, _drivers) = client_of(near).await;
        let mut tasks = JoinSet::new();
        let serving = async {
            let mut frames = Frames::accept(far).await;
            let stream = frames.answer().await;
            frames.send(DATA, 0, stream, b"half").await;
            frames
                .send(RST_STREAM, 0, stream, &8u32.to_be_bytes())
                .await;
            frames
        };
        let request = request();
        let (tunnel, _frames) = tokio::join!(connection.connect(&request), serving);
        let (socket, mut app, reset) = Watched::new(64);
        let mut end = watch(&mut tasks, tunnel.expect("accepted"), socket);
        let end = end.recv().await.expect("ends");
        assert!(
            matches!(
                end,
                RelayEnd::ResetByPeer {
                    which: Side::Tunnel
                }
            ),
            "{end:?}"
        );
        assert!(reset.get());
        let mut heard = Vec::new();
        app.read_to_end(&mut heard).await.expect("reads");
        assert!(b"half".starts_with(&heard));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn data_after_the_end_never_reaches_the_socket() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let (connection, _drivers) = client_of(near).await;
        let mut tasks = JoinSet::new();
        let serving = async {
            let mut frames = Frames::accept(far).await;
            let stream = frames.answer().await;
            frames.send(DATA, END_STREAM, stream, b"hello").await;
            frames.send(DATA, 0, stream, b"smuggled").await;
            frames
        };
        let request = request();
        let (tunnel, _frames) = tokio::join!(connection.connect(&request), serving);
        let (socket, mut app, _) = Watched::new(64);
        let mut end = watch(&mut tasks, tunnel.expect("accepted"), socket);
        let mut heard = String::new();
        app.read_to_string(&mut heard).await.expect("reads");
        assert!("hello".starts_with(&heard), "{heard}");
        let end = end.recv().await.expect("ends");
        assert!(!matches!(end, RelayEnd::Clean), "{end:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_frames_ends_the_connection() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let (connection, drivers) = client_of(near).await;
        let mut tasks = JoinSet::new();
        let serving = async {
            let mut frames = Frames::accept(far).await;
            let stream = frames.answer().await;
            for _ in 0..1000 {
                frames.send(DATA, 0, stream, &[]).await;
            }
            frames
        };
        let request = request();
        let (tunnel, _frames) = tokio::join!(connection.connect(&request), serving);
        // The request may have failed already, by the same flood.
        if let Ok(tunnel) = tunnel {
            let (socket, _app, reset) = Watched::new(64);
            let mut end = watch(&mut tasks, tunnel, socket);
            end.recv().await.expect("ends");
            assert!(reset.get());
        }
        let end = end_of(drivers).await;
        assert!(matches!(end, Err(Error::Connection(_))), "{end:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_going_away_peer_gets_no_new_stream() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let (connection, _drivers) = client_of(near).await;
        let mut tasks = JoinSet::new();
        let mut server = h2::server::handshake(far);
        let serving = async {
            let mut server = (&mut server).await.expect("begins");
            let (_, mut respond) = server.accept().await.expect("one").expect("valid");
            let stream = respond
                .send_response(http::Response::new(()), false)
                .expect("sent");
            server.graceful_shutdown();
            (server, stream)
        };
        let request = request();
        let mut asking = std::pin::pin!(connection.connect(&request));
        let (mut server, mut stream) = tokio::select! {
            _ = &mut asking => panic!("nothing moves the server's bytes yet"),
            served = serving => served,
        };
        tasks.spawn_local(async move { while server.accept().await.is_some() {} });
        let _tunnel = asking.await.expect("accepted");
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
        let refused = connection.connect(&request).await.err().expect("refused");
        assert!(refused.is_retryable(), "{refused}");
        stream
            .send_data(Bytes::from_static(b"bye"), true)
            .expect("the old stream lives");
    })
    .await;
}
