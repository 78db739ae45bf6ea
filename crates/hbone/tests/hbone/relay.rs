//! Relays between a tunnel and a socket: bytes, ends, and what one stream does to another.

use std::time::Duration;

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};

use hbone::{RelayEnd, Settings, Side, Traffic, relay};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::support::{Joined, Watched, ends, local, local_realtime, serve, tcp, watch};

async fn says(io: &mut (impl AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.expect("writes");
}

#[track_caller]
fn assert_clean((near, far): (RelayEnd, RelayEnd)) {
    assert!(matches!(near, RelayEnd::Clean), "{near:?}");
    assert!(matches!(far, RelayEnd::Clean), "{far:?}");
}

async fn hears(io: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = vec![0; text.len()];
    io.read_exact(&mut heard).await.expect("reads");
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

async fn hears_the_end(io: &mut (impl AsyncRead + Unpin)) {
    let mut heard = Vec::new();
    io.read_to_end(&mut heard).await.expect("a clean end");
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn the_client_can_finish_first() {
    local(async {
        let mut ends = ends().await;
        let (near, mut app) = duplex(64);
        let (far, mut peer) = duplex(64);
        let joined = ends.joined(near, far).await;
        says(&mut app, "ping").await;
        app.shutdown().await.expect("shuts down");
        hears(&mut peer, "ping").await;
        hears_the_end(&mut peer).await;
        says(&mut peer, "pong!").await;
        hears(&mut app, "pong!").await;
        peer.shutdown().await.expect("shuts down");
        hears_the_end(&mut app).await;
        assert_clean(joined.ends().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_server_can_speak_and_finish_first() {
    local(async {
        let mut ends = ends().await;
        let (near, mut app) = duplex(64);
        let (far, mut peer) = duplex(64);
        let joined = ends.joined(near, far).await;
        says(&mut peer, "220 ready").await;
        peer.shutdown().await.expect("shuts down");
        hears(&mut app, "220 ready").await;
        hears_the_end(&mut app).await;
        says(&mut app, "bye").await;
        hears(&mut peer, "bye").await;
        app.shutdown().await.expect("shuts down");
        hears_the_end(&mut peer).await;
        assert_clean(joined.ends().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_byte_ends_cleanly() {
    local(async {
        let mut ends = ends().await;
        let (near, mut app) = duplex(64);
        let (far, mut peer) = duplex(64);
        let joined = ends.joined(near, far).await;
        app.shutdown().await.expect("shuts down");
        peer.shutdown().await.expect("shuts down");
        assert_clean(joined.ends().await);
    })
    .await;
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn more_than_every_window_crosses_both_ways_at_once() {
    const LEN: usize = 40 << 20;
    local(async {
        let mut ends = ends().await;
        let (one, two) = ends.tunnel().await;
        let (near, app) = duplex(200 << 10);
        let (far, peer) = duplex(200 << 10);
        let sent = pattern(LEN);
        let talk = async |io: tokio::io::DuplexStream| {
            let (mut read, mut write) = tokio::io::split(io);
            let mut heard = Vec::with_capacity(LEN);
            let writing = async {
                write.write_all(&sent).await.expect("writes");
                write.shutdown().await.expect("shuts down");
            };
            let (read, ()) = tokio::join!(read.read_to_end(&mut heard), writing);
            read.expect("reads");
            assert!(heard == sent, "{} bytes came, not the same", heard.len());
        };
        let counters = <[[AtomicU64; 2]; 2]>::default();
        let [up, down] = counters.each_ref().map(|[to_tunnel, from_tunnel]| Traffic {
            to_tunnel,
            from_tunnel,
        });
        let (near, far, (), ()) = tokio::join!(
            relay(one, near, up),
            relay(two, far, down),
            talk(app),
            talk(peer)
        );
        assert_clean((near, far));
        for counter in counters.as_flattened() {
            assert_eq!(counter.load(Ordering::Relaxed), LEN as u64);
        }
    })
    .await;
}

async fn assert_reset(mut socket: TcpStream) {
    let mut heard = Vec::new();
    let error = socket.read_to_end(&mut heard).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[track_caller]
fn assert_reset_by(end: &RelayEnd, side: Side) {
    assert!(
        matches!(end, RelayEnd::ResetByPeer { which } if *which == side),
        "{end:?} is no reset by {side:?}"
    );
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_server() {
    local_realtime(async {
        let mut ends = ends().await;
        let (mut app, near) = tcp().await;
        let (far, mut peer) = tcp().await;
        let joined = ends.joined(near, far).await;
        says(&mut app, "x").await;
        hears(&mut peer, "x").await;
        app.set_zero_linger().expect("set");
        drop(app);
        assert_reset(peer).await;
        let (near, far) = joined.ends().await;
        assert_reset_by(&near, Side::Socket);
        assert_reset_by(&far, Side::Tunnel);
    })
    .await;
}

#[tokio::test]
async fn a_reset_of_the_server_reaches_the_client() {
    local_realtime(async {
        let mut ends = ends().await;
        let (mut app, near) = tcp().await;
        let (far, peer) = tcp().await;
        let joined = ends.joined(near, far).await;
        says(&mut app, "x").await;
        // Closing with unread bytes is a reset too (RFC 9293 section 3.6, Linux tcp_close).
        peer.peek(&mut [0]).await.expect("a byte to leave unread");
        drop(peer);
        let (near, far) = joined.ends().await;

        assert_reset(app).await;
        assert_reset_by(&near, Side::Tunnel);
        assert_reset_by(&far, Side::Socket);
    })
    .await;
}

#[tokio::test]
async fn a_reset_after_the_client_finished_reaches_it() {
    local_realtime(async {
        let mut ends = ends().await;
        let (mut app, near) = tcp().await;
        let (far, mut peer) = tcp().await;
        let joined = ends.joined(near, far).await;
        app.shutdown().await.expect("shuts down");
        hears_the_end(&mut peer).await;
        peer.set_zero_linger().expect("set");
        drop(peer);
        assert_reset(app).await;
        let (near, _) = joined.ends().await;
        assert_reset_by(&near, Side::Tunnel);
    })
    .await;
}

/// Nothing is being sent, and reading has ended: only the error itself tells.
#[tokio::test]
async fn a_reset_after_the_server_finished_reaches_the_client() {
    local_realtime(async {
        let mut ends = ends().await;
        let (mut app, near) = tcp().await;
        let (far, mut peer) = tcp().await;
        let joined = ends.joined(near, far).await;
        peer.shutdown().await.expect("shuts down");
        hears_the_end(&mut app).await;
        says(&mut app, "x").await;
        hears(&mut peer, "x").await;
        peer.set_zero_linger().expect("set");
        drop(peer);
        let (near, far) = joined.ends().await;
        assert_reset_by(&near, Side::Tunnel);
        assert_reset_by(&far, Side::Socket);
        // Linux reports a RST that follows FIN as EPIPE (tcp_reset in CLOSE_WAIT).
        let error = app.take_error().expect("asked").expect("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    })
    .await;
}

#[tokio::test]
async fn giving_up_a_relay_resets_both_ends() {
    local_realtime(async {
        let mut ends = ends().await;
        let (one, two) = ends.tunnel().await;
        let (mut app, near) = tcp().await;
        let (far, mut peer) = tcp().await;
        let mut given_up = JoinSet::new();
        let near = watch(&mut given_up, one, near);
        let far = watch(&mut ends.tasks, two, far);
        says(&mut app, "x").await;
        hears(&mut peer, "x").await;
        given_up.shutdown().await;
        assert_reset(app).await;
        assert_reset(peer).await;
        drop(near);
        let mut far = far;
        assert_reset_by(&far.recv().await.expect("ends"), Side::Tunnel);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_resets_its_sockets() {
    local(async {
        let mut ends = ends().await;
        let (near, _app, near_reset) = Watched::new(64);
        let (far, _peer, far_reset) = Watched::new(64);
        let joined = ends.joined(near, far).await;
        ends.connection.close();
        let (near, far) = joined.ends().await;
        assert!(matches!(near, RelayEnd::TunnelFailed(_)), "{near:?}");
        assert!(matches!(far, RelayEnd::TunnelFailed(_)), "{far:?}");
        assert!(near_reset.get() && far_reset.get());
    })
    .await;
}

/// Fills a connection whose reader is stuck, until nothing more goes in.
async fn fill(io: &mut (impl AsyncWrite + Unpin)) -> usize {
    let part = vec![1; 64 << 10];
    let mut total = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(5), io.write(&part)).await {
        total += written.expect("writes");
    }
    total
}

#[tokio::test(start_paused = true)]
async fn a_stuck_reader_holds_a_bounded_amount_and_stalls_no_other() {
    local(async {
        let mut ends = ends().await;
        let (near, mut app) = duplex(64 << 10);
        let (far, mut stuck) = duplex(64 << 10);
        let _held = ends.joined(near, far).await;
        let held = fill(&mut app).await;
        let settings = Settings::server();
        let bound = settings.stream_window as usize + settings.send_buffer + (512 << 10);
        assert!(held <= bound, "{held} bytes are held, of {bound}");

        let (near, mut other) = duplex(64 << 10);
        let (far, mut peer) = duplex(64 << 10);
        let _lively = ends.joined(near, far).await;
        let sent = pattern(20 << 20);
        let mut heard = vec![0; sent.len()];
        let (written, read) = tokio::join!(other.write_all(&sent), peer.read_exact(&mut heard));
        written.expect("writes");
        read.expect("reads");
        assert!(heard == sent);

        let mut late = vec![0; held];
        stuck.read_exact(&mut late).await.expect("nothing was lost");
    })
    .await;
}

/// Ten streams of 4 MiB each are more than the connection's 16 MiB.
#[tokio::test(start_paused = true)]
async fn many_stuck_readers_do_not_use_up_the_window_of_the_others() {
    local(async {
        let mut ends = ends().await;
        let mut stuck = Vec::new();
        for _ in 0..10 {
            let (near, mut app) = duplex(64 << 10);
            let (far, peer) = duplex(64 << 10);
            let joined = ends.joined(near, far).await;
            fill(&mut app).await;
            stuck.push((joined, app, peer));
        }
        let (near, mut app) = duplex(64 << 10);
        let (far, mut peer) = duplex(64 << 10);
        let _lively = ends.joined(near, far).await;
        let sent = pattern(5 << 20);
        let mut heard = vec![0; sent.len()];
        let (written, read) = tokio::join!(app.write_all(&sent), peer.read_exact(&mut heard));
        written.expect("writes");
        read.expect("reads");
        assert!(heard == sent);
    })
    .await;
}

/// The window of the whole connection is not held by streams that have nothing to send.
#[tokio::test(start_paused = true)]
async fn idle_streams_leave_the_window_to_busy_ones() {
    local(async {
        let mut ends = ends().await;
        let mut idle = Vec::new();
        for _ in 0..99 {
            let (near, mut app) = duplex(64 << 10);
            let (far, mut peer) = duplex(64 << 10);
            let joined = ends.joined(near, far).await;
            let sent = pattern(300 << 10);
            let mut heard = vec![0; sent.len()];
            let (written, read) = tokio::join!(app.write_all(&sent), peer.read_exact(&mut heard));
            written.expect("writes");
            read.expect("reads");
            idle.push((joined, app, peer));
        }
        let (near, mut app) = duplex(64 << 10);
        let (far, mut peer) = duplex(64 << 10);
        let _joined = ends.joined(near, far).await;
        let sent = pattern(20 << 20);
        let mut heard = vec![0; sent.len()];
        let (written, read) = tokio::join!(app.write_all(&sent), peer.read_exact(&mut heard));
        written.expect("writes");
        read.expect("reads");
        assert!(heard == sent);
    })
    .await;
}

/// A sender other than ours, which makes a frame of every byte.
#[tokio::test(start_paused = true)]
async fn many_one_byte_frames_to_a_stuck_reader_leave_the_tunnel_alive() {
    const FRAMES: usize = 500_000;
    local(async {
        let (near, far) = duplex(1 << 20);
        let mut tasks = JoinSet::new();
        let mut incoming = serve(&mut tasks, far, Settings::server());
        let (send, connection) = h2::client::handshake(near).await.expect("begins");
        tasks.spawn_local(async move {
            connection.await.expect("the tunnel stays alive");
        });
        let mut open = async || {
            let request = http::Request::connect("10.0.0.1:80")
                .body(())
                .expect("valid");
            let mut send = send.clone().ready().await.expect("alive");
            let (answer, stream) = send.send_request(request, false).expect("sent");
            let accepted = incoming.recv().await.expect("alive").expect("valid");
            let tunnel = accepted.accept(None).expect("answers");
            (answer.await.expect("accepted"), stream, tunnel)
        };
        let (_answer, mut stream, tunnel) = open().await;
        let (far, mut stuck) = duplex(1 << 10);
        let _end = watch(&mut tasks, tunnel, far);
        for n in 0..FRAMES {
            let byte = Bytes::copy_from_slice(&[n as u8]);
            stream.send_data(byte, false).expect("buffered");
        }
        sleep(Duration::from_secs(1)).await;

        let (_other_answer, mut other, tunnel) = open().await;
        let (far, mut peer) = duplex(1 << 10);
        let _other_end = watch(&mut tasks, tunnel, far);
        other.send_data("still here".into(), true).expect("sent");
        hears(&mut peer, "still here").await;

        let mut late = vec![0; FRAMES];
        stuck.read_exact(&mut late).await.expect("nothing was lost");
        assert!(late.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_byte_writes_against_a_closed_window_are_coalesced() {
    local(async {
        let mut ends = ends().await;
        let (near, mut app) = duplex(16 << 10);
        let (far, mut stuck) = duplex(16);
        let _joined: Joined = ends.joined(near, far).await;
        let held = fill(&mut app).await;
        let tail = async {
            for n in 0..100_000u32 {
                app.write_all(&[n as u8]).await.expect("writes");
            }
        };
        let late = async {
            let mut skipped = vec![0; held];
            stuck.read_exact(&mut skipped).await.expect("reads");
            let mut heard = vec![0; 100_000];
            stuck.read_exact(&mut heard).await.expect("reads");
            heard
        };
        let ((), heard) = tokio::join!(tail, late);
        assert!(heard.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    })
    .await;
}
