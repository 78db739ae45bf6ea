//! The wall clock, by which certificates begin and end.
//!
//! Tests make it follow tokio's paused time, so that a day passes in no time at all.

use std::time::SystemTime;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// Where the time comes from.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    System,
    #[cfg(any(test, feature = "testing"))]
    Tokio {
        start: tokio::time::Instant,
        start_at: SystemTime,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// The machine's clock now, and from here on as fast as tokio's: paused when it is.
    #[cfg(any(test, feature = "testing"))]
    pub fn following_tokio() -> Self {
        Self(Kind::Tokio {
            start: tokio::time::Instant::now(),
            start_at: SystemTime::now(),
        })
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Kind::System => SystemTime::now(),
            #[cfg(any(test, feature = "testing"))]
            Kind::Tokio { start, start_at } => *start_at + start.elapsed(),
        }
    }

    /// The time as X.509 counts it. Before 1970 counts as 1970, when no certificate is valid.
    pub(crate) fn unix(&self) -> UnixTime {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH);
        UnixTime::since_unix_epoch(since.unwrap_or_default())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix())
    }
}
