//! The test's end of an application in a pod: one `mesh-app` process, driven over its stdin.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Place};
use crate::protocol::{
    Answer, Command, Ended, Failure, Latencies, Mode, Opened, Reply, Request, Requests, Response,
    Seen, Storm, StormReport, Transfer,
};

/// Longer than any deadline inside the application, so that its own account comes first.
const PATIENCE: Duration = Duration::from_secs(300);

type Waiting = Arc<Mutex<HashMap<u64, Sender<Reply>>>>;

/// An application in a pod.
#[derive(Debug)]
pub struct App {
    name: String,
    child: Child,
    control: Mutex<Control>,
    waiting: Waiting,
}

#[derive(Debug)]
struct Control {
    stdin: ChildStdin,
    next: u64,
}

/// A command that was given and not yet answered.
#[derive(Debug)]
pub struct Pending {
    name: String,
    reply: Receiver<Reply>,
}

impl Pending {
    /// The reply, or the failure the application met, as an error that can be downcast.
    pub fn wait(self) -> Result<Reply> {
        match self.reply.recv_timeout(PATIENCE) {
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => Ok(reply),
            Err(_) => bail!("the application {} gave no answer", self.name),
        }
    }

    pub fn storm(self) -> Result<StormReport> {
        match self.wait()? {
            Reply::Storm(report) => Ok(report),
            other => bail!("no storm's answer: {other:?}"),
        }
    }
}

/// Takes the one reply that fits the command, or tells what came instead.
macro_rules! expect_reply {
    ($reply:expr, $variant:ident) => {
        match $reply? {
            Reply::$variant(value) => Ok(value),
            other => bail!("not a {}: {other:?}", stringify!($variant)),
        }
    };
}

impl App {
    pub fn start(program: &Path, name: &str, place: Place<'_>) -> Result<Self> {
        let mut command = Program::new(program);
        command
            .args(["serve", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = process::spawn(&mut command, place)?;
        let stdin = child.stdin.take().expect("piped above");
        let stdout = child.stdout.take().expect("piped above");
        let waiting = Waiting::default();
        let readers = Arc::clone(&waiting);
        // Ends with the application's stdout, which ends when the application is dropped.
        std::thread::spawn(move || deliver(stdout, &readers));
        let control = Mutex::new(Control { stdin, next: 0 });
        Ok(Self {
            name: name.to_owned(),
            child,
            control,
            waiting,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command without waiting for its end.
    pub fn begin(&self, command: Command) -> Result<Pending> {
        let (sender, reply) = channel();
        let mut control = self.control.lock().expect("no holder panics");
        control.next += 1;
        let number = control.next;
        self.waiting
            .lock()
            .expect("no holder panics")
            .insert(number, sender);
        let mut line = serde_json::to_vec(&Request { number, command })?;
        line.push(b'\n');
        control
            .stdin
            .write_all(&line)
            .with_context(|| format!("the application {} is gone", self.name))?;
        Ok(Pending {
            name: self.name.clone(),
            reply,
        })
    }

    fn call(&self, command: Command) -> Result<Reply> {
        self.begin(command)?.wait()
    }

    pub fn serve(&self, port: u16, mode: Mode) -> Result<()> {
        self.call(Command::Serve { port, mode }).map(drop)
    }

    pub fn stop_serving(&self, port: u16) -> Result<()> {
        self.call(Command::StopServing { port }).map(drop)
    }

    pub fn relay(&self, port: u16, to: u16) -> Result<()> {
        self.call(Command::Relay { port, to }).map(drop)
    }

    pub fn seen(&self, port: u16) -> Result<Vec<Seen>> {
        expect_reply!(self.call(Command::Seen { port }), Seen)
    }

    /// Bytes the server on the port read from connections of that client.
    pub fn bytes_from(&self, port: u16, client: IpAddr) -> Result<u64> {
        let seen = self.seen(port)?;
        Ok(seen
            .iter()
            .filter(|one| one.peer.ip() == client)
            .map(|one| one.bytes)
            .sum())
    }

    pub fn ask(&self, to: SocketAddr, line: &str) -> Result<Answer> {
        expect_reply!(
            self.call(Command::Ask {
                to,
                line: line.to_owned()
            }),
            Answer
        )
    }

    pub fn open(&self, name: &str, to: SocketAddr) -> Result<Opened> {
        expect_reply!(
            self.call(Command::Open {
                name: name.to_owned(),
                to
            }),
            Opened
        )
    }

    pub fn send(&self, name: &str, data: &str) -> Result<()> {
        self.call(Command::Send {
            name: name.to_owned(),
            data: data.to_owned(),
        })
        .map(drop)
    }

    pub fn read_line(&self, name: &str) -> Result<String> {
        expect_reply!(
            self.call(Command::ReadLine {
                name: name.to_owned()
            }),
            Line
        )
    }

    pub fn read_to_end(&self, name: &str) -> Result<Ended> {
        expect_reply!(
            self.call(Command::ReadToEnd {
                name: name.to_owned()
            }),
            Ended
        )
    }

    /// Sends a line over an open connection and reads the answer.
    pub fn exchange(&self, name: &str, line: &str) -> Result<String> {
        self.send(name, &format!("{line}\n"))?;
        self.read_line(name)
    }

    pub fn end_write(&self, name: &str) -> Result<()> {
        self.call(Command::EndWrite {
            name: name.to_owned(),
        })
        .map(drop)
    }

    pub fn abort(&self, name: &str) -> Result<()> {
        self.call(Command::Abort {
            name: name.to_owned(),
        })
        .map(drop)
    }

    pub fn close(&self, name: &str) -> Result<()> {
        self.call(Command::Close {
            name: name.to_owned(),
        })
        .map(drop)
    }

    pub fn upload(&self, to: SocketAddr, bytes: u64) -> Result<Transfer> {
        expect_reply!(self.call(Command::Upload { to, bytes }), Transfer)
    }

    pub fn download(&self, to: SocketAddr) -> Result<Transfer> {
        expect_reply!(self.call(Command::Download { to }), Transfer)
    }

    pub fn storm(&self, storm: Storm) -> Result<Pending> {
        self.begin(Command::Storm(storm))
    }

    pub fn calm(&self, name: &str) -> Result<()> {
        self.call(Command::Calm {
            name: name.to_owned(),
        })
        .map(drop)
    }

    pub fn pump(&self, to: SocketAddr, connections: u32, time: Duration) -> Result<Pending> {
        self.begin(Command::Pump {
            to,
            connections,
            millis: millis(time),
        })
    }

    pub fn requests(&self, requests: Requests) -> Result<Latencies> {
        expect_reply!(self.call(Command::Requests(requests)), Latencies)
    }

    pub fn churn(&self, to: SocketAddr, parallel: u32, time: Duration) -> Result<u64> {
        expect_reply!(
            self.call(Command::Churn {
                to,
                parallel,
                millis: millis(time)
            }),
            Count
        )
    }

    pub fn open_many(&self, name: &str, to: SocketAddr, count: u32) -> Result<()> {
        self.call(Command::OpenMany {
            name: name.to_owned(),
            to,
            count,
        })
        .map(drop)
    }

    pub fn close_many(&self, name: &str) -> Result<()> {
        self.call(Command::CloseMany {
            name: name.to_owned(),
        })
        .map(drop)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have died before; then there is nothing to end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The failure an application met, when an error is one.
#[must_use]
pub fn failure(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("a test is shorter")
}

fn deliver(stdout: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let response: Response = match serde_json::from_str(&line) {
            Ok(response) => response,
            Err(error) => {
                eprintln!("mesh-app said {line:?}: {error}");
                continue;
            }
        };
        let waiter = waiting
            .lock()
            .expect("no holder panics")
            .remove(&response.number);
        if let Some(waiter) = waiter {
            // Whoever asked may have stopped waiting.
            waiter.send(response.reply).ok();
        }
    }
    // Dropping the senders tells everyone who still waits.
    waiting.lock().expect("no holder panics").clear();
}
