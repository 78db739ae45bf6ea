//! The bulk path: moves the bytes between a tunnel and a socket, and each end's way of ending.
//!
//! One future serves both directions, and while neither has bytes it holds no buffer. It decides
//! nothing: who may talk was settled before there was a tunnel.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::atomic::AtomicU64,
    task::{Context, Poll},
};

use crate::Tunnel;
use h2::Reason;

mod down;
mod socket;
mod up;

pub use socket::{IntoSocket, Socket, TcpSocket};

use down::Down;
use up::Up;

/// Where bytes are counted as they move: the owner's counters, whose direction only it knows.
#[derive(Debug, Clone, Copy)]
pub struct Traffic<'a> {
    /// Taken from the socket.
    pub to_tunnel: &'a AtomicU64,
    /// Written to the socket.
    pub from_tunnel: &'a AtomicU64,
}

/// The two ends of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Socket,
    Tunnel,
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both ends said that they are done.
    Clean,
    /// One end reset the connection, and the other was reset.
    ResetByPeer { which: Side },
    /// The socket failed otherwise; the tunnel was reset.
    SocketFailed(io::Error),
    /// The connection under the tunnel failed; the socket was reset.
    TunnelFailed(h2::Error),
}

impl RelayEnd {
    fn of_socket(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match error.kind() {
            // A write after the RST was seen gives EPIPE; so does one to a socket that is gone.
            ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => Self::ResetByPeer {
                which: Side::Socket,
            },
            _ => Self::SocketFailed(error),
        }
    }

    fn of_tunnel(error: h2::Error) -> Self {
        if error.is_reset() && error.is_remote() {
            Self::ResetByPeer {
                which: Side::Tunnel,
            }
        } else {
            Self::TunnelFailed(error)
        }
    }
}

/// Moves bytes until both directions have ended, or one end fails. Dropping the future before
/// resets both.
pub fn relay<'a, S: IntoSocket>(
    tunnel: Tunnel,
    socket: S,
    traffic: Traffic<'a>,
) -> impl Future<Output = RelayEnd> + use<'a, S> {
    Relay {
        tunnel,
        socket: socket.into_socket(),
        traffic,
        up: Up::default(),
        down: Down::default(),
        ended: false,
    }
}

struct Relay<'a, S: Socket> {
    tunnel: Tunnel,
    socket: S,
    traffic: Traffic<'a>,
    up: Up,
    down: Down,
    ended: bool,
}

impl<S: Socket> Relay<'_, S> {
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let Self {
            tunnel,
            socket,
            traffic,
            up,
            down,
            ..
        } = self;
        // Downwards first: what came in may have freed what upwards waits for.
        let progress = down.poll(cx, &mut tunnel.recv, socket, *traffic);
        down.account(&tunnel.held);
        if let Poll::Ready(Err(end)) = progress {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(end)) = up.poll(cx, &mut tunnel.send, socket, *traffic) {
            return Poll::Ready(end);
        }
        if up.is_done() && down.is_done() {
            return Poll::Ready(RelayEnd::Clean);
        }
        if up.is_done()
            && let Poll::Ready(error) = socket.poll_error(cx)
        {
            return Poll::Ready(RelayEnd::of_socket(error));
        }
        // With nothing more to come, only this tells of an RST_STREAM.
        if down.has_ended()
            && let Poll::Ready(result) = tunnel.send.poll_reset(cx)
        {
            return Poll::Ready(match result {
                Ok(_) => RelayEnd::ResetByPeer {
                    which: Side::Tunnel,
                },
                Err(error) => RelayEnd::of_tunnel(error),
            });
        }
        Poll::Pending
    }

    /// Passes on that one end is gone.
    fn reset_both(&mut self) {
        // RFC 9113 section 8.5: a TCP error is signalled with CONNECT_ERROR.
        self.tunnel.send.send_reset(Reason::CONNECT_ERROR);
        self.socket.reset();
    }
}

impl<S: Socket> Future for Relay<'_, S> {
    type Output = RelayEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let this = self.get_mut();
        let end = std::task::ready!(this.poll_both(cx));
        if !matches!(end, RelayEnd::Clean) {
            this.reset_both();
        }
        this.ended = true;
        Poll::Ready(end)
    }
}

impl<S: Socket> Drop for Relay<'_, S> {
    fn drop(&mut self) {
        self.down.forget(&self.tunnel.held);
        if !self.ended {
            self.reset_both();
        }
    }
}

#[cfg(test)]
mod tests;
