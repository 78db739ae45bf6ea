//! A daemon under test: started with its log in a file, ended politely or not.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{self, Place};

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says is appended to the log of its name.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
        place: Place<'_>,
    ) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new(program);
        // Logs go to a file, where colours only hide words.
        command
            .env("NO_COLOR", "1")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = process::spawn(&mut command, place)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails with the end of the log when the daemon is gone.
    pub fn ensure_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    tail(&self.log, 4096)
                )
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(&self.child, signal).with_context(|| self.name.clone())
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        process::wait_for_end(&mut self.child, deadline).with_context(|| self.name.clone())
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self, deadline: Duration) -> Result<ExitStatus> {
        process::wait_for_end(&mut self.child, deadline).with_context(|| self.name.clone())
    }

    /// kill -9.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The last bytes of a log, from a line's start.
#[must_use]
pub fn tail(log: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(match text.split_once('\n') {
            Some((_, rest)) if length > bytes => rest.to_owned(),
            _ => text,
        })
    };
    read().unwrap_or_else(|error| format!("({}: {error})", log.display()))
}
