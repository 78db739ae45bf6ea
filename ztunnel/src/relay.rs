//! Joins two TCP sockets, for connections that no tunnel carries: same-node hand-over,
//! plaintext inbound and passthrough.
//!
//! A FIN stays a FIN and a reset stays a reset. An idle connection holds no buffer: small reads
//! go through one scratch buffer a worker, and bulk moves inside the kernel with `splice(2)`
//! through a pipe that is borrowed only while data flows.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use socket2::SockRef;
use telemetry::Traffic;
use tokio::{io::Interest, net::TcpStream};

/// One read through the scratch buffer. A read that fills it means bulk.
const SCRATCH: usize = 64 * 1024;

/// What a pipe is asked to hold: the unprivileged limit of `/proc/sys/fs/pipe-max-size`.
const PIPE: usize = 1024 * 1024;

/// Pipes a worker keeps for the next bulk transfer.
const SPARE_PIPES: usize = 8;

/// Which socket a failure came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Second,
}

/// A joined connection that did not end with a FIN each way.
#[derive(Debug, thiserror::Error)]
#[error("{side:?} side: {source}")]
pub(crate) struct Broken {
    pub(crate) side: Side,
    pub(crate) source: io::Error,
}

/// What a worker lends to the relays that run on it.
pub(crate) struct Scratch {
    buffer: RefCell<Box<[u8]>>,
    pipes: RefCell<Vec<Pipe>>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Scratch {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            buffer: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            pipes: RefCell::default(),
        })
    }

    fn pipe(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.pipes.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let size = i32::try_from(PIPE).expect("a pipe's size fits an int");
        // A smaller pipe is slower, not wrong: the limit per user may be reached.
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(size)).ok();
        Ok(Pipe { read, write })
    }

    fn give_back(&self, pipe: Pipe) {
        let mut pipes = self.pipes.borrow_mut();
        if pipes.len() < SPARE_PIPES {
            pipes.push(pipe);
        }
    }
}

/// Moves bytes both ways between the client and the server until both directions have ended. On a
/// failure of one socket the other is reset, and both are when the future is dropped before, so
/// that neither application takes a broken connection for a finished one.
pub(crate) async fn join(
    first: TcpStream,
    second: TcpStream,
    scratch: &Scratch,
    moved: &Traffic,
) -> Result<(), Broken> {
    let mut sockets = Sockets {
        first,
        second,
        finished: false,
    };
    let (first, second) = (&sockets.first, &sockets.second);
    let forward = pump(
        (first, Side::First),
        (second, Side::Second),
        scratch,
        &moved.to_destination,
    );
    let backward = pump(
        (second, Side::Second),
        (first, Side::First),
        scratch,
        &moved.to_source,
    );
    futures_util::future::try_join(forward, backward).await?;
    sockets.finished = true;
    Ok(())
}

/// Two sockets that are reset unless both directions have ended.
struct Sockets {
    first: TcpStream,
    second: TcpStream,
    finished: bool,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if !self.finished {
            reset(&self.first);
            reset(&self.second);
        }
    }
}

/// Makes the close that follows a reset instead of a FIN.
pub(crate) fn reset(socket: &TcpStream) {
    // It can only fail on a socket that is no longer one.
    SockRef::from(socket)
        .set_linger(Some(std::time::Duration::ZERO))
        .ok();
}

async fn pump(
    from: (&TcpStream, Side),
    to: (&TcpStream, Side),
    scratch: &Scratch,
    moved: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        from.0.readable().await.map_err(|source| Broken {
            side: from.1,
            source,
        })?;
        match small(from, to, scratch, moved).await? {
            Step::Idle => {}
            Step::Ended => return Ok(()),
            Step::Bulk => {
                // Boxed, like the rest of a slow write: an idle connection pays for neither.
                if Box::pin(bulk(from, to, scratch, moved)).await? {
                    return Ok(());
                }
            }
        }
    }
}

enum Step {
    Idle,
    Bulk,
    Ended,
}

/// One read and the write of what it gave.
async fn small(
    (from, reading): (&TcpStream, Side),
    (to, writing): (&TcpStream, Side),
    scratch: &Scratch,
    moved: &AtomicU64,
) -> Result<Step, Broken> {
    let (length, rest) = {
        let mut buffer = scratch.buffer.borrow_mut();
        let length = match from.try_read(&mut buffer) {
            Ok(0) => {
                finish(to, writing)?;
                return Ok(Step::Ended);
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Idle),
            Err(source) => {
                return Err(Broken {
                    side: reading,
                    source,
                });
            }
        };
        let written = match to.try_write(&buffer[..length]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(source) => {
                return Err(Broken {
                    side: writing,
                    source,
                });
            }
        };
        // Only a slow reader costs a buffer of its own.
        (
            length,
            (written < length).then(|| buffer[written..length].to_vec()),
        )
    };
    if let Some(rest) = rest {
        Box::pin(write_all(to, &rest))
            .await
            .map_err(|source| Broken {
                side: writing,
                source,
            })?;
    }
    moved.fetch_add(length as u64, Ordering::Relaxed);
    Ok(if length == SCRATCH {
        Step::Bulk
    } else {
        Step::Idle
    })
}

async fn write_all(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Splices while there is something to read. True: the direction has ended.
async fn bulk(
    (from, reading): (&TcpStream, Side),
    (to, writing): (&TcpStream, Side),
    scratch: &Scratch,
    moved: &AtomicU64,
) -> Result<bool, Broken> {
    let pipe = scratch.pipe().map_err(|source| Broken {
        side: reading,
        source,
    })?;
    loop {
        let taken = from.try_io(Interest::READABLE, || transfer(from, &pipe.write));
        let mut held = match taken {
            Ok(0) => {
                scratch.give_back(pipe);
                return finish(to, writing).map(|()| true);
            }
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                scratch.give_back(pipe);
                return Ok(false);
            }
            Err(source) => {
                return Err(Broken {
                    side: reading,
                    source,
                });
            }
        };
        while held > 0 {
            match to.try_io(Interest::WRITABLE, || transfer_up_to(&pipe.read, to, held)) {
                Ok(given) => {
                    held -= given;
                    moved.fetch_add(given as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await.map_err(|source| Broken {
                        side: writing,
                        source,
                    })?;
                }
                Err(source) => {
                    return Err(Broken {
                        side: writing,
                        source,
                    });
                }
            }
        }
        // Other connections of this worker run too, however fast this one is.
        tokio::task::consume_budget().await;
    }
}

fn transfer(from: &TcpStream, to: &OwnedFd) -> io::Result<usize> {
    transfer_up_to(from, to, PIPE)
}

fn transfer_up_to(from: impl AsFd, to: impl AsFd, limit: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    splice(from, None, to, None, limit, flags).map_err(|errno| match errno {
        Errno::EAGAIN => io::ErrorKind::WouldBlock.into(),
        other => other.into(),
    })
}

fn finish(to: &TcpStream, side: Side) -> Result<(), Broken> {
    match SockRef::from(to).shutdown(std::net::Shutdown::Write) {
        // The other side is gone already; its own direction says how.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other.map_err(|source| Broken { side, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn bulk_arrives_whole_and_half_close_is_kept() {
        let (mut client, first) = pair().await;
        let (second, mut server) = pair().await;
        let scratch = Scratch::new();
        let moved = Traffic::default();
        let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
        let app = async {
            let writer = async {
                let payload = sent.clone();
                client.write_all(&payload).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let reader = async {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                server.write_all(b"after your end").await.unwrap();
                server.shutdown().await.unwrap();
                got
            };
            tokio::join!(writer, reader)
        };
        let (ended, (answer, got)) = tokio::join!(join(first, second, &scratch, &moved), app);
        ended.unwrap();
        assert!(got == sent);
        assert_eq!(answer, "after your end");
        assert_eq!(moved.to_destination(), 8_000_000);
        assert_eq!(moved.to_source(), 14);
    }

    #[tokio::test]
    async fn a_reset_stays_a_reset_either_way() {
        for reset_by_client in [true, false] {
            let (client, first) = pair().await;
            let (second, server) = pair().await;
            let (breaks, mut sees) = if reset_by_client {
                (client, server)
            } else {
                (server, client)
            };
            let scratch = Scratch::new();
            let moved = Traffic::default();
            reset(&breaks);
            drop(breaks);
            let (ended, read) = tokio::join!(join(first, second, &scratch, &moved), sees.read_u8());
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let side = if reset_by_client {
                Side::First
            } else {
                Side::Second
            };
            assert_eq!(ended.unwrap_err().side, side);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_is_reset_both_ways() {
        let (mut client, first) = pair().await;
        let (second, mut server) = pair().await;
        let (scratch, moved) = (Scratch::new(), Traffic::default());
        let mut joined = Box::pin(join(first, second, &scratch, &moved));
        assert!(futures_util::poll!(&mut joined).is_pending());
        drop(joined);
        for end in [&mut client, &mut server] {
            let error = end.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
