//! The accepting end: what it answers, and how it ends.

use std::time::Duration;

use hbone::{
    Authority, Baggage, ConnectError, ConnectRequest, Error, Forwarded, RelayEnd, Settings,
    Traceparent,
    server::{Incoming, Server},
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::JoinSet,
};

use crate::support::{ends, ends_with, local, request, serve, watch};

fn baggage(name: &str) -> Baggage {
    Baggage {
        namespace: Some("shop".into()),
        service_name: Some(name.into()),
        ..Baggage::default()
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_learn_what_the_other_says() {
    local(async {
        let mut ends = ends().await;
        let asked = ConnectRequest {
            authority: "cart.shop.svc.cluster.local:443".parse().expect("valid"),
            baggage: Some(baggage("web")),
            forwarded: Some(Forwarded {
                client: "[fd00::7]:4711".parse().expect("an address"),
                host: Some("cart.shop.svc.cluster.local".into()),
            }),
            traceparent: Some(Traceparent::random()),
            network: Some("east".into()),
        };
        let answer = async {
            let incoming = ends
                .incoming
                .recv()
                .await
                .expect("a stream")
                .expect("valid");
            assert_eq!(*incoming.request(), asked);
            incoming.accept(Some(&baggage("cart"))).expect("answered")
        };
        let (tunnel, _far) = tokio::join!(ends.connection.connect(&asked), answer);
        let mut tunnel = tunnel.expect("accepted");
        assert_eq!(
            tunnel.take_peer_baggage().as_deref(),
            Some(&baggage("cart"))
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_of_either_family_is_asked_for_as_it_is() {
    local(async {
        let mut ends = ends().await;
        for text in ["10.0.0.1:80", "[fd00::1]:8080"] {
            let authority: Authority = text.parse().expect("valid");
            let asked = ConnectRequest::new(authority.clone());
            let answer = async {
                let incoming = ends
                    .incoming
                    .recv()
                    .await
                    .expect("a stream")
                    .expect("valid");
                assert_eq!(incoming.request().authority, authority);
                incoming.refuse(StatusCode::UNAUTHORIZED);
            };
            let (refused, ()) = tokio::join!(ends.connection.connect(&asked), answer);
            let refused = refused.err().expect("refused");
            assert!(
                matches!(refused, ConnectError::Refused { status, .. } if status == 401),
                "{refused}"
            );
            assert!(!refused.is_retryable());
        }
        assert_eq!(ends.connection.streams(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_connect_is_answered_400_and_the_connection_goes_on() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let mut tasks = JoinSet::new();
        let mut incoming = serve(&mut tasks, far, Settings::server());
        let (mut send, connection) = h2::client::handshake(near).await.expect("begins");
        tasks.spawn_local(async move {
            connection.await.ok();
        });
        let get = http::Request::get("http://10.0.0.1:80/")
            .body(())
            .expect("valid");
        let unnamed = http::Request::connect("user@host:80")
            .body(())
            .expect("valid");
        for bad in [get, unnamed] {
            let (answer, _) = send.send_request(bad, true).expect("sent");
            assert_eq!(answer.await.expect("answered").status(), 400);
            let error = incoming
                .recv()
                .await
                .expect("told")
                .err()
                .expect("an error");
            assert!(error.is_request(), "{error}");
        }
        let good = http::Request::connect("10.0.0.1:80")
            .body(())
            .expect("valid");
        let (_answer, _stream) = send.send_request(good, false).expect("sent");
        incoming.recv().await.expect("goes on").expect("valid");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_found_out() {
    local(async {
        let (mut silent, far) = duplex(64 << 10);
        // A preface and empty SETTINGS, and then nothing.
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        silent.write_all(hello).await.expect("writes");
        let settings = Settings::server();
        let mut server = Server::handshake(far, &settings).await.expect("begins");
        let before = tokio::time::Instant::now();
        let error = server
            .accept()
            .await
            .expect("told")
            .err()
            .expect("an error");
        assert!(matches!(error, Error::Unresponsive(_)), "{error}");
        assert_eq!(before.elapsed().as_secs(), 30);
        assert!(server.accept().await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_graceful_shutdown_lets_streams_finish_and_takes_no_more() {
    local(async {
        let (near, far) = duplex(64 << 10);
        let mut tasks = JoinSet::new();
        let (connection, driver) = hbone::client::handshake(near, &Settings::client())
            .await
            .expect("begins");
        tasks.spawn_local(async move {
            driver.await.expect("ends well");
        });
        let (shut, mut asked) = tokio::sync::mpsc::channel::<()>(1);
        let (tell, mut told) = tokio::sync::mpsc::channel::<Incoming>(1);
        let mut serving = JoinSet::new();
        serving.spawn_local(async move {
            let settings = Settings::server();
            let mut server = Server::handshake(far, &settings).await.expect("begins");
            loop {
                tokio::select! {
                    incoming = server.accept() => match incoming {
                        Some(incoming) => tell.send(incoming.expect("valid")).await.expect("heard"),
                        None => return,
                    },
                    Some(()) = asked.recv() => server.graceful_shutdown(),
                }
            }
        });
        let request = request();
        let answer = async {
            told.recv()
                .await
                .expect("a stream")
                .accept(None)
                .expect("answered")
        };
        let (one, two) = tokio::join!(connection.connect(&request), answer);
        let (near, mut app) = duplex(64);
        let (far, mut peer) = duplex(64);
        let mut near = watch(&mut tasks, one.expect("accepted"), near);
        let mut far = watch(&mut tasks, two, far);
        shut.send(()).await.expect("heard");
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
        let refused = connection.connect(&request).await.err().expect("refused");
        assert!(refused.is_retryable(), "{refused}");
        app.write_all(b"still").await.expect("writes");
        app.shutdown().await.expect("shuts down");
        let mut heard = String::new();
        peer.read_to_string(&mut heard).await.expect("reads");
        assert_eq!(heard, "still");
        peer.shutdown().await.expect("shuts down");
        for end in [near.recv().await, far.recv().await] {
            assert!(matches!(end, Some(RelayEnd::Clean)), "{end:?}");
        }
        while let Some(ended) = serving.join_next().await {
            ended.expect("the server is over after its last stream");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_free_stream() {
    local(async {
        let settings = Settings {
            max_streams: 1,
            ..Settings::client()
        };
        let mut ends = ends_with(settings, Settings::server()).await;
        let (one, two) = ends.tunnel().await;
        assert_eq!(ends.connection.free_streams(), 0);
        let request = request();
        let mut waiting = std::pin::pin!(ends.connection.connect(&request));
        let early = tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await;
        assert!(early.is_err(), "no stream was free");
        drop((one, two));
        let answer = async {
            let incoming = ends
                .incoming
                .recv()
                .await
                .expect("a stream")
                .expect("valid");
            incoming.accept(None).expect("answered")
        };
        let (late, _far) = tokio::join!(waiting, answer);
        late.expect("accepted");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_stream_ends_with_the_connection() {
    local(async {
        let settings = Settings {
            max_streams: 1,
            ..Settings::client()
        };
        let mut ends = ends_with(settings, Settings::server()).await;
        let _held = ends.tunnel().await;
        let request = request();
        let close = async { ends.connection.close() };
        let (refused, ()) = tokio::join!(ends.connection.connect(&request), close);
        let refused = refused.err().expect("refused");
        assert!(refused.is_retryable(), "{refused}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_is_noticed_before_the_answer() {
    local(async {
        let mut ends = ends().await;
        let request = request();
        let mut incoming = {
            let mut asking = std::pin::pin!(ends.connection.connect(&request));
            tokio::select! {
                _ = &mut asking => panic!("nobody answered"),
                incoming = ends.incoming.recv() => incoming.expect("a stream").expect("valid"),
            }
        };
        incoming.cancelled().await;
        let error = incoming.accept(None).err();
        assert!(matches!(error, Some(Error::Connection(_)) | None));
    })
    .await;
}
