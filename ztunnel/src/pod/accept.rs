//! Accepts a pod's connections and deals each to the least loaded worker, where it stays.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
};
use tracing::warn;

use super::{Ends, Phase, Pod, Ticket};
use crate::worker::Crew;

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The pod's own, on its way out.
    Outbound,
    /// To the pod, in clear.
    Plaintext,
    /// To the pod, on the HBONE port.
    Hbone,
}

/// A connection that a worker is to serve.
pub(crate) struct Accepted {
    pub(crate) pod: Arc<Pod>,
    pub(crate) role: Role,
    pub(crate) stream: TcpStream,
    /// The application's address: the client on every role.
    pub(crate) peer: SocketAddr,
    pub(crate) ticket: Ticket,
}

/// The first pause after `accept` found no descriptor or memory, doubled up to [`LONGEST_PAUSE`]:
/// a full table empties on its own, and polling it hard would only keep it full.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a closing listener still waits for handshakes it has begun: a successor gets every
/// new SYN, but the last ACK of one that this listener answered comes here, a round trip later.
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

/// Serves one listener until the pod closes; the connections still queued then are taken too,
/// so that none is reset by the close.
pub(crate) async fn run(pod: Arc<Pod>, role: Role, listener: TcpListener, crew: Crew) {
    let mut phase = pod.phase();
    let listener = match readable(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(pod = %pod.name, ?role, %error, "cannot watch a listener");
            return;
        }
    };
    let mut pause = FIRST_PAUSE;
    let closed = closing(&mut phase);
    tokio::pin!(closed);
    loop {
        let ready = tokio::select! {
            biased;
            ready = listener.readable() => ready,
            () = &mut closed => break,
        };
        let Ok(mut ready) = ready else { return };
        match take_all(&pod, role, listener.get_ref(), &crew) {
            Drained::Empty => {
                ready.clear_ready();
                pause = FIRST_PAUSE;
            }
            Drained::Failed(error) => {
                warn!(pod = %pod.name, ?role, %error, ?pause, "cannot accept; pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    take_all(&pod, role, listener.get_ref(), &crew);
}

/// Resolves once the listener may close: at once when the pod is gone, and [`LAST_HANDSHAKES`]
/// after it began to close.
async fn closing(phase: &mut watch::Receiver<Phase>) {
    // An error means the pod itself is gone.
    phase
        .wait_for(|phase| matches!(phase, Phase::Closing | Phase::Gone))
        .await
        .ok();
    let gone = phase.wait_for(|phase| *phase == Phase::Gone);
    // The time running out is the ordinary end.
    tokio::time::timeout(LAST_HANDSHAKES, gone).await.ok();
}

enum Drained {
    Empty,
    Failed(io::Error),
}

fn take_all(pod: &Arc<Pod>, role: Role, listener: &TcpListener, crew: &Crew) -> Drained {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => deal(pod, role, stream, peer, crew),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Drained::Empty,
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                _ => return Drained::Failed(error),
            },
        }
    }
}

fn deal(pod: &Arc<Pod>, role: Role, stream: TcpStream, peer: SocketAddr, crew: &Crew) {
    let ticket = match pod.budget.admit() {
        Ok(ticket) => ticket,
        Err(over) => {
            // The close below is a reset: the client learns at once that it is refused.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
            if let Ok(destination) = stream.local_addr() {
                crew.refused(
                    role,
                    Ends {
                        client: peer,
                        destination,
                    },
                    &over,
                );
            }
            return;
        }
    };
    // Both can only fail on a socket that is no longer one.
    stream.set_nonblocking(true).ok();
    stream.set_nodelay(true).ok();
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    crew.deal(Accepted {
        pod: pod.clone(),
        role,
        stream,
        peer,
        ticket,
    });
}

#[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays open")]
fn readable(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the listener keeps its descriptor until it is dropped, and nothing replaces it.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }
        .map_err(io::Error::from)
}
