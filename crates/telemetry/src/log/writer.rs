//! Writes lines from a thread of its own, so that a full pipe stops no worker.
//!
//! What is not written yet is bounded in bytes; lines beyond are dropped and counted, and the
//! log itself says so once it moves again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait to be written.
pub(super) const WAITING: usize = 4 * 1024 * 1024;

/// Lines are joined up to this many bytes a write.
const BATCH: usize = 64 * 1024;

#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// The thread that writes, and the way to it.
pub(super) struct Writer {
    lines: Lines,
    ended: Receiver<()>,
}

/// Takes lines; each event is given as one write.
#[derive(Clone)]
pub(super) struct Lines {
    queue: Sender<Message>,
    shared: Arc<Shared>,
}

/// Counts what was dropped.
#[derive(Clone)]
pub(super) struct Dropped(Arc<Shared>);

impl Dropped {
    pub(super) fn count(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Writer {
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel();
        let (alive, ended) = mpsc::channel();
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        // It is not joined: it may be stuck in a write for ever. `finish` waits for `ended`.
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                write_all(to, &lines, &of_thread);
                drop(alive);
            })?;
        Ok(Self {
            lines: Lines { queue, shared },
            ended,
        })
    }

    pub(super) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped(self.lines.shared.clone())
    }

    /// Has what waits written, for at most `deadline`.
    pub(super) fn finish(&self, deadline: Duration) {
        // The thread is gone when this cannot be sent, and so there is nothing to wait for.
        self.lines.queue.send(Message::End).ok();
        self.ended.recv_timeout(deadline).ok();
    }
}

fn write_all(mut to: impl Write, lines: &Receiver<Message>, shared: &Shared) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut told = 0;
    while let Ok(Message::Line(line)) = lines.recv() {
        batch.clear();
        batch.extend_from_slice(&line);
        let mut ended = false;
        while batch.len() < BATCH && !ended {
            match lines.try_recv() {
                Ok(Message::Line(line)) => batch.extend_from_slice(&line),
                Ok(Message::End) => ended = true,
                Err(_) => break,
            }
        }
        let length = batch.len();
        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > told {
            let lost = dropped - told;
            told = dropped;
            batch.extend_from_slice(
                format!("{lost} log lines were dropped: the log was not read fast enough\n")
                    .as_bytes(),
            );
        }
        // There is nowhere to tell that the log cannot be written.
        to.write_all(&batch).and_then(|()| to.flush()).ok();
        shared.waiting.fetch_sub(length, Ordering::Relaxed);
        if ended {
            return;
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = self.shared.waiting.fetch_add(line.len(), Ordering::Relaxed);
        let sent =
            before + line.len() <= WAITING && self.queue.send(Message::Line(line.to_vec())).is_ok();
        if !sent {
            self.shared.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Lines {
    type Writer = Self;

    fn make_writer(&'writer self) -> Self {
        self.clone()
    }
}
