//! What a relay costs, which only the inside can tell.

use bytes::Bytes;
use tokio::net::TcpStream;

use super::*;
use crate::client;

/// The whole future: every tunnelled connection pays this twice, once at each node.
#[test]
fn a_relay_is_small() {
    let size = size_of::<Relay<'static, TcpSocket>>();
    assert!(size <= 320, "{size} bytes");
}

#[test]
fn a_connection_and_its_driver_are_small() {
    let handle = size_of::<client::Connection>();
    assert!(handle <= 64, "{handle} bytes");
    let driver = size_of::<client::Driver<TcpStream>>();
    assert!(driver <= 1536, "{driver} bytes");
}

#[test]
fn small_frames_to_a_stuck_socket_are_kept_densely() {
    let mut down = Down::default();
    const FRAMES: usize = 1 << 20;
    for _ in 0..FRAMES {
        down.push(Bytes::from_static(b"x"));
    }
    let held = down.capacity();
    assert!(held < FRAMES * 5 / 4, "{held} bytes for {FRAMES}");
}
