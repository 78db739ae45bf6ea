//! Waiting for something to become true, always with a deadline that says what was awaited.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition outside this process is looked at again.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and returns it with the time it took.
///
/// An error of `ask` counts as "not yet"; the last one is told when the deadline passes.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    let mut last = None;
    loop {
        match ask() {
            Ok(Some(found)) => return Ok((found, start.elapsed())),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if start.elapsed() >= deadline {
            let waited = format!("waited {deadline:?} in vain for {what}");
            match last {
                Some(error) => return Err(error).context(waited),
                None => bail!(waited),
            }
        }
        std::thread::sleep(INTERVAL);
    }
}
