//! Load: connections and requests at a fixed rate, bulk, and many idle connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::protocol::{Failure, Latencies, Reply, Requests, Storm, StormReport};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::client::{self, pattern};
use crate::stream::{self, STEP};

/// Failures told in full; the rest is only counted.
const EXAMPLES: usize = 20;

#[derive(Default)]
pub(crate) struct Load {
    storms: RefCell<HashMap<String, Rc<Notify>>>,
    crowds: RefCell<HashMap<String, Vec<TcpStream>>>,
}

impl Load {
    pub(crate) async fn storm(&self, storm: Storm) -> Reply {
        let calm = Rc::new(Notify::new());
        self.storms
            .borrow_mut()
            .insert(storm.name.clone(), Rc::clone(&calm));
        let mut ticks = interval(Duration::from_secs(1) / storm.per_second.max(1));
        // A rate that was missed is caught up with: the load asked for is the load given.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = sleep(Duration::from_millis(storm.millis));
        tokio::pin!(end);
        let mut report = StormReport::default();
        let mut running = JoinSet::new();
        let mut turn = storm.to.iter().cycle();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let to = *turn.next().expect("a storm has a target");
                    let line = storm.line.clone();
                    running.spawn_local(async move {
                        let start = Instant::now();
                        (client::ask(to, &line).await, start.elapsed())
                    });
                }
                Some(done) = running.join_next() => note(&mut report, done),
                () = &mut end => break,
                () = calm.notified() => break,
            }
        }
        while let Some(done) = running.join_next().await {
            note(&mut report, done);
        }
        self.storms.borrow_mut().remove(&storm.name);
        Reply::Storm(report)
    }

    pub(crate) fn calm(&self, name: &str) -> Reply {
        if let Some(storm) = self.storms.borrow().get(name) {
            storm.notify_one();
        }
        Reply::Done
    }

    pub(crate) async fn open_many(
        &self,
        name: String,
        to: SocketAddr,
        count: u32,
    ) -> Result<Reply, Failure> {
        let mut crowd = Vec::new();
        for _ in 0..count {
            let stream = stream::connect(to).await?;
            // One exchange each, so that it is known to stand from end to end.
            stream::write_all(&stream, b"here\n", STEP).await?;
            stream::read_line(&stream).await?;
            crowd.push(stream);
        }
        self.crowds.borrow_mut().insert(name, crowd);
        Ok(Reply::Done)
    }

    pub(crate) fn close_many(&self, name: &str) -> Reply {
        self.crowds.borrow_mut().remove(name);
        Reply::Done
    }
}

type Outcome = (Result<harness::Answer, Failure>, Duration);

fn note(report: &mut StormReport, done: Result<Outcome, tokio::task::JoinError>) {
    let (outcome, took) = done.expect("asking does not panic");
    report.attempts += 1;
    let millis = u64::try_from(took.as_millis()).expect("bounded by the steps' deadlines");
    match outcome {
        Ok(answer) => {
            report.succeeded += 1;
            report.slowest_millis = report.slowest_millis.max(millis);
            *report.by_server.entry(answer.told.name).or_default() += 1;
        }
        Err(failure) => {
            report.failed += 1;
            if report.failures.len() < EXAMPLES {
                report.failures.push(failure);
            }
        }
    }
}

/// Sends as much as fits for a time; the server counts.
pub(crate) async fn pump(to: SocketAddr, connections: u32, millis: u64) -> Result<Reply, Failure> {
    let mut senders = JoinSet::new();
    let end = Instant::now() + Duration::from_millis(millis);
    for _ in 0..connections {
        let stream = stream::connect(to).await?;
        senders.spawn_local(async move {
            let mut sent = 0;
            while Instant::now() < end {
                stream::write_all(&stream, &pattern()[..128 * 1024], STEP).await?;
                sent += 128 * 1024;
            }
            stream::linger_zero(&stream).ok(); // What is still on its way does not count.
            Ok::<u64, Failure>(sent)
        });
    }
    let mut total = 0;
    while let Some(sent) = senders.join_next().await {
        total += sent.expect("sending does not panic")?;
    }
    Ok(Reply::Count(total))
}

/// Requests at a fixed rate, measured from the moment each was due.
pub(crate) async fn requests(ask: Requests) -> Result<Reply, Failure> {
    let mut callers = JoinSet::new();
    let gap = Duration::from_secs(1) * ask.connections / ask.per_second;
    let span = Duration::from_millis(ask.millis);
    for index in 0..ask.connections {
        let stream = stream::connect(ask.to).await?;
        let first = gap * index / ask.connections;
        callers.spawn_local(async move {
            sleep(first).await;
            caller(&stream, gap, span, ask.bytes).await
        });
    }
    let mut all = Vec::new();
    while let Some(times) = callers.join_next().await {
        all.extend(times.expect("asking does not panic")?);
    }
    all.sort_unstable();
    let at = |share: f64| {
        let index = ((all.len().saturating_sub(1)) as f64 * share) as usize;
        all.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    Ok(Reply::Latencies(Latencies {
        count: all.len() as u64,
        p50_micros: at(0.5),
        p90_micros: at(0.9),
        p99_micros: at(0.99),
    }))
}

async fn caller(
    stream: &TcpStream,
    gap: Duration,
    span: Duration,
    bytes: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut ticks = interval(gap);
    let mut times = Vec::new();
    let mut buffer = vec![0; bytes];
    let end = Instant::now() + span;
    while Instant::now() < end {
        ticks.tick().await;
        let start = Instant::now();
        stream::write_all(stream, &pattern()[..bytes], STEP).await?;
        let mut left = bytes;
        while left > 0 {
            match stream::read(stream, &mut buffer[..left], STEP).await? {
                Ok(read) => left -= read,
                Err(_) => return Ok(times),
            }
        }
        times.push(start.elapsed());
    }
    Ok(times)
}

/// New connections as fast as they go, a fixed number at a time.
pub(crate) async fn churn(to: SocketAddr, parallel: u32, millis: u64) -> Result<Reply, Failure> {
    let end = Instant::now() + Duration::from_millis(millis);
    let count = Rc::new(Cell::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..parallel {
        let count = Rc::clone(&count);
        callers.spawn_local(async move {
            while Instant::now() < end {
                once(to).await?;
                count.set(count.get() + 1);
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("asking does not panic")?;
    }
    Ok(Reply::Count(count.get()))
}

/// One connection with one byte each way, closed by a reset so that no port waits.
async fn once(to: SocketAddr) -> Result<(), Failure> {
    let stream = stream::connect(to).await?;
    stream::write_all(&stream, b"x", STEP).await?;
    let outcome = stream::read(&stream, &mut [0; 1], STEP).await?;
    stream::linger_zero(&stream).ok(); // Only saves ports; the connection has done its work.
    match outcome {
        Ok(_) => Ok(()),
        Err(_) => Err(stream::failure(
            harness::protocol::Stage::Receive,
            Some(to),
            &std::io::ErrorKind::ConnectionReset.into(),
        )),
    }
}
