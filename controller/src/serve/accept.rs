//! Accepts TLS connections of daemons and hands over those whose handshake is done.
//!
//! Knows nothing of what is served on them. A caller that stalls costs one place among
//! [`HANDSHAKES`] until its deadline, and no other caller waits for it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use identity::{ServerStream, ServerTls};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::server::Connected;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 256;
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that is ready to be served.
pub(crate) struct Accepted<IO>(pub(crate) IO);

/// Accepts until the receiver is gone.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    ready: mpsc::Sender<io::Result<Accepted<ServerStream<TcpStream>>>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                Ok((stream, peer)) => {
                    let (tls, ready) = (tls.clone(), ready.clone());
                    handshakes.spawn(async move {
                        if let Some(stream) = handshake(&tls, stream, peer).await {
                            // The server is gone: so is the use of the connection.
                            ready.send(Ok(Accepted(stream))).await.ok();
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    // Without a pause, running out of descriptors would be a hot loop.
                    sleep(PAUSE).await;
                }
            },
            Some(finished) = handshakes.join_next() => {
                if let Err(error) = finished {
                    tracing::error!(%error, "a handshake panicked");
                }
            }
            () = ready.closed() => return,
        }
    }
}

async fn handshake(
    tls: &ServerTls,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<ServerStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "small writes may be delayed");
    }
    match timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::warn!(%peer, "no TLS handshake within {HANDSHAKE_DEADLINE:?}");
            None
        }
    }
}

impl<IO> Connected for Accepted<IO> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<IO: AsyncRead + Unpin> AsyncRead for Accepted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Accepted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
