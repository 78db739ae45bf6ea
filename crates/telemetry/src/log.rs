//! The log: where lines go, in which form, and which are wanted, changeable while running.

mod writer;

use std::{io, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};
use writer::Writer;

/// The shape of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Plain,
    /// One JSON object a line, fields at its top level.
    Json,
}

/// Which lines are wanted, and how they look.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `level`, or `target=level` joined by commas: `info,access=debug`.
    pub filter: String,
    pub format: Format,
}

/// Why there is no log, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{filter:?} is no log filter; want LEVEL or TARGET=LEVEL, joined by commas")]
    Filter {
        filter: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    #[error("the process has a log already")]
    Twice,
}

/// The log of the process. Dropped, it waits a moment for the last lines to be written.
pub struct Log {
    handle: LogHandle,
    writer: Writer,
}

/// Changes what is logged, from anywhere. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    dropped: writer::Dropped,
}

/// How long a log that nobody reads may hold up the end of the process.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Starts the log of the process, to standard output.
pub fn init(config: &LogConfig) -> Result<Log, LogError> {
    let writer = Writer::start(io::stdout()).map_err(LogError::Thread)?;
    let (filter, reloadable) = reload::Layer::new(parse(&config.filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer.lines())
        .with_ansi(false);
    let installed = match config.format {
        Format::Plain => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    installed.map_err(|_| LogError::Twice)?;
    let handle = LogHandle {
        filter: reloadable,
        dropped: writer.dropped(),
    };
    Ok(Log { handle, writer })
}

fn parse(filter: &str) -> Result<Targets, LogError> {
    let parsed: Targets = filter.parse().map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    Ok(match parsed.default_level() {
        Some(_) => parsed,
        None => parsed.with_default(LevelFilter::INFO),
    })
}

impl Log {
    /// What changes the log while the daemon runs.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writer.finish(FLUSH_DEADLINE);
    }
}

impl LogHandle {
    /// From now on logs what `filter` wants.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        // It fails when the subscriber is gone, and with it every line.
        self.filter.reload(parsed).ok();
        Ok(())
    }

    /// The filter as it is now.
    pub fn current(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// Lines that were dropped because standard output did not keep up.
    pub fn dropped(&self) -> u64 {
        self.dropped.count()
    }
}

#[cfg(test)]
mod tests;
