//! Names that tell whose a thing is, and the sweep of what crashed runs left behind.
//!
//! A scope is `am-TEST-PID`. Namespaces, cgroups and folders all start with it, so that a run
//! whose process is gone can be recognised by name alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cgroup;

const PREFIX: &str = "am-";
pub(crate) const NETNS_FOLDER: &str = "/run/netns";
const RUN_FOLDER: &str = "/run/ambit-tests";

/// The name of one mesh of one test process.
#[derive(Debug, Clone)]
pub struct Scope(String);

impl Scope {
    /// Names a scope after its test, and sweeps what dead scopes left.
    pub fn new(test: &str) -> Result<Self> {
        sweep()?;
        Ok(Self(format!("{PREFIX}{test}-{}", std::process::id())))
    }

    /// The scope's own name for a namespace, a cgroup or a folder.
    #[must_use]
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.0)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of everything the scope writes: manifests, keys, sockets, logs, pins.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(RUN_FOLDER).join(&self.0)
    }
}

/// Removes everything of this scope, first what refers to the rest.
pub(crate) fn remove(scope: &Scope) -> Result<()> {
    remove_where(&|name| belongs(name, scope.as_str()))
}

/// Removes everything that this process made, for one that is told to end at once.
pub fn remove_own() -> Result<()> {
    remove_where(&|name| owner(name) == Some(std::process::id()))
}

/// Removes what runs left behind whose process is gone.
pub fn sweep() -> Result<()> {
    remove_where(&|name| {
        owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    })
}

fn belongs(name: &str, scope: &str) -> bool {
    name == scope
        || name
            .strip_prefix(scope)
            .is_some_and(|rest| rest.starts_with('-'))
}

/// The process a name belongs to: the first all-digit word after the test's own words.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split('-').skip(1).find_map(|word| word.parse().ok())
}

/// Another run may be sweeping the same at the same moment: what is gone is as good as removed.
fn remove_where(gone: &dyn Fn(&str) -> bool) -> Result<()> {
    let ours = |folder: &Path| {
        let all = children(folder).into_iter();
        all.filter(|(name, _)| gone(name)).collect::<Vec<_>>()
    };
    if let Ok(root) = cgroup::root() {
        for (_, path) in ours(&root) {
            unless_gone(cgroup::remove_tree(&path), &path)?;
        }
    }
    for (_, path) in ours(Path::new(RUN_FOLDER)) {
        unless_gone(remove_folder(&path), &path)?;
    }
    for (name, path) in ours(Path::new(NETNS_FOLDER)) {
        unless_gone(delete_namespace(&name), &path)?;
    }
    Ok(())
}

fn unless_gone(removed: Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if path.exists() => Err(error),
        Err(_) | Ok(()) => Ok(()),
    }
}

fn delete_namespace(name: &str) -> Result<()> {
    let removed = Command::new("ip")
        .args(["netns", "delete", name])
        .output()?;
    let told = String::from_utf8_lossy(&removed.stderr);
    anyhow::ensure!(removed.status.success(), "ip netns delete {name}: {told}");
    Ok(())
}

/// Pinned programs live as long as their bpffs: unmounting it is what detaches them.
fn remove_folder(folder: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(point).starts_with(folder) {
            nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
                .with_context(|| format!("unmount {point}"))?;
        }
    }
    std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}

fn children(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_process_it_belongs_to() {
        assert_eq!(owner("am-demo-4711"), Some(4711));
        assert_eq!(owner("am-kill-9-4711-node-a"), Some(9));
        assert_eq!(owner("am-demo-4711-pod-web"), Some(4711));
        assert_eq!(owner("cni-1234"), None);
    }

    #[test]
    fn a_scope_owns_only_its_own_names() {
        assert!(belongs("am-demo-47-node-a", "am-demo-47"));
        assert!(!belongs("am-demo-471-node-a", "am-demo-47"));
    }
}
