//! What a test and the application in a pod say to each other: JSON lines over stdin and stdout.
//!
//! Requests carry a number and are worked on side by side, so answers may come in any order.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub number: u64,
    pub command: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    pub number: u64,
    pub reply: Reply,
}

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Answers each line with a JSON line: its name, the two addresses it sees, what it read.
    Tell,
    /// Says the same JSON line before it reads anything, then behaves like `Tell`.
    Greet,
    /// Reads to the end, then answers "LENGTH SHA256" and ends its own direction.
    Sink,
    /// Reads to the end and counts, for measurements.
    Discard,
    /// Sends that many bytes and ends its direction at once, then reads to the end.
    Source { bytes: u64 },
    /// Sends back what it reads.
    Echo,
    /// Reads once, then resets the connection.
    Reset,
    /// HTTP/1.1, for curl.
    Http,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Serve {
        port: u16,
        mode: Mode,
    },
    StopServing {
        port: u16,
    },
    /// Serves a port by relaying it to another of the same pod.
    Relay {
        port: u16,
        to: u16,
    },
    /// What the server on the port saw since it started.
    Seen {
        port: u16,
    },
    Open {
        name: String,
        to: SocketAddr,
    },
    Send {
        name: String,
        data: String,
    },
    ReadLine {
        name: String,
    },
    /// Reads until the peer ends or resets.
    ReadToEnd {
        name: String,
    },
    EndWrite {
        name: String,
    },
    /// Closes with a reset.
    Abort {
        name: String,
    },
    Close {
        name: String,
    },
    /// Connects, sends a line, reads a line, closes.
    Ask {
        to: SocketAddr,
        line: String,
    },
    Upload {
        to: SocketAddr,
        bytes: u64,
    },
    Download {
        to: SocketAddr,
    },
    Storm(Storm),
    /// Ends a storm before its time.
    Calm {
        name: String,
    },
    Pump {
        to: SocketAddr,
        connections: u32,
        millis: u64,
    },
    Requests(Requests),
    Churn {
        to: SocketAddr,
        parallel: u32,
        millis: u64,
    },
    OpenMany {
        name: String,
        to: SocketAddr,
        count: u32,
    },
    CloseMany {
        name: String,
    },
}

/// New connections at a fixed rate, each one an `Ask`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storm {
    pub name: String,
    pub to: Vec<SocketAddr>,
    pub per_second: u32,
    pub millis: u64,
    pub line: String,
}

/// Requests at a fixed rate over connections that stay open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Requests {
    pub to: SocketAddr,
    pub connections: u32,
    pub per_second: u32,
    pub millis: u64,
    pub bytes: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    Opened(Opened),
    Line(String),
    Ended(Ended),
    Answer(Answer),
    Seen(Vec<Seen>),
    Transfer(Transfer),
    Storm(StormReport),
    Latencies(Latencies),
    Count(u64),
    Failed(Failure),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// How a direction of a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Open,
    Fin,
    Reset,
    Error,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    pub bytes: u64,
    pub data: String,
    pub end: End,
}

/// What the server says about a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    pub name: String,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub line: String,
}

/// Both sides' view of a connection that was asked over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub told: Told,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// One connection as its server saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub bytes: u64,
    pub end: End,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transfer {
    pub bytes: u64,
    pub sha256: String,
    pub answer: String,
    pub end: End,
    pub millis: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StormReport {
    pub attempts: u64,
    pub succeeded: u64,
    pub failures: Vec<Failure>,
    pub failed: u64,
    pub by_server: std::collections::BTreeMap<String, u64>,
    /// The longest time from connect to answer.
    pub slowest_millis: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latencies {
    pub count: u64,
    pub p50_micros: f64,
    pub p90_micros: f64,
    pub p99_micros: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    Refused,
    Reset,
    /// The peer ended before it had answered.
    Ended,
    TimedOut,
    Unreachable,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Connect,
    Send,
    Receive,
}

/// A connection that did not do what was asked of it.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{kind:?} at {stage:?} towards {to:?}: {message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub stage: Stage,
    pub to: Option<SocketAddr>,
    pub message: String,
}

/// An address as applications print it: IPv4 seen through an IPv6 socket is IPv4.
#[must_use]
pub fn plain(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
