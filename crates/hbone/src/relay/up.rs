//! From the socket to the tunnel.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{RelayEnd, Socket, Traffic};
use crate::buffer::{self, CHUNK};

/// Bytes sent in one poll before the connection's own task gets to write them out.
const TURN: usize = 4 * CHUNK;

/// What a frame costs besides its bytes, so that small ones count too.
const FRAME_COST: usize = 512;

/// The direction's state.
///
/// The window is asked for only when bytes are at hand: a reservation counts against the window
/// of the whole connection, and idle streams holding one would starve the others. So a stream may
/// hand over [`CHUNK`] bytes unasked, and after that waits until h2 has room for more.
#[derive(Default)]
pub(super) struct Up {
    /// Bytes (and frames, in bytes) handed to h2 since it last said that there is room.
    unasked: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Part of the window is reserved and not used yet.
    Reserved,
    Done,
}

impl Up {
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Ready when the socket said FIN, and the tunnel was told.
    pub(super) fn poll<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
        socket: &mut S,
        traffic: Traffic<'_>,
    ) -> Poll<Result<(), RelayEnd>> {
        let mut sent = 0;
        while self.phase != Phase::Done {
            if sent >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.unasked >= CHUNK {
                ready!(self.poll_room(cx, send))?;
            }
            let bytes = match poll_read(cx, socket) {
                Poll::Ready(result) => result.map_err(RelayEnd::of_socket)?,
                Poll::Pending => {
                    self.release(send);
                    return Poll::Pending;
                }
            };
            let len = bytes.len();
            // An empty frame only ever ends the stream: h2 counts the others as an attack.
            let last = len == 0;
            send.send_data(bytes, last).map_err(RelayEnd::of_tunnel)?;
            if last {
                self.phase = Phase::Done;
            }
            traffic.to_tunnel.fetch_add(len as u64, Ordering::Relaxed);
            self.unasked += len + FRAME_COST;
            sent += len + FRAME_COST;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when h2 has written enough of what it was given, and the peer lets it write more.
    fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), RelayEnd>> {
        self.phase = Phase::Reserved;
        send.reserve_capacity(CHUNK);
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(RelayEnd::of_tunnel(error))),
                // Not streaming any more although it was not ended here: it was reset.
                None => {
                    let reset = ready!(send.poll_reset(cx));
                    return Poll::Ready(Err(match reset {
                        Ok(_) => RelayEnd::ResetByPeer {
                            which: super::Side::Tunnel,
                        },
                        Err(error) => RelayEnd::of_tunnel(error),
                    }));
                }
            }
        }
        self.unasked = 0;
        Poll::Ready(Ok(()))
    }

    /// Gives the window back to the other streams.
    fn release(&mut self, send: &mut SendStream<Bytes>) {
        if self.phase == Phase::Reserved {
            send.reserve_capacity(0);
            self.phase = Phase::Open;
        }
    }
}

/// What the socket has; empty at its end. Holds no buffer while there is nothing.
fn poll_read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    socket: &mut S,
) -> Poll<std::io::Result<Bytes>> {
    let mut buffer: BytesMut = buffer::take();
    let result = pin!(socket.read_buf(&mut buffer)).poll(cx);
    match result {
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(buffer::freeze(buffer))),
        Poll::Ready(Err(error)) => {
            buffer::give(buffer);
            Poll::Ready(Err(error))
        }
        Poll::Pending => {
            buffer::give(buffer);
            Poll::Pending
        }
    }
}
