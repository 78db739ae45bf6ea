//! What a relay needs of a socket, and TCP's way of giving it.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf},
    net::TcpStream,
};

/// A stream that can end like TCP can.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Makes the socket send RST, not FIN, when it is dropped.
    fn reset(&mut self);

    /// Ready when the peer has reset the connection. Asked after FIN has come, when reading
    /// cannot tell any more.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// What can be relayed.
pub trait IntoSocket {
    type Socket: Socket;

    fn into_socket(self) -> Self::Socket;
}

impl<S: Socket> IntoSocket for S {
    type Socket = S;

    fn into_socket(self) -> S {
        self
    }
}

impl IntoSocket for TcpStream {
    type Socket = TcpSocket;

    fn into_socket(self) -> TcpSocket {
        TcpSocket {
            stream: Arc::new(self),
            error: None,
        }
    }
}

/// In memory there is no RST: dropping it is all that can be done.
impl Socket for DuplexStream {
    fn reset(&mut self) {}

    fn poll_error(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

/// A TCP connection, half of which may be closed.
pub struct TcpSocket {
    /// Shared only with `error`.
    stream: Arc<TcpStream>,
    /// Waits for the kernel to report an error: no other readiness changes when RST follows FIN.
    error: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
}

impl TcpSocket {
    fn alone(&mut self) -> Pin<&mut TcpStream> {
        self.error = None;
        Pin::new(Arc::get_mut(&mut self.stream).expect("shared with the error only"))
    }
}

async fn next_error(stream: Arc<TcpStream>) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => match stream.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}

impl Socket for TcpSocket {
    fn reset(&mut self) {
        if let Err(error) = self.stream.set_zero_linger() {
            tracing::debug!(%error, "a socket cannot be reset");
        }
    }

    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stream = &self.stream;
        self.error
            .get_or_insert_with(|| Box::pin(next_error(Arc::clone(stream))))
            .as_mut()
            .poll(cx)
    }
}

impl AsyncRead for TcpSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.alone().poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.alone().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alone().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alone().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alone().poll_shutdown(cx)
    }
}
