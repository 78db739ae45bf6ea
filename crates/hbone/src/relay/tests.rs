//! Relays over in-memory tunnels.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::{JoinSet, LocalSet},
    time::timeout,
};

use super::*;
use crate::{Authority, ConnectRequest, Settings, client, server::Server};

/// Both ends of one tunnel, and what moves their bytes.
struct Pair {
    client: Tunnel,
    server: Tunnel,
    tasks: JoinSet<()>,
}

fn target() -> Authority {
    "10.0.0.1:80".parse().expect("an authority")
}

async fn pair() -> Pair {
    let (near, far) = duplex(1 << 20);
    let mut tasks = JoinSet::new();
    let (connection, driver) = client::handshake(near, &Settings::client())
        .await
        .expect("begins");
    tasks.spawn_local(async move {
        driver.await.ok();
    });
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tasks.spawn_local(async move {
        let mut server = Server::handshake(far, &Settings::server())
            .await
            .expect("begins");
        while let Some(incoming) = server.accept().await {
            if let Ok(incoming) = incoming {
                let tunnel = incoming.accept(None).expect("answers");
                tell.send(tunnel).ok();
            }
        }
    });
    let client = connection
        .connect(&ConnectRequest::new(target()))
        .await
        .expect("connects");
    let server = told.recv().await.expect("accepted");
    Pair {
        client,
        server,
        tasks,
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_and_half_closes_cross_both_ways() {
    let run = async {
        let Pair {
            client,
            server,
            tasks: _tasks,
        } = pair().await;
        let (mut app, near) = duplex(4096);
        let (far, mut peer) = duplex(4096);
        let (one, two) = (Traffic::default(), Traffic::default());
        let relays = async { tokio::join!(relay(client, near, &one), relay(server, far, &two)) };
        let talk = async {
            app.write_all(b"ping").await.expect("writes");
            app.shutdown().await.expect("shuts down");
            let mut heard = String::new();
            peer.read_to_string(&mut heard).await.expect("reads");
            assert_eq!(heard, "ping");
            peer.write_all(b"pong!").await.expect("writes");
            peer.shutdown().await.expect("shuts down");
            heard.clear();
            app.read_to_string(&mut heard).await.expect("reads");
            assert_eq!(heard, "pong!");
        };
        let ((near, far), ()) = tokio::join!(relays, talk);
        assert!(matches!(near, RelayEnd::Clean), "{near:?}");
        assert!(matches!(far, RelayEnd::Clean), "{far:?}");
        assert_eq!((one.sent_to_tunnel(), one.received_from_tunnel()), (4, 5));
        assert_eq!((two.sent_to_tunnel(), two.received_from_tunnel()), (5, 4));
    };
    let local = LocalSet::new();
    timeout(Duration::from_secs(60), local.run_until(run))
        .await
        .expect("in time");
}
