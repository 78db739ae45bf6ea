//! The end that opens streams.
//!
//! [`handshake`] gives a handle to open streams with and a driver that moves the bytes; whoever
//! asked for the connection runs the driver until it ends.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    ConnectError, ConnectRequest, Error, Settings, Tunnel, held::Window, keepalive::Keepalive,
    paced::Paced, request,
};

mod slots;

pub(crate) use slots::{Slot, Slots};

/// Begins a connection. Does not wait for the peer: what is wrong shows on the first request.
pub async fn handshake<IO>(io: IO, settings: &Settings) -> Result<(Connection, Driver<IO>), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (send, mut connection) = Builder::new()
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.max_frame_size)
        .max_header_list_size(settings.max_header_list)
        .max_send_buffer_size(settings.send_buffer)
        .data_frame_budget(settings.data_frame_budget)
        .initial_max_send_streams(settings.max_streams as usize)
        .enable_push(false)
        .handshake::<_, Bytes>(Paced::new(io))
        .await
        .map_err(Error::Connection)?;
    let pings = connection.ping_pong().expect("taken once");
    let slots = Arc::new(Slots::new());
    let handle = Connection {
        send,
        slots: Arc::clone(&slots),
        max_streams: settings.max_streams as usize,
    };
    let driver = Driver {
        connection,
        window: Window::new(settings.connection_window, settings.held_limit),
        keepalive: Keepalive::new(pings, settings),
        slots,
    };
    Ok((handle, driver))
}

/// A connection to open streams on. It is kept open by its handles and its streams.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Bytes>,
    slots: Arc<Slots>,
    max_streams: usize,
}

impl Connection {
    /// Opens a stream: waits until one is free, asks, and awaits the answer. The deadline is the
    /// caller's; dropping the future resets the stream.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Tunnel, ConnectError> {
        let slot = loop {
            if let Some(slot) = self.reserve() {
                break slot;
            }
            if self.is_closed() {
                return Err(ConnectError::Closed(None));
            }
            self.slots.changed().await;
        };
        self.open(request, slot).await
    }

    /// Takes a place for one stream, if one is free and the connection takes new ones.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        (self.free_streams() > 0 && !self.is_closed()).then(|| self.claim())
    }

    /// Takes a place for one stream without looking whether one is free.
    pub(crate) fn claim(&self) -> Slot {
        Slots::take(&self.slots)
    }

    pub(crate) async fn open(
        &self,
        request: &ConnectRequest,
        slot: Slot,
    ) -> Result<Tunnel, ConnectError> {
        if self.slots.is_closed() {
            return Err(ConnectError::Closed(None));
        }
        let head = request
            .to_http()
            .expect("an authority and typed headers make a valid request");
        let ready = self.send.clone().ready().await;
        let mut send = ready.map_err(|error| ConnectError::Closed(Some(error)))?;
        let (answer, stream) = send
            .send_request(head, false)
            .map_err(|error| ConnectError::Closed(Some(error)))?;
        let (head, body) = answer.await?.into_parts();
        let baggage = request::baggage(&head.headers);
        if head.status != StatusCode::OK {
            return Err(ConnectError::Refused {
                status: head.status,
                baggage: baggage.map(Box::new),
            });
        }
        let held = Arc::clone(self.slots.held());
        Ok(Tunnel::new(stream, body, held, Some(slot), baggage))
    }

    /// Whether it takes no more streams: it ended, or the peer sent GOAWAY.
    pub fn is_closed(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.slots.is_closed()
            || matches!(
                self.send.clone().poll_ready(&mut context),
                Poll::Ready(Err(_))
            )
    }

    /// Streams open, or being opened.
    pub fn streams(&self) -> usize {
        self.slots.active()
    }

    /// Streams that can be opened now: neither end's limit is exceeded.
    pub fn free_streams(&self) -> usize {
        let limit = self.max_streams.min(self.send.current_max_send_streams());
        limit.saturating_sub(self.slots.active())
    }

    /// Since when no stream has been open.
    pub fn idle_since(&self) -> Option<Instant> {
        self.slots.idle_since()
    }

    /// Ends the connection at once, and with it all its streams.
    pub fn close(&self) {
        self.slots.close();
    }
}

/// Moves the bytes of a connection, and finds a dead peer. Ends when the connection does: well
/// when no handle and no stream is left, or it was closed here or by the peer.
#[must_use = "a connection does nothing unless its driver runs"]
pub struct Driver<IO: AsyncRead + AsyncWrite + Unpin> {
    connection: h2::client::Connection<Paced<IO>, Bytes>,
    keepalive: Keepalive,
    window: Window,
    slots: Arc<Slots>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.slots.poll_close_asked(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(size) = this.window.update(this.slots.held(), cx) {
            this.connection.set_target_window_size(size);
        }
        if let Poll::Ready(result) = Pin::new(&mut this.connection).poll(cx) {
            return Poll::Ready(result.map_err(Error::Connection));
        }
        this.keepalive.poll(cx).map(Err)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Drop for Driver<IO> {
    fn drop(&mut self) {
        self.slots.ended();
    }
}
