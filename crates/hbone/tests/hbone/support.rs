//! Both ends of a tunnel in memory, and the sockets at its ends.

use std::{
    cell::Cell,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hbone::{
    ConnectRequest, Error, IntoSocket, RelayEnd, Settings, Socket, Traffic, Tunnel,
    client::{self, Connection},
    relay,
    server::{Incoming, Server},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::{JoinSet, LocalSet},
    time::timeout,
};

/// Runs a test as a worker thread would, and not for ever.
pub(crate) async fn local<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), LocalSet::new().run_until(test))
        .await
        .expect("the test ends")
}

/// Like [`local`], for tests with real sockets and so with real time.
pub(crate) async fn local_realtime<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), LocalSet::new().run_until(test))
        .await
        .expect("the test ends")
}

pub(crate) fn request() -> ConnectRequest {
    let target: SocketAddr = "10.0.0.1:80".parse().expect("an address");
    ConnectRequest::new(target)
}

/// A client's connection, and what its server accepts.
pub(crate) struct Ends {
    pub(crate) connection: Connection,
    pub(crate) incoming: UnboundedReceiver<Result<Incoming, Error>>,
    pub(crate) tasks: JoinSet<()>,
}

pub(crate) async fn ends() -> Ends {
    ends_with(Settings::client(), Settings::server()).await
}

pub(crate) async fn ends_with(near: Settings, far: Settings) -> Ends {
    let (client_io, server_io) = duplex(256 << 10);
    let mut tasks = JoinSet::new();
    let (connection, driver) = client::handshake(client_io, &near).await.expect("begins");
    tasks.spawn_local(async move {
        driver.await.expect("ends well");
    });
    let incoming = serve(&mut tasks, server_io, far);
    Ends {
        connection,
        incoming,
        tasks,
    }
}

/// A server that hands on what it accepts.
pub(crate) fn serve(
    tasks: &mut JoinSet<()>,
    io: DuplexStream,
    settings: Settings,
) -> UnboundedReceiver<Result<Incoming, Error>> {
    let (tell, told) = unbounded_channel();
    tasks.spawn_local(async move {
        let Ok(mut server) = Server::handshake(io, &settings).await else {
            return;
        };
        while let Some(incoming) = server.accept().await {
            // A test that is over does not listen any more.
            tell.send(incoming).ok();
        }
    });
    told
}

impl Ends {
    /// One open stream, as both ends have it.
    pub(crate) async fn tunnel(&mut self) -> (Tunnel, Tunnel) {
        let request = request();
        let accept = async {
            let incoming = self.incoming.recv().await.expect("a stream");
            incoming
                .expect("a valid request")
                .accept(None)
                .expect("answered")
        };
        let (near, far) = tokio::join!(self.connection.connect(&request), accept);
        (near.expect("accepted"), far)
    }

    /// Two sockets joined through a tunnel.
    pub(crate) async fn joined<S: IntoSocket<Socket: 'static> + 'static>(
        &mut self,
        near: S,
        far: S,
    ) -> Joined {
        let (one, two) = self.tunnel().await;
        Joined {
            near: watch(&mut self.tasks, one, near),
            far: watch(&mut self.tasks, two, far),
        }
    }
}

/// How the relays at both ends of a tunnel will have ended.
pub(crate) struct Joined {
    pub(crate) near: UnboundedReceiver<RelayEnd>,
    pub(crate) far: UnboundedReceiver<RelayEnd>,
}

impl Joined {
    pub(crate) async fn ends(mut self) -> (RelayEnd, RelayEnd) {
        let near = self.near.recv().await.expect("a relay ends");
        let far = self.far.recv().await.expect("a relay ends");
        (near, far)
    }
}

pub(crate) fn watch<S: IntoSocket<Socket: 'static> + 'static>(
    tasks: &mut JoinSet<()>,
    tunnel: Tunnel,
    socket: S,
) -> UnboundedReceiver<RelayEnd> {
    let (tell, told) = unbounded_channel();
    tasks.spawn_local(async move {
        let (up, down) = Default::default();
        let traffic = Traffic {
            to_tunnel: &up,
            from_tunnel: &down,
        };
        tell.send(relay(tunnel, socket, traffic).await).ok();
    });
    told
}

/// A socket in memory that tells whether it was reset.
pub(crate) struct Watched {
    io: DuplexStream,
    reset: Rc<Cell<bool>>,
}

impl Watched {
    /// The socket, the application's end, and whether the socket was reset.
    pub(crate) fn new(buffer: usize) -> (Self, DuplexStream, Rc<Cell<bool>>) {
        let (io, app) = duplex(buffer);
        let reset = Rc::new(Cell::new(false));
        let watched = Self {
            io,
            reset: Rc::clone(&reset),
        };
        (watched, app, reset)
    }
}

impl Socket for Watched {
    fn reset(&mut self) {
        self.reset.set(true);
    }

    fn poll_error(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Two ends of a TCP connection over loopback.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (one, two) = tokio::join!(TcpStream::connect(address), listener.accept());
    (one.expect("connects"), two.expect("accepts").0)
}
