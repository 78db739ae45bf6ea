//! A small HTTP/1.1 server for a daemon's own pages: metrics, readiness, admin.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

/// Connections served at one time; more wait in the listen queue.
const MOST_CONNECTIONS: usize = 64;

/// A client that sends no header in this time is let go.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);

/// A client that does not read its page holds up the end of the daemon no longer than this.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// A page.
pub type Page = Response<Full<Bytes>>;

/// A page of text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    page(status, "text/plain; charset=utf-8", body)
}

/// A page of JSON.
pub fn json(body: impl Into<Bytes>) -> Page {
    page(StatusCode::OK, "application/json", body)
}

/// A page of any kind.
pub fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    page
}

/// A running server; dropping it cuts its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Binds `address` and answers every request with what `route` says.
    pub async fn start<Route>(address: SocketAddr, route: Route) -> io::Result<Self>
    where
        Route: Fn(&Request<Incoming>) -> Page + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(route), stopped));
        Ok(Self {
            address,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener at once and answers what was asked already.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_DEADLINE, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

async fn accept<Route>(listener: TcpListener, route: Arc<Route>, stopped: watch::Receiver<bool>)
where
    Route: Fn(&Request<Incoming>) -> Page + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, route.clone(), stopped.clone()));
                }
                Err(error) => {
                    debug!(%error, "cannot accept");
                    // Out of descriptors: polling hard would not make more.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            // An error is the server's own end.
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve<Route>(stream: TcpStream, route: Arc<Route>, mut stopped: watch::Receiver<bool>)
where
    Route: Fn(&Request<Incoming>) -> Page + Send + Sync + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let page = route(&request);
        async move { Ok::<_, Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a client of an own page went away");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_route_answers_and_a_stopped_server_listens_no_more() {
        let route = |request: &Request<Incoming>| match request.uri().path() {
            "/hello" => text(StatusCode::OK, "world"),
            _ => text(StatusCode::NOT_FOUND, ""),
        };
        let server = Server::start("127.0.0.1:0".parse().unwrap(), route)
            .await
            .unwrap();
        let address = server.address();
        assert!(ask(address, "/hello").await.ends_with("\r\n\r\nworld"));
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));
        server.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
        let route = |_: &Request<Incoming>| text(StatusCode::OK, vec![b'x'; 32 << 20]);
        let server = Server::start("127.0.0.1:0".parse().unwrap(), route)
            .await
            .unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        // The answer is on its way, and larger than what sockets hold.
        stream.read_u8().await.unwrap();
        timeout(10 * STOP_DEADLINE, server.stop()).await.unwrap();
    }
}
