//! Makes sure that the pin folder is on a bpf file system.
//!
//! Mounts one where there is none; never unmounts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;

/// Where a node usually has its bpf file system.
const USUAL: &str = "/sys/fs/bpf";

#[derive(Debug, Error)]
pub enum BpffsError {
    #[error("cannot create the pin folder {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot look at the file system of {}", path.display())]
    Look { path: PathBuf, source: nix::Error },
    #[error("no bpf file system at {} and mounting one failed: mount it with `mount -t bpf bpf {}`", path.display(), path.display())]
    Mount { path: PathBuf, source: nix::Error },
}

/// Creates `folder` on a bpf file system.
pub(crate) fn prepare(folder: &Path) -> Result<(), BpffsError> {
    let root = if folder.starts_with(USUAL) {
        Path::new(USUAL)
    } else {
        folder
    };
    if !on_bpffs(folder)? {
        create(root)?;
        mount(
            Some("bpf"),
            root,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(|source| BpffsError::Mount {
            path: root.to_owned(),
            source,
        })?;
        tracing::info!(path = %root.display(), "mounted a bpf file system");
    }
    create(folder)
}

pub(crate) fn create(path: &Path) -> Result<(), BpffsError> {
    fs::create_dir_all(path).map_err(|source| BpffsError::Create {
        path: path.to_owned(),
        source,
    })
}

/// Whether the nearest existing folder is on a bpf file system.
fn on_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let found = statfs(existing).map_err(|source| BpffsError::Look {
        path: existing.to_owned(),
        source,
    })?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}
