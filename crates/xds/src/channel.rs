//! Channels over streams that the caller opens: the caller does TCP and TLS, this does HTTP/2.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    codegen::{Service, http::Uri},
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint, Error},
};

use crate::BoxError;

/// A controller that vanished without a word is noticed within their sum.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(20);

/// Lets a large first push come in without a round trip for every 64 KiB.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Opens a channel now. `uri` names the controller in requests; `connector` opens the stream.
pub async fn connect<Connector, Connecting, Io>(
    uri: Uri,
    connector: Connector,
) -> Result<Channel, Error>
where
    Connector: FnMut() -> Connecting + Send + 'static,
    Connecting: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    endpoint(uri)
        .connect_with_connector(Opener(connector))
        .await
}

/// A channel that opens its connection when it is first used, and again whenever it broke.
pub fn lazy<Connector, Connecting, Io>(uri: Uri, connector: Connector) -> Channel
where
    Connector: FnMut() -> Connecting + Send + 'static,
    Connecting: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    endpoint(uri).connect_with_connector_lazy(Opener(connector))
}

fn endpoint(uri: Uri) -> Endpoint {
    Endpoint::from(uri)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The request metadata of a daemon: its token, which proves who it is, and its cluster.
pub fn credentials(token: &str, cluster: &str) -> Result<MetadataMap, BoxError> {
    let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()))?;
    bearer.set_sensitive(true);
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", bearer);
    metadata.insert("clusterid", cluster.parse()?);
    Ok(metadata)
}

struct Opener<Connector>(Connector);

impl<Connector, Connecting, Io> Service<Uri> for Opener<Connector>
where
    Connector: FnMut() -> Connecting,
    Connecting: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = (self.0)();
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}
