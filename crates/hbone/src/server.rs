//! The end that accepts streams.
//!
//! [`Server::accept`] is also what moves the connection's bytes, so it is called until it says
//! that the connection is over, whatever the accepted streams do meanwhile.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, SendResponse},
};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    Baggage, ConnectRequest, Error, Settings, Tunnel,
    held::{Held, Window},
    keepalive::Keepalive,
    paced::Paced,
    request,
};

/// A peer's connection.
pub struct Server<IO: AsyncRead + AsyncWrite + Unpin> {
    connection: h2::server::Connection<Paced<IO>, Bytes>,
    keepalive: Keepalive,
    window: Window,
    held: Arc<Held>,
    over: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// Awaits the peer's preface. The deadline is the caller's.
    pub async fn handshake(io: IO, settings: &Settings) -> Result<Self, Error> {
        let mut connection = Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame_size)
            .max_header_list_size(settings.max_header_list)
            .max_send_buffer_size(settings.send_buffer)
            .data_frame_budget(settings.data_frame_budget)
            .max_concurrent_streams(settings.max_streams)
            .handshake::<_, Bytes>(Paced::new(io))
            .await
            .map_err(Error::Connection)?;
        let pings = connection.ping_pong().expect("taken once");
        Ok(Self {
            connection,
            keepalive: Keepalive::new(pings, settings),
            window: Window::new(settings.connection_window, settings.held_limit),
            held: Arc::default(),
            over: false,
        })
    }

    /// The next request; `None` when the connection is over. An error of which
    /// [`Error::is_request`] holds was one request's, answered already; after any other the
    /// connection is over. Cancel safe.
    pub async fn accept(&mut self) -> Option<Result<Incoming, Error>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`Server::accept`].
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(size) = self.window.update(&self.held, cx) {
            self.connection.set_target_window_size(size);
        }
        match self.connection.poll_accept(cx) {
            Poll::Ready(None) => {
                self.over = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                self.over = true;
                return Poll::Ready(Some(Err(Error::Connection(error))));
            }
            Poll::Ready(Some(Ok((request, respond)))) => {
                return Poll::Ready(Some(Incoming::parse(request, respond, &self.held)));
            }
            Poll::Pending => {}
        }
        self.keepalive.poll(cx).map(|error| {
            self.over = true;
            Some(Err(error))
        })
    }

    /// Sends GOAWAY. Streams that are open go on, and [`Server::accept`] ends after the last.
    pub fn graceful_shutdown(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends the connection and all its streams; [`Server::accept`] still has to be called to tell
    /// the peer.
    pub fn abrupt_shutdown(&mut self) {
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
    }

    /// Whether the peer has streams open.
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }
}

/// A request that waits for its answer. Dropping it resets the stream.
pub struct Incoming {
    request: ConnectRequest,
    respond: SendResponse<Bytes>,
    body: RecvStream,
    held: Arc<Held>,
}

impl Incoming {
    fn parse(
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        held: &Arc<Held>,
    ) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        match ConnectRequest::from_http(&head) {
            Ok(request) => Ok(Self {
                request,
                respond,
                body,
                held: Arc::clone(held),
            }),
            Err(error) => {
                answer(&mut respond, StatusCode::BAD_REQUEST);
                Err(Error::Request(error))
            }
        }
    }

    /// What is asked.
    pub fn request(&self) -> &ConnectRequest {
        &self.request
    }

    /// Whether the peer has given up: there is no one left to answer.
    pub async fn cancelled(&mut self) {
        // Whatever ends the wait ends the stream.
        poll_fn(|cx| self.respond.poll_reset(cx).map(|_| ())).await;
    }

    /// Answers 200, and says what this end's workload is.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Tunnel, Error> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            request::insert_baggage(response.headers_mut(), baggage);
        }
        let send = self
            .respond
            .send_response(response, false)
            .map_err(Error::Connection)?;
        Ok(Tunnel::new(send, self.body, self.held, None, None))
    }

    /// Answers with a failure: 400, 401 or 503 by the contract.
    pub fn refuse(mut self, status: StatusCode) {
        answer(&mut self.respond, status);
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, %status, "the peer is gone before it was answered");
    }
}
