//! Log lines of the kernel programs, handed to `tracing`.
//!
//! Off, the verifier removes them from the programs: they cost nothing.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// From which level on the kernel programs say what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EbpfLog {
    #[default]
    Off,
    /// What needs an operator: failing open, sockets that cannot be captured.
    Warn,
    /// Each connection.
    Debug,
}

impl EbpfLog {
    /// The value of the level in the programs; borrowed for ever because the loader keeps it.
    pub(crate) fn level(self) -> &'static u8 {
        match self {
            Self::Off => &0,
            Self::Warn => &(aya_log::Level::Warn as u8),
            Self::Debug => &(aya_log::Level::Debug as u8),
        }
    }
}

/// The kernel programs' log, to be run by whoever owns the daemon's tasks.
pub struct EbpfLogs(EbpfLogger<ToTracing>);

impl EbpfLogs {
    pub(crate) fn open(object: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(object, ToTracing).map(Self)
    }

    /// Hands lines on until it is dropped.
    ///
    /// # Errors
    /// If the kernel's buffer cannot be waited for.
    pub async fn run(self) -> io::Result<()> {
        // SAFETY: the logger owns the descriptor, and it stays the same until the logger drops.
        let mut logger = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

impl std::fmt::Debug for EbpfLogs {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("EbpfLogs")
    }
}

struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "ebpf", "{line}"),
            log::Level::Warn => tracing::warn!(target: "ebpf", "{line}"),
            log::Level::Info => tracing::info!(target: "ebpf", "{line}"),
            log::Level::Debug | log::Level::Trace => tracing::debug!(target: "ebpf", "{line}"),
        }
    }

    fn flush(&self) {}
}
