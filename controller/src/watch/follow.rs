//! Follows a folder of manifests: inotify wakes it, [`Directory`] looks.
//!
//! A file counts as changed when it is closed or replaced, never while it is being written, so
//! that a half-written file is not taken for a short one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::directory::{Directory, DocumentStatus, Update};

/// Events of one save arrive in a burst; a look waits until the burst is over.
const QUIET: Duration = Duration::from_millis(20);
/// A look is not put off for longer than this, however busy the folder is.
const BUSY: Duration = Duration::from_millis(200);
/// A file that is still open this long after its last write is read as it is.
const ABANDONED: Duration = Duration::from_secs(2);

/// The folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("the folder {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the folder {path} cannot be watched: check that it exists and the limits in /proc/sys/fs/inotify"
    )]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("no thread for the folder {path}")]
    Thread {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One look at the folder, and the state of all documents after it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) update: Update,
    pub(crate) listing: Arc<Vec<DocumentStatus>>,
}

/// Owns the watch and its thread; both end when it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    watcher: Option<notify::RecommendedWatcher>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // The thread ends when the watcher, its only sender, is gone.
        drop(self.watcher.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows the folder panicked");
        }
    }
}

/// Reads a folder, then follows it: later looks that change something go to `report`, which
/// says whether anybody still listens.
pub(crate) fn follow(
    root: PathBuf,
    report: impl Fn(Look) -> Listening + Send + 'static,
) -> Result<(Look, Follower), FollowError> {
    let (events, wakeups) = mpsc::channel();
    let watch = |path: PathBuf| move |source| FollowError::Watch { path, source };
    let mut watcher = notify::recommended_watcher(move |event| {
        // A receiver that is gone is about to drop this watcher.
        events.send(event).ok();
    })
    .map_err(watch(root.clone()))?;
    watcher
        .watch(&root, RecursiveMode::Recursive)
        .map_err(watch(root.clone()))?;
    let mut directory = Directory::new(root.clone());
    let update = directory
        .refresh(&BTreeSet::new())
        .map_err(|source| FollowError::Read {
            path: root.clone(),
            source,
        })?;
    let first = Look {
        update,
        listing: Arc::new(directory.listing()),
    };
    let thread = thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || run(directory, &wakeups, report))
        .map_err(|source| FollowError::Thread { path: root, source })?;
    let follower = Follower {
        watcher: Some(watcher),
        thread: Some(thread),
    };
    Ok((first, follower))
}

/// Whether the receiver of looks is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listening {
    Yes,
    No,
}

type Event = notify::Result<notify::Event>;

fn run(
    mut directory: Directory,
    wakeups: &mpsc::Receiver<Event>,
    report: impl Fn(Look) -> Listening,
) {
    let mut writing = Writing::default();
    while let Some(looking) = wait(wakeups, &mut writing) {
        if looking == Looking::NotNeeded {
            continue;
        }
        let update = match directory.refresh(&writing.paths()) {
            Ok(update) => update,
            Err(error) => {
                // The folder itself is gone or locked: what was read holds until it is back.
                tracing::error!(%error, "the folder of manifests cannot be read");
                continue;
            }
        };
        let look = Look {
            update,
            listing: Arc::new(directory.listing()),
        };
        if report(look) == Listening::No {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looking {
    Needed,
    NotNeeded,
}

/// Waits for a burst of events to end. `None` when the watch has ended.
fn wait(wakeups: &mpsc::Receiver<Event>, writing: &mut Writing) -> Option<Looking> {
    let mut looking = match writing.oldest() {
        None => writing.note(wakeups.recv().ok()?),
        Some(since) => match wakeups.recv_timeout(ABANDONED.saturating_sub(since.elapsed())) {
            Ok(event) => writing.note(event),
            Err(mpsc::RecvTimeoutError::Timeout) => writing.give_up(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        },
    };
    let begun = Instant::now();
    while begun.elapsed() < BUSY {
        match wakeups.recv_timeout(QUIET) {
            Ok(event) => {
                if writing.note(event) == Looking::Needed {
                    looking = Looking::Needed;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return Some(looking),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
    }
    Some(looking)
}

/// Files that are open for writing and were written to.
#[derive(Debug, Default)]
struct Writing(BTreeMap<PathBuf, Instant>);

impl Writing {
    fn note(&mut self, event: Event) -> Looking {
        // An overflow, or a lost watch: only a look tells what happened.
        let Ok(event) = event else {
            self.0.clear();
            return Looking::Needed;
        };
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                let now = Instant::now();
                self.0
                    .extend(event.paths.into_iter().map(|path| (path, now)));
                Looking::NotNeeded
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => {
                for path in &event.paths {
                    self.0.remove(path);
                }
                Looking::Needed
            }
            EventKind::Access(_) => Looking::NotNeeded,
            EventKind::Create(_) => Looking::Needed,
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => Looking::Needed,
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    fn give_up(&mut self) -> Looking {
        self.0.retain(|_, since| since.elapsed() < ABANDONED);
        Looking::Needed
    }

    fn paths(&self) -> BTreeSet<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
