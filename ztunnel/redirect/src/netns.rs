//! Network namespaces: entering one for a moment, telling which it is, finding its path again.
//!
//! Entering is for the calling thread only and always ends where it began. Nothing here keeps a
//! namespace alive longer than the descriptor the caller holds.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use crate::sys;

/// The namespace the daemon itself lives in, and the way into others.
#[derive(Debug, Clone)]
pub(crate) struct Home(Arc<OwnedFd>);

impl Home {
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        Ok(Self(Arc::new(
            File::open("/proc/thread-self/ns/net")?.into(),
        )))
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        identify(self, self.0.as_fd())
    }

    /// Runs `inside` on this thread within `netns`, and comes back even if it panics.
    pub(crate) fn within<T>(
        &self,
        netns: BorrowedFd<'_>,
        inside: impl FnOnce() -> T,
    ) -> io::Result<T> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let _back = Back(self.0.as_fd());
        Ok(inside())
    }
}

struct Back<'a>(BorrowedFd<'a>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // Anything this thread did from now on would happen in the pod.
            tracing::error!(%error, "cannot leave a pod's network namespace");
            process::abort();
        }
    }
}

/// What tells one namespace from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Reused by the kernel once the namespace is gone.
    pub(crate) inode: u64,
    /// Never reused until the machine restarts, and what the kernel programs go by.
    pub(crate) cookie: u64,
}

pub(crate) fn identify(home: &Home, netns: BorrowedFd<'_>) -> io::Result<Identity> {
    let inode = inode(netns)?;
    let cookie = home.within(netns, || {
        sys::netns_cookie(&Socket::new(Domain::IPV4, Type::STREAM, None)?)
    })??;
    Ok(Identity { inode, cookie })
}

fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// A path by which the namespace can be opened later, if there is one.
///
/// A bind mount is better than a process: it lives as long as the sandbox.
pub(crate) fn find_path(netns: BorrowedFd<'_>) -> io::Result<Option<PathBuf>> {
    let inode = inode(netns)?;
    let link = fs::read_link(format!("/proc/self/fd/{}", netns.as_raw_fd()))?;
    if is_at(&link, inode) {
        return Ok(Some(link));
    }
    find_path_of(inode)
}

/// As [`find_path`], for a namespace of which only the inode is known.
pub(crate) fn find_path_of(inode: u64) -> io::Result<Option<PathBuf>> {
    if let Some(path) = mounted(inode)? {
        return Ok(Some(path));
    }
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            let path = entry.path().join("ns/net");
            if is_at(&path, inode) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn mounted(inode: u64) -> io::Result<Option<PathBuf>> {
    let root = format!("net:[{inode}]");
    Ok(fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            (fields.next()? == root).then(|| fields.next()).flatten()
        })
        .map(PathBuf::from)
        .find(|path| is_at(path, inode)))
}

fn is_at(path: &Path, inode: u64) -> bool {
    // A name like `net:[1]` is no path, and a process may be gone: neither is it.
    path.is_absolute() && fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode)
}

/// Whether the namespace has a device besides loopback, which is what a living pod has.
pub(crate) fn has_devices(home: &Home, netns: BorrowedFd<'_>) -> io::Result<bool> {
    let table = home.within(netns, || fs::read_to_string("/proc/thread-self/net/dev"))??;
    Ok(table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .any(|(name, _)| name.trim() != "lo"))
}
