//! The cgroup2 tree: where it is mounted, and one folder in it per mesh, node and pod.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Where cgroup2 is mounted: alone on most machines, beside version 1 on hybrid ones.
pub fn root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Makes a cgroup and those above it.
pub(crate) fn create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make the cgroup {}", path.display()))
}

/// Kills what still runs in the tree and removes it, leaves first.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    let ask = || {
        let members = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            // It may have ended by itself between the two calls.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        match std::fs::remove_dir(path) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
            Err(error) => Err(error.into()),
        }
    };
    let what = format!("the cgroup {} to be empty", path.display());
    wait::until(&what, std::time::Duration::from_secs(5), ask).map(|_| ())
}
