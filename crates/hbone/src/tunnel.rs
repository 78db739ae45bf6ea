//! An open stream, at either end.

use std::sync::Arc;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::{Baggage, client::Slot, held::Held};

/// One tunnelled connection. Dropping it resets the stream.
pub struct Tunnel {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    pub(crate) held: Arc<Held>,
    /// Counts against the streams of a client's connection, by being held.
    _slot: Option<Slot>,
    peer: Option<Box<Baggage>>,
}

impl Tunnel {
    pub(crate) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        held: Arc<Held>,
        slot: Option<Slot>,
        peer: Option<Baggage>,
    ) -> Self {
        Self {
            send,
            recv,
            held,
            _slot: slot,
            peer: peer.map(Box::new),
        }
    }

    /// What the server said of itself when it accepted, taken out of the tunnel.
    pub fn take_peer_baggage(&mut self) -> Option<Box<Baggage>> {
        self.peer.take()
    }
}
