//! Ctrl-C: takes the mesh down, whatever is being done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Catches the signals that ask to end.
pub(crate) struct Interrupt {
    waited_for: Arc<AtomicBool>,
    signal: Receiver<()>,
}

impl Interrupt {
    /// From here on the signals go to a thread of ours; the harness gives them back to programs it starts.
    pub(crate) fn catch() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("block SIGINT and SIGTERM")?;
        let waited_for = Arc::new(AtomicBool::new(false));
        let quiet = Arc::clone(&waited_for);
        let (sender, signal) = channel();
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                if quiet.load(Ordering::Relaxed) {
                    // Nobody waits any more: the mesh is being taken down already.
                    sender.send(()).ok();
                    continue;
                }
                eprintln!("interrupted: taking the mesh down");
                if let Err(error) = harness::scope::remove_own() {
                    eprintln!("something is left behind: {error:#}");
                }
                std::process::exit(INTERRUPTED);
            }
        });
        Ok(Self { waited_for, signal })
    }

    /// Waits for the signal instead of being ended by it.
    pub(crate) fn wait(&self) {
        self.waited_for.store(true, Ordering::Relaxed);
        // An error means the thread is gone, and with it who could wake us.
        self.signal.recv().ok();
    }
}
