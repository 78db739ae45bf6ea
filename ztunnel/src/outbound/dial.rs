//! Sockets of the daemon in a pod's network namespace, which no hook captures again.

use std::{io, net::SocketAddr};

use redirect::Family;
use tokio::net::{TcpSocket, TcpStream};

use crate::pod::Pod;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot make a socket in the pod's network namespace")]
    Socket(#[source] io::Error),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
}

/// Connects from the pod's own address. No deadline of its own.
pub(crate) async fn from_pod(pod: &Pod, target: SocketAddr) -> Result<TcpStream, DialError> {
    let socket = pod
        .sockets
        .outbound(Family::of(target.ip()))
        .map_err(DialError::Socket)?;
    connect(socket, target).await.map_err(DialError::Connect)
}

/// Connects a socket that was made elsewhere.
pub(crate) async fn connect(socket: socket2::Socket, target: SocketAddr) -> io::Result<TcpStream> {
    socket.set_tcp_nodelay(true)?;
    TcpSocket::from_std_stream(socket.into())
        .connect(target)
        .await
}
