//! The log as a reader sees it, and one that nobody reads.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
};

use super::*;

/// Takes nothing before it is told to.
struct Gated {
    open: Receiver<()>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the gate is gone, it is open.
        self.open.recv().ok();
        self.taken.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_reader_costs_lines_and_no_time_and_is_told_so() {
    let (gate, open) = mpsc::channel();
    let taken = Arc::<Mutex<Vec<u8>>>::default();
    let writer = Writer::start(Gated {
        open,
        taken: taken.clone(),
    })
    .unwrap();
    let mut lines = writer.lines();
    let line = [b'x'; 1023]
        .iter()
        .chain(b"\n")
        .copied()
        .collect::<Vec<u8>>();
    let fit = writer::WAITING / line.len();
    for _ in 0..fit + 10 {
        lines.write_all(&line).unwrap();
    }
    assert_eq!(writer.dropped().count(), 10);
    drop(gate);
    writer.finish(Duration::from_secs(30));
    let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
    assert_eq!(
        taken.lines().filter(|line| line.starts_with('x')).count(),
        fit
    );
    assert!(taken.contains("10 log lines were dropped"));
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let (_gate, open) = mpsc::channel();
    let writer = Writer::start(Gated {
        open,
        taken: Arc::default(),
    })
    .unwrap();
    writer.lines().write_all(b"line\n").unwrap();
    writer.finish(Duration::from_millis(20));
}

#[test]
fn the_wanted_lines_can_be_changed_while_running() {
    let config = LogConfig {
        filter: "warn".to_owned(),
        format: Format::Json,
    };
    let log = init(&config).unwrap();
    assert!(!tracing::enabled!(target: "access", tracing::Level::DEBUG));
    let handle = log.handle();
    handle.set("warn,access=debug").unwrap();
    assert!(tracing::enabled!(target: "access", tracing::Level::DEBUG));
    assert_eq!(handle.current(), "access=debug,warn");
    let refused = handle.set("access=loud");
    assert!(matches!(refused, Err(LogError::Filter { .. })));
    assert_eq!(handle.current(), "access=debug,warn");
    assert!(matches!(init(&config), Err(LogError::Twice)));
}
