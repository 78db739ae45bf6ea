//! The serving half: one listener per port on both families, and a journal of what it saw.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use harness::protocol::{End, Failure, Mode, Reply, Seen, Stage, Told, plain};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::pattern;
use crate::relay;
use crate::stream::{self, TRANSFER_STEP};

/// A connection may stay idle as long as a test lasts.
const IDLE: Duration = Duration::from_secs(3600);

type Journal = Rc<RefCell<Vec<Seen>>>;

pub(crate) struct Servers {
    name: Rc<str>,
    journals: RefCell<HashMap<u16, Journal>>,
    running: RefCell<HashMap<u16, JoinSet<()>>>,
}

impl Servers {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name: name.into(),
            journals: RefCell::default(),
            running: RefCell::default(),
        }
    }

    pub(crate) fn serve(&self, port: u16, mode: Mode) -> Result<Reply, Failure> {
        let listener =
            listen(port).map_err(|error| stream::failure(Stage::Connect, None, &error))?;
        let journal = Journal::default();
        self.journals.borrow_mut().insert(port, Rc::clone(&journal));
        let mut task = JoinSet::new();
        task.spawn_local(accept(listener, mode, Rc::clone(&self.name), journal));
        self.running.borrow_mut().insert(port, task);
        Ok(Reply::Done)
    }

    pub(crate) fn relay(&self, port: u16, to: u16) -> Result<Reply, Failure> {
        let listener =
            listen(port).map_err(|error| stream::failure(Stage::Connect, None, &error))?;
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to);
        let mut task = JoinSet::new();
        task.spawn_local(async move {
            // An error of the listener ends the relay, and its clients tell.
            relay::serve(listener, to).await.ok();
        });
        self.running.borrow_mut().insert(port, task);
        Ok(Reply::Done)
    }

    pub(crate) async fn stop(&self, port: u16) -> Result<Reply, Failure> {
        let task = self.running.borrow_mut().remove(&port);
        if let Some(mut task) = task {
            task.shutdown().await;
        }
        Ok(Reply::Done)
    }

    pub(crate) fn seen(&self, port: u16) -> Reply {
        let journals = self.journals.borrow();
        Reply::Seen(
            journals
                .get(&port)
                .map(|one| one.borrow().clone())
                .unwrap_or_default(),
        )
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV6,
        socket2::Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, mode: Mode, name: Rc<str>, journal: Journal) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                let Ok(local) = stream.local_addr() else { continue };
                let seen = Seen { peer: plain(peer), local: plain(local), bytes: 0, end: End::Open };
                let entry = journal.borrow().len();
                journal.borrow_mut().push(seen.clone());
                let name = Rc::clone(&name);
                let connection = Connection { stream, entry, journal: Rc::clone(&journal), name, seen };
                connections.spawn_local(connection.run(mode));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Connection {
    stream: TcpStream,
    entry: usize,
    journal: Journal,
    name: Rc<str>,
    seen: Seen,
}

impl Connection {
    async fn run(self, mode: Mode) {
        // A nodelay that cannot be set means the peer is gone, which reading tells better.
        self.stream.set_nodelay(true).ok();
        let end = match mode {
            Mode::Tell => self.tell().await,
            Mode::Greet => self.greet().await,
            Mode::Sink => self.sink().await,
            Mode::Discard => self.discard().await,
            Mode::Source { bytes } => self.source(bytes).await,
            Mode::Echo => self.echo().await,
            Mode::Reset => self.reset().await,
            Mode::Http => self.http().await,
        };
        self.journal.borrow_mut()[self.entry].end = end.unwrap_or(End::Error);
    }

    async fn read(&self, buffer: &mut [u8]) -> Result<Result<usize, End>, Failure> {
        let outcome = stream::read(&self.stream, buffer, IDLE).await?;
        if let Ok(read) = outcome {
            self.journal.borrow_mut()[self.entry].bytes += read as u64;
        }
        Ok(outcome)
    }

    async fn write(&self, data: &[u8]) -> Result<(), Failure> {
        stream::write_all(&self.stream, data, TRANSFER_STEP).await
    }

    async fn say(&self, line: &str) -> Result<(), Failure> {
        let told = Told {
            name: self.name.to_string(),
            peer: self.seen.peer,
            local: self.seen.local,
            line: line.to_owned(),
        };
        let mut text = serde_json::to_vec(&told).expect("plain values");
        text.push(b'\n');
        self.write(&text).await
    }

    async fn greet(&self) -> Result<End, Failure> {
        self.say("").await?;
        self.tell().await
    }

    async fn tell(&self) -> Result<End, Failure> {
        let mut pending = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = match self.read(&mut buffer).await? {
                Ok(read) => read,
                Err(end) => return Ok(end),
            };
            pending.extend_from_slice(&buffer[..read]);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                self.say(String::from_utf8_lossy(&line).trim_end()).await?;
            }
        }
    }

    async fn sink(&self) -> Result<End, Failure> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut bytes = 0;
        let end = loop {
            match self.read(&mut buffer).await? {
                Ok(read) => {
                    bytes += read;
                    hash.update(&buffer[..read]);
                }
                Err(end) => break end,
            }
        };
        let sum: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.write(format!("{bytes} {sum}\n").as_bytes()).await?;
        Ok(end)
    }

    async fn discard(&self) -> Result<End, Failure> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if let Err(end) = self.read(&mut buffer).await? {
                return Ok(end);
            }
        }
    }

    async fn source(&self, bytes: u64) -> Result<End, Failure> {
        let mut left = bytes;
        let block = pattern();
        while left > 0 {
            let chunk = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.write(&block[..chunk]).await?;
            left -= chunk as u64;
        }
        stream::end_write(&self.stream)
            .map_err(|error| stream::failure(Stage::Send, None, &error))?;
        self.discard().await
    }

    async fn echo(&self) -> Result<End, Failure> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.read(&mut buffer).await? {
                Ok(read) => self.write(&buffer[..read]).await?,
                Err(end) => return Ok(end),
            }
        }
    }

    async fn reset(&self) -> Result<End, Failure> {
        let outcome = self.read(&mut [0; 4096]).await?;
        stream::linger_zero(&self.stream)
            .map_err(|error| stream::failure(Stage::Send, None, &error))?;
        Ok(outcome.err().unwrap_or(End::Open))
    }

    async fn http(&self) -> Result<End, Failure> {
        let mut head = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer).await? {
                Ok(read) => head.extend_from_slice(&buffer[..read]),
                Err(end) => return Ok(end),
            }
            if head.windows(4).any(|window| window == b"\r\n\r\n") {
                head.clear();
                let body = format!(
                    "hello from {}: you are {}, you reached {}\n",
                    self.name, self.seen.peer, self.seen.local
                );
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                self.write(answer.as_bytes()).await?;
            }
        }
    }
}
