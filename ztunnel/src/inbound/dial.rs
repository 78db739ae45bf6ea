//! Hop 6: opens the socket to the application, with the client's own source address.
//!
//! Decides nothing: a [`Permit`] is the decision, and only `policy` can make one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use policy::Permit;
use redirect::Family;
use socket2::Socket;
use tokio::{net::TcpStream, time::timeout};

use crate::{outbound::dial::connect, pod::Pod};

/// As long as Istio's ztunnel waits.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the application was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot make a socket in the pod's network namespace")]
    Socket(#[source] io::Error),
    #[error("the application at {target} cannot be reached")]
    Connect {
        target: SocketAddr,
        source: io::Error,
    },
    #[error("the application at {target} did not accept within {DEADLINE:?}")]
    Deadline { target: SocketAddr },
}

/// Connects to the application as `client`. The permit is used up.
pub(crate) async fn dial(
    permit: Permit,
    pod: &Pod,
    client: IpAddr,
    target: SocketAddr,
) -> Result<TcpStream, DialError> {
    drop(permit);
    let socket = socket(pod, client, target).map_err(DialError::Socket)?;
    match timeout(DEADLINE, connect(socket, target)).await {
        Ok(connected) => connected.map_err(|source| DialError::Connect { target, source }),
        Err(_) => Err(DialError::Deadline { target }),
    }
}

fn socket(pod: &Pod, client: IpAddr, target: SocketAddr) -> io::Result<Socket> {
    if !pod.addresses.contains(&client) {
        return pod.sockets.to_app(client, target.ip());
    }
    // A pod that calls itself: its own address needs no borrowing, and a looped answer to it
    // would find no way back.
    let socket = pod.sockets.outbound(Family::of(target.ip()))?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    Ok(socket)
}
