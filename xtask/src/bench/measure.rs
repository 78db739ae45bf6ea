//! One measurement of one line over one way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::mesh::ports;
use harness::protocol::Requests;
use harness::{App, Mesh};
use serde::Serialize;

use super::ways::{Distance, Way, Ways};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    BulkCrossNode,
    BulkSameNode,
    Bulk64,
    Requests,
    Connections,
}

impl Line {
    pub(super) const ALL: [Self; 5] = [
        Self::BulkCrossNode,
        Self::BulkSameNode,
        Self::Bulk64,
        Self::Requests,
        Self::Connections,
    ];
}

const MANY: u32 = 64;
const REQUEST: usize = 1024;
const REQUESTERS: u32 = 16;
/// Well below what any way can carry on two cores, so that latency is not a queue.
const REQUESTS_PER_SECOND: u32 = 1600;
const PARALLEL: u32 = 16;

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    pub(super) line: Line,
    pub(super) way: Way,
    pub(super) round: u32,
    /// Bytes a second, microseconds at p50, or connections a second.
    pub(super) value: f64,
    /// Of several connections, the slowest's share of the fastest's.
    pub(super) fairness: Option<f64>,
    /// CPU seconds of the carriers for each byte, request or connection.
    pub(super) cpu_each: f64,
}

pub(super) fn measure(
    mesh: &Mesh,
    ways: &Ways,
    line: Line,
    way: Way,
    round: u32,
    time: Duration,
) -> Result<Sample> {
    let distance = match line {
        Line::BulkSameNode => Distance::SameNode,
        Line::BulkCrossNode | Line::Bulk64 | Line::Requests | Line::Connections => {
            Distance::OtherNode
        }
    };
    let port = match line {
        Line::BulkCrossNode | Line::BulkSameNode | Line::Bulk64 => ports::DISCARD,
        Line::Requests | Line::Connections => ports::ECHO,
    };
    let (client, to, server) = ways.path(mesh, way, distance, port);
    // Warm: the tunnel stands and every path has been walked once.
    let (_, echo, _) = ways.path(mesh, way, distance, ports::ECHO);
    client.churn(echo, 1, Duration::from_millis(20))?;
    let cpu_before = ways.cpu_seconds(mesh, way)?;
    let (value, count, fairness) = match line {
        Line::BulkCrossNode | Line::BulkSameNode => bulk(client, to, server, 1, time)?,
        Line::Bulk64 => bulk(client, to, server, MANY, time)?,
        Line::Requests => requests(client, to, time)?,
        Line::Connections => connections(client, to, time)?,
    };
    let cpu = ways.cpu_seconds(mesh, way)? - cpu_before;
    Ok(Sample {
        line,
        way,
        round,
        value,
        fairness,
        cpu_each: cpu / count,
    })
}

/// What is measured, how many of what were carried, and how fairly.
type Outcome = (f64, f64, Option<f64>);

fn bulk(
    client: &App,
    to: std::net::SocketAddr,
    server: &App,
    connections: u32,
    time: Duration,
) -> Result<Outcome> {
    let before = server.seen(ports::DISCARD)?.len();
    let start = Instant::now();
    let pump = client.pump(to, connections, time)?;
    pump.wait()?;
    let took = start.elapsed().as_secs_f64();
    let seen = server.seen(ports::DISCARD)?;
    let bytes: Vec<f64> = seen[before..].iter().map(|one| one.bytes as f64).collect();
    ensure!(
        bytes.len() == connections as usize,
        "{} connections arrived of {connections}",
        bytes.len()
    );
    let total: f64 = bytes.iter().sum();
    ensure!(total > 0.0, "no byte arrived");
    let slowest = bytes.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = bytes.iter().copied().fold(0.0, f64::max);
    Ok((total / took, total, Some(slowest / fastest)))
}

fn requests(client: &App, to: std::net::SocketAddr, time: Duration) -> Result<Outcome> {
    let latencies = client.requests(Requests {
        to,
        connections: REQUESTERS,
        per_second: REQUESTS_PER_SECOND,
        millis: u64::try_from(time.as_millis())?,
        bytes: REQUEST,
    })?;
    ensure!(latencies.count > 0, "no request was answered");
    Ok((latencies.p50_micros, latencies.count as f64, None))
}

fn connections(client: &App, to: std::net::SocketAddr, time: Duration) -> Result<Outcome> {
    let start = Instant::now();
    let count = client.churn(to, PARALLEL, time)? as f64;
    ensure!(count > 0.0, "no connection was served");
    Ok((count / start.elapsed().as_secs_f64(), count, None))
}
