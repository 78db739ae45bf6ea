//! From the tunnel to the socket.

use std::{
    collections::VecDeque,
    io::IoSlice,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;

use super::{RelayEnd, Socket, Traffic};
use crate::held::Held;

/// Bytes gathered before they are written.
const GATHER: usize = 256 << 10;

/// Frames below this are copied together: each would pin the buffer it was read into.
const SMALL: usize = 4 << 10;

/// Room made for small frames at a time.
const JOINED: usize = 16 << 10;

const MAX_SLICES: usize = 16;

/// The direction's state.
///
/// Frames are always taken from h2, also while the socket takes nothing, for what is unread there
/// is charged by the frame. Here their bytes are dense, and the stream's window bounds them: it
/// opens again only by what the socket has taken.
#[derive(Default)]
pub(super) struct Down {
    queue: VecDeque<Bytes>,
    /// Small frames, which follow those in the queue.
    joined: BytesMut,
    queued: usize,
    /// What of it the connection knows.
    accounted: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// END_STREAM has come; the queue may still hold bytes.
    Ended,
    /// The socket was told.
    Done,
}

impl Down {
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether END_STREAM has come.
    pub(super) fn has_ended(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Ready when the tunnel said END_STREAM, and the socket was told.
    pub(super) fn poll<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        recv: &mut RecvStream,
        socket: &mut S,
        traffic: Traffic<'_>,
    ) -> Poll<Result<(), RelayEnd>> {
        while self.phase != Phase::Done {
            self.gather(cx, recv, GATHER)?;
            if self.queued == 0 {
                if self.phase == Phase::Open {
                    self.queue = VecDeque::new();
                    return Poll::Pending;
                }
                std::task::ready!(Pin::new(&mut *socket).poll_shutdown(cx))
                    .map_err(RelayEnd::of_socket)?;
                self.phase = Phase::Done;
                break;
            }
            match self.poll_write(cx, socket) {
                Poll::Ready(result) => {
                    let taken = result.map_err(RelayEnd::of_socket)?;
                    traffic
                        .from_tunnel
                        .fetch_add(taken as u64, Ordering::Relaxed);
                    // Fails only when the stream is gone, which the next read tells better.
                    drop(recv.flow_control().release_capacity(taken));
                }
                Poll::Pending => {
                    self.gather(cx, recv, usize::MAX)?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the connection what waits here. While all is written at once there is nothing to
    /// tell.
    pub(super) fn account(&mut self, held: &Held) {
        held.replace(self.accounted, self.queued);
        self.accounted = self.queued;
    }

    /// Tells the connection that nothing waits here any more.
    pub(super) fn forget(&mut self, held: &Held) {
        held.replace(self.accounted, 0);
        self.accounted = 0;
    }

    /// Bytes of memory that hold the queue, were every frame in it full of its own.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let items = self.queue.capacity() * size_of::<Bytes>();
        let bytes: usize = self.queue.iter().map(Bytes::len).sum();
        items + bytes + self.joined.capacity()
    }

    /// Takes the frames that have come, up to about `limit` bytes.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        recv: &mut RecvStream,
        limit: usize,
    ) -> Result<(), RelayEnd> {
        while self.phase == Phase::Open && self.queued < limit {
            match recv.poll_data(cx) {
                Poll::Ready(Some(Ok(frame))) => self.push(frame),
                Poll::Ready(Some(Err(error))) => return Err(RelayEnd::of_tunnel(error)),
                Poll::Ready(None) => self.phase = Phase::Ended,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.queued += frame.len();
        if frame.len() < SMALL {
            // A first small frame is mostly the only one, and is written at once.
            if self.queued == frame.len() {
                self.queue.push_back(frame);
                return;
            }
            if self.joined.capacity() - self.joined.len() < frame.len() {
                self.seal();
                self.joined.reserve(JOINED);
            }
            self.joined.extend_from_slice(&frame);
        } else if !frame.is_empty() {
            self.seal();
            self.queue.push_back(frame);
        }
    }

    /// Puts the small frames in their place in the queue.
    fn seal(&mut self) {
        if !self.joined.is_empty() {
            self.queue.push_back(self.joined.split().freeze());
        }
    }

    fn poll_write<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
    ) -> Poll<std::io::Result<usize>> {
        self.seal();
        let result = if self.queue.len() == 1 {
            Pin::new(&mut *socket).poll_write(cx, &self.queue[0])
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.queue.len().min(MAX_SLICES);
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
            }
            Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..filled])
        };
        let taken = match std::task::ready!(result) {
            Ok(0) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
            Ok(taken) => taken,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.advance(taken);
        Poll::Ready(Ok(taken))
    }

    fn advance(&mut self, taken: usize) {
        self.queued -= taken;
        let mut left = taken;
        while left > 0 {
            let front = self.queue.front_mut().expect("holds what was written");
            if front.len() > left {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.queue.pop_front();
        }
    }
}
