//! Reading and writing with a deadline, and the end of a stream told apart: FIN, reset, silence.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use harness::protocol::{End, Failure, FailureKind, Stage};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// For one step of a conversation.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// For one step of a transfer, which may wait for a busy machine.
pub(crate) const TRANSFER_STEP: Duration = Duration::from_secs(60);

pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(|error| failure(Stage::Connect, Some(to), &error))?;
    let stream = bounded(STEP, Stage::Connect, Some(to), socket.connect(to)).await?;
    stream
        .set_nodelay(true)
        .map_err(|error| failure(Stage::Connect, Some(to), &error))?;
    Ok(stream)
}

/// Reads once; nothing read is how the stream ended.
pub(crate) async fn read(
    stream: &TcpStream,
    buffer: &mut [u8],
    deadline: Duration,
) -> Result<Result<usize, End>, Failure> {
    let peer = stream.peer_addr().ok();
    let once = async {
        loop {
            stream.readable().await?;
            match stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    };
    match timeout(deadline, once).await {
        Err(_) => Err(silence(Stage::Receive, peer)),
        Ok(Ok(0)) => Ok(Err(End::Fin)),
        Ok(Ok(read)) => Ok(Ok(read)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Err(End::Reset)),
        Ok(Err(_)) => Ok(Err(End::Error)),
    }
}

pub(crate) async fn write_all(
    stream: &TcpStream,
    mut data: &[u8],
    deadline: Duration,
) -> Result<(), Failure> {
    let peer = stream.peer_addr().ok();
    while !data.is_empty() {
        bounded(deadline, Stage::Send, peer, stream.writable()).await?;
        match stream.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failure(Stage::Send, peer, &error)),
        }
    }
    Ok(())
}

/// Reads up to and with the next line's end.
pub(crate) async fn read_line(stream: &TcpStream) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match read(stream, &mut byte, STEP).await? {
            Ok(_) if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Ok(_) => line.push(byte[0]),
            Err(end) => return Err(ended(stream, end)),
        }
    }
}

/// Makes the coming close a reset.
pub(crate) fn linger_zero(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

pub(crate) fn end_write(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}

pub(crate) fn failure(stage: Stage, to: Option<SocketAddr>, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => FailureKind::Reset,
        io::ErrorKind::TimedOut => FailureKind::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            FailureKind::Unreachable
        }
        _ => FailureKind::Other,
    };
    Failure {
        kind,
        stage,
        to,
        message: error.to_string(),
    }
}

fn ended(stream: &TcpStream, end: End) -> Failure {
    let (kind, message) = match end {
        End::Fin | End::Open => (FailureKind::Ended, "the peer ended without an answer"),
        End::Reset => (FailureKind::Reset, "the peer reset the connection"),
        End::Error => (FailureKind::Other, "reading failed"),
    };
    let to = stream.peer_addr().ok();
    Failure {
        kind,
        stage: Stage::Receive,
        to,
        message: message.to_owned(),
    }
}

fn silence(stage: Stage, to: Option<SocketAddr>) -> Failure {
    let message = "nothing happened in time".to_owned();
    Failure {
        kind: FailureKind::TimedOut,
        stage,
        to,
        message,
    }
}

async fn bounded<T>(
    deadline: Duration,
    stage: Stage,
    to: Option<SocketAddr>,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(deadline, step).await {
        Ok(done) => done.map_err(|error| failure(stage, to, &error)),
        Err(_) => Err(silence(stage, to)),
    }
}
