//! The daemon's side.

use std::{
    collections::VecDeque,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt,
            listen, socket, sockopt,
        },
        stat::{Mode, fchmod},
    },
    unistd::Uid,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Client, Enrol, PodStatus, Reply, Request,
    packet::{self, Packet, PacketError},
};

/// A client that does not read its answer holds up the daemon no longer than this.
const REPLY_DEADLINE: Duration = Duration::from_secs(2);

/// How long nobody is accepted after the kernel could give no descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may be open at one time.
const MOST_CONNECTIONS: usize = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another ztunnel answers at {}", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen at {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// One connection; replies go to it.
#[derive(Debug, Clone)]
pub struct Peer(Arc<AsyncFd<OwnedFd>>);

impl Peer {
    /// Which connection it is, to tell it from others.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Answers a request.
    pub async fn reply(&self, reply: &Reply) -> Result<(), PacketError> {
        timeout(REPLY_DEADLINE, self.send(reply))
            .await
            .unwrap_or(Err(PacketError::Unread))
    }

    async fn send(&self, reply: &Reply) -> Result<(), PacketError> {
        loop {
            let mut ready = self.0.writable().await?;
            let sent = ready.try_io(|socket| match packet::send(socket.as_fd(), reply, None) {
                Err(PacketError::Io(error)) => Err(error),
                other => Ok(other),
            });
            match sent {
                Ok(sent) => return sent?,
                Err(_) => continue,
            }
        }
    }

    /// Answers a request for the pods.
    pub async fn reply_pods(&self, pods: Vec<PodStatus>) -> Result<(), PacketError> {
        let all = async {
            for pod in pods {
                self.send(&Reply::Pod(Box::new(fitted(pod)))).await?;
            }
            self.send(&Reply::Ack).await
        };
        timeout(REPLY_DEADLINE, all)
            .await
            .unwrap_or(Err(PacketError::Unread))
    }

    async fn receive(&self) -> Result<Packet<Request>, PacketError> {
        loop {
            let mut ready = self.0.readable().await?;
            let received = ready.try_io(|socket| match packet::receive(socket.as_fd()) {
                Err(PacketError::Io(error)) => Err(error),
                other => Ok(other),
            });
            match received {
                Ok(received) => return received?,
                Err(_) => continue,
            }
        }
    }
}

/// A pod's line with no more connections than a packet holds: 160 bytes each at the most.
fn fitted(mut pod: PodStatus) -> PodStatus {
    let most = packet::LARGEST / 2 / 160;
    let listed = pod.connections_before_enrolment.len();
    pod.connections_before_enrolment.truncate(most);
    pod.connections_not_listed = listed.saturating_sub(most);
    pod
}

/// What came in.
#[derive(Debug)]
pub enum Received {
    /// Take a pod in; the descriptor is its network namespace.
    Enrol {
        peer: Peer,
        enrol: Enrol,
        netns: OwnedFd,
    },
    /// Any other request.
    Other { peer: Peer, request: Request },
    /// A connection has ended.
    Closed { peer: Peer },
}

/// The socket and its connections. The file goes when it is dropped, unless another has taken it.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    inode: u64,
    reading: JoinSet<(Peer, Result<Packet<Request>, PacketError>)>,
    ready: VecDeque<Received>,
}

impl Listener {
    /// Listens at `path`, mode 0600. A file that nobody answers at is replaced.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source: io::Error| ListenError::Io {
            path: path.to_owned(),
            source,
        };
        match Client::connect(path) {
            Ok(_) => return Err(ListenError::InUse(path.to_owned())),
            Err(error) if error.is_absent() => remove_stale(path).map_err(failed)?,
            // A daemon that is too busy to answer is there too.
            Err(_) => return Err(ListenError::InUse(path.to_owned())),
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let socket = open(path).map_err(|errno| failed(errno.into()))?;
        let inode = inode(path).map_err(failed)?;
        let socket = watch(socket, Interest::READABLE).map_err(failed)?;
        let (reading, ready) = Default::default();
        Ok(Self {
            socket,
            path: path.to_owned(),
            inode,
            reading,
            ready,
        })
    }

    /// The next thing that happens. Cancel safe.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.ready.pop_front() {
                return received;
            }
            tokio::select! {
                readable = self.socket.readable(), if self.reading.len() < MOST_CONNECTIONS => {
                    let Ok(mut readable) = readable else { continue };
                    match readable.try_io(|socket| accept(socket.get_ref())) {
                        Ok(Ok(peer)) => self.read(peer),
                        // A peer we do not serve: the next may do.
                        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {}
                        // Without descriptors it would fail again at once; the peer waits on.
                        Ok(Err(_)) => sleep(ACCEPT_PAUSE).await,
                        // Nobody is there any more.
                        Err(_) => {}
                    }
                }
                Some(read) = self.reading.join_next() => {
                    // A read neither panics nor is aborted while the listener lives.
                    let Ok((peer, read)) = read else { continue };
                    self.take(peer, read);
                }
            }
        }
    }

    fn read(&mut self, peer: Peer) {
        self.reading.spawn(async move {
            let read = peer.receive().await;
            (peer, read)
        });
    }

    fn take(&mut self, peer: Peer, read: Result<Packet<Request>, PacketError>) {
        let packet = match read {
            Ok(packet) => packet,
            Err(PacketError::Closed | PacketError::Io(_)) => {
                self.ready.push_back(Received::Closed { peer });
                return;
            }
            Err(bad @ (PacketError::TooLong | PacketError::Json(_) | PacketError::Unread)) => {
                self.refuse(peer, &bad.to_string());
                return;
            }
        };
        let Packet {
            message,
            mut descriptors,
        } = packet;
        match (message, descriptors.pop(), descriptors.is_empty()) {
            (Request::Enrol(enrol), Some(netns), true) => {
                self.read(peer.clone());
                self.ready.push_back(Received::Enrol { peer, enrol, netns });
            }
            (Request::Enrol(_), _, _) => {
                self.refuse(
                    peer,
                    "an enrolment carries exactly one descriptor, the pod's network namespace",
                );
            }
            (request, None, true) => {
                self.read(peer.clone());
                self.ready.push_back(Received::Other { peer, request });
            }
            (_, Some(_), _) | (_, None, false) => {
                self.refuse(peer, "only an enrolment carries a descriptor");
            }
        }
    }

    /// Removes the file, so that another can listen there; connections go on.
    pub fn unlink(&self) {
        // A successor's file at the same path is not ours to remove.
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Left behind, it is replaced by the next daemon.
            fs::remove_file(&self.path).ok();
        }
    }

    fn refuse(&mut self, peer: Peer, why: &str) {
        let reply = Reply::Refused(why.to_owned());
        // A peer that is gone, or that does not read, goes without the reason.
        packet::send(peer.0.get_ref().as_fd(), &reply, None).ok();
        self.read(peer);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Removes what a dead daemon has left; anything but a socket is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(held) if held.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

fn open(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    // Bind makes the file with the socket's own mode, so that it never exists with a wider one.
    fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// Accepts root and the daemon's own user, whatever the file's mode has become.
fn accept(socket: &OwnedFd) -> io::Result<Peer> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = accept4(socket.as_raw_fd(), flags)?;
    #[expect(unsafe_code, reason = "accept4 hands out a descriptor as a number")]
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    let accepted = unsafe { OwnedFd::from_raw_fd(raw) };
    let peer = Uid::from_raw(getsockopt(&accepted, sockopt::PeerCredentials)?.uid());
    if !peer.is_root() && peer != Uid::effective() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(Peer(Arc::new(watch(
        accepted,
        Interest::READABLE | Interest::WRITABLE,
    )?)))
}

#[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays open")]
fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor until it is dropped, and nothing replaces it.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}
