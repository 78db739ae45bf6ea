//! A network namespace: made by name, entered by a thread of its own, gone on drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::scope::{NETNS_FOLDER, Scope};

/// A network namespace of this scope.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes the namespace with its loopback up and IPv6 usable at once.
    pub fn create(scope: &Scope, what: &str) -> Result<Self> {
        let name = scope.name(what);
        ip(&["netns", "add", &name])?;
        let path = Path::new(NETNS_FOLDER).join(&name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let namespace = Self { name, file };
        namespace.ip(&["link", "set", "lo", "up"])?;
        // Duplicate address detection would hold every new address back for a second.
        namespace.sysctl("ipv6/conf/all/accept_dad", "0")?;
        namespace.sysctl("ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(&self.name)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Runs `ip` inside the namespace; `ip netns exec` is avoided because it remounts /sys.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    /// Sets a value below /proc/sys/net, which shows the namespace of the thread that opens it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.within(|| std::fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter the namespace {}", self.name))?;
                    Ok(work())
                })
                .join()
                .expect("what runs within a namespace reports its errors")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Already gone when its scope was swept first; a real leftover falls to the next sweep.
        ip(&["netns", "delete", &self.name]).ok();
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip (iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
