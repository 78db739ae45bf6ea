//! The calling half: named connections that stay open across commands, and whole conversations.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Instant;

use harness::protocol::{
    Answer, End, Ended, Failure, FailureKind, Opened, Reply, Stage, Transfer, plain,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use crate::stream::{self, STEP, TRANSFER_STEP};

/// What an application keeps of a stream it reads to its end.
const KEPT: usize = 64 * 1024;

#[derive(Default)]
pub(crate) struct Client {
    connections: RefCell<HashMap<String, Rc<TcpStream>>>,
}

impl Client {
    pub(crate) async fn open(&self, name: String, to: SocketAddr) -> Result<Reply, Failure> {
        let stream = stream::connect(to).await?;
        let opened = ends(&stream)?;
        self.connections.borrow_mut().insert(name, Rc::new(stream));
        Ok(Reply::Opened(opened))
    }

    fn stream(&self, name: &str) -> Result<Rc<TcpStream>, Failure> {
        self.connections
            .borrow()
            .get(name)
            .cloned()
            .ok_or_else(|| Failure {
                kind: FailureKind::Other,
                stage: Stage::Connect,
                to: None,
                message: format!("no connection is named {name}"),
            })
    }

    pub(crate) async fn send(&self, name: &str, data: &str) -> Result<Reply, Failure> {
        stream::write_all(&*self.stream(name)?, data.as_bytes(), STEP).await?;
        Ok(Reply::Done)
    }

    pub(crate) async fn read_line(&self, name: &str) -> Result<Reply, Failure> {
        stream::read_line(&*self.stream(name)?)
            .await
            .map(Reply::Line)
    }

    pub(crate) async fn read_to_end(&self, name: &str) -> Result<Reply, Failure> {
        let stream = self.stream(name)?;
        let mut ended = Ended {
            bytes: 0,
            data: String::new(),
            end: End::Open,
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream::read(&stream, &mut buffer, STEP).await? {
                Ok(read) => {
                    ended.bytes += read as u64;
                    if ended.data.len() < KEPT {
                        ended
                            .data
                            .push_str(&String::from_utf8_lossy(&buffer[..read]));
                    }
                }
                Err(end) => {
                    ended.end = end;
                    return Ok(Reply::Ended(ended));
                }
            }
        }
    }

    pub(crate) fn end_write(&self, name: &str) -> Result<Reply, Failure> {
        let stream = self.stream(name)?;
        stream::end_write(&stream).map_err(|error| stream::failure(Stage::Send, None, &error))?;
        Ok(Reply::Done)
    }

    pub(crate) fn abort(&self, name: &str) -> Result<Reply, Failure> {
        let stream = self.stream(name)?;
        stream::linger_zero(&stream).map_err(|error| stream::failure(Stage::Send, None, &error))?;
        Ok(self.close(name))
    }

    pub(crate) fn close(&self, name: &str) -> Reply {
        self.connections.borrow_mut().remove(name);
        Reply::Done
    }
}

fn ends(stream: &TcpStream) -> Result<Opened, Failure> {
    let read = || {
        Ok(Opened {
            local: plain(stream.local_addr()?),
            peer: plain(stream.peer_addr()?),
        })
    };
    read().map_err(|error: std::io::Error| stream::failure(Stage::Connect, None, &error))
}

pub(crate) async fn ask(to: SocketAddr, line: &str) -> Result<Answer, Failure> {
    let stream = stream::connect(to).await?;
    let opened = ends(&stream)?;
    stream::write_all(&stream, format!("{line}\n").as_bytes(), STEP).await?;
    let text = stream::read_line(&stream).await?;
    let told = serde_json::from_str(&text).map_err(|error| Failure {
        kind: FailureKind::Other,
        stage: Stage::Receive,
        to: Some(to),
        message: format!("{error} in the answer {text:?}"),
    })?;
    Ok(Answer {
        told,
        local: opened.local,
        peer: opened.peer,
    })
}

pub(crate) async fn upload(to: SocketAddr, bytes: u64) -> Result<Reply, Failure> {
    let start = Instant::now();
    let stream = stream::connect(to).await?;
    let mut hash = Sha256::new();
    let mut left = bytes;
    let block = pattern();
    while left > 0 {
        let chunk = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        hash.update(&block[..chunk]);
        stream::write_all(&stream, &block[..chunk], TRANSFER_STEP).await?;
        left -= chunk as u64;
    }
    stream::end_write(&stream).map_err(|error| stream::failure(Stage::Send, Some(to), &error))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        match stream::read(&stream, &mut buffer, TRANSFER_STEP).await? {
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(end) => break end,
        }
    };
    let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
    Ok(transfer(bytes, hash, answer, end, start))
}

pub(crate) async fn download(to: SocketAddr) -> Result<Reply, Failure> {
    let start = Instant::now();
    let stream = stream::connect(to).await?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 256 * 1024];
    let end = loop {
        match stream::read(&stream, &mut buffer, TRANSFER_STEP).await? {
            Ok(read) => {
                bytes += read as u64;
                hash.update(&buffer[..read]);
            }
            Err(end) => break end,
        }
    };
    Ok(transfer(bytes, hash, String::new(), end, start))
}

fn transfer(bytes: u64, hash: Sha256, answer: String, end: End, start: Instant) -> Reply {
    let sha256 = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let millis = u64::try_from(start.elapsed().as_millis()).expect("a test is shorter");
    Reply::Transfer(Transfer {
        bytes,
        sha256,
        answer,
        end,
        millis,
    })
}

/// A block whose bytes do not repeat within it, so that loss and reordering show in a checksum.
pub(crate) fn pattern() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        // Prime, so that no power of two in a buffer size lines up with it.
        (0..262_147)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    })
}
