//! The asking side, blocking: a command line, a plugin, or a successor's start.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    Enrol, PodStatus, Reply, Request, Unenrol,
    packet::{self, PacketError},
};

/// Longer than the daemon takes for anything it is asked.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach ztunnel at {}; does it run, and is this its --enrol-socket?", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the conversation with ztunnel broke")]
    Packet(#[from] PacketError),
    #[error("ztunnel refused: {0}")]
    Refused(String),
    #[error("ztunnel answered something else than was asked")]
    Unexpected,
}

impl ClientError {
    /// Nobody listens there.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Connect { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ),
            Self::Packet(_) | Self::Refused(_) | Self::Unexpected => false,
        }
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |source: io::Error| ClientError::Connect {
            path: path.to_owned(),
            source,
        };
        let open = || -> nix::Result<OwnedFd> {
            let kind = SockType::SeqPacket;
            let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            let seconds = i64::try_from(DEADLINE.as_secs()).expect("a deadline of seconds");
            let deadline = TimeVal::seconds(seconds);
            setsockopt(&socket, sockopt::ReceiveTimeout, &deadline)?;
            setsockopt(&socket, sockopt::SendTimeout, &deadline)?;
            connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        };
        open().map(Self).map_err(|errno| failed(errno.into()))
    }

    /// Takes a pod into the mesh. When it returns, the pod is captured.
    pub fn enrol(&self, enrol: Enrol, netns: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.ask(&Request::Enrol(enrol), Some(netns))
    }

    /// Lets a pod go. When it returns, new connections go direct.
    pub fn unenrol(&self, namespace: &str, name: &str) -> Result<(), ClientError> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(&Request::Unenrol(Unenrol { namespace, name }), None)
    }

    /// The pods that are enrolled.
    pub fn pods(&self) -> Result<Vec<PodStatus>, ClientError> {
        packet::send(self.0.as_fd(), &Request::Pods, None)?;
        let mut pods = Vec::new();
        loop {
            match self.reply()? {
                Reply::Pod(pod) => pods.push(*pod),
                Reply::Ack => return Ok(pods),
                Reply::Refused(why) => return Err(ClientError::Refused(why)),
            }
        }
    }

    /// Announces a successor; see [`Request::Prepare`].
    pub fn prepare(&self) -> Result<(), ClientError> {
        self.ask(&Request::Prepare, None)
    }

    /// Asks the predecessor to let go; see [`Request::Release`].
    pub fn release(&self) -> Result<(), ClientError> {
        self.ask(&Request::Release, None)
    }

    fn ask(&self, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<(), ClientError> {
        packet::send(self.0.as_fd(), request, netns)?;
        match self.reply()? {
            Reply::Ack => Ok(()),
            Reply::Refused(why) => Err(ClientError::Refused(why)),
            Reply::Pod(_) => Err(ClientError::Unexpected),
        }
    }

    fn reply(&self) -> Result<Reply, ClientError> {
        Ok(packet::receive(self.0.as_fd())?.message)
    }
}
