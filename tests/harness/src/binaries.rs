//! Where the programs under test lie: a target folder, and the eBPF object beside it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The programs a mesh is made of.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
    ebpf: PathBuf,
}

impl Binaries {
    /// Programs of `target/debug` or `target/release`.
    #[must_use]
    pub fn in_target(target: &Path, profile: &str) -> Self {
        Self {
            folder: target.join(profile),
            ebpf: target.join("ebpf/ambit-ebpf.o"),
        }
    }

    /// Tells what is missing with its cure.
    pub fn ensure_built(&self) -> Result<()> {
        for program in [self.app(), self.controller(), self.ztunnel(), self.cli()] {
            ensure!(
                program.exists(),
                "{} is missing: cargo build --workspace makes it",
                program.display()
            );
        }
        ensure!(
            self.ebpf.exists(),
            "{} is missing: cargo xtask ebpf makes it",
            self.ebpf.display()
        );
        Ok(())
    }

    /// The programs built beside the running test, which lies in `target/PROFILE/deps`.
    pub fn beside_this_test() -> Result<Self> {
        let test = std::env::current_exe()?;
        let profile = test.ancestors().nth(2).unwrap_or(&test);
        let target = profile.parent().unwrap_or(profile);
        let name = profile.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self::in_target(target, &name))
    }

    #[must_use]
    pub fn app(&self) -> PathBuf {
        self.folder.join("mesh-app")
    }

    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.folder.join("ambit-controller")
    }

    #[must_use]
    pub fn ztunnel(&self) -> PathBuf {
        self.folder.join("ztunnel")
    }

    #[must_use]
    pub fn cli(&self) -> PathBuf {
        self.folder.join("ambit")
    }

    #[must_use]
    pub fn ebpf(&self) -> &Path {
        &self.ebpf
    }
}
