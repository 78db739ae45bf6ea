//! `cargo xtask tidy`: the rules of the house that no other tool checks.
//!
//! How files look is in `files`, who may depend on whom in `arrows`; both are pure and tell every
//! fault at once.

mod arrows;
mod files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ebpf;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 3] = ["target", ".git", ".ambit"];

pub(crate) fn run() -> Result<()> {
    println!("==> tidy");
    let mut faults = Vec::new();
    for path in sources(ebpf::root())? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(ebpf::root()).unwrap_or(&path);
        let verdict = files::judge(name, &text);
        faults.extend(verdict.faults);
        verdict
            .warnings
            .iter()
            .for_each(|warning| println!("    warning: {warning}"));
    }
    faults.extend(arrows::judge(&metadata()?)?);
    for fault in &faults {
        eprintln!("    {fault}");
    }
    ensure!(
        faults.is_empty(),
        "{} faults against the style of the house",
        faults.len()
    );
    Ok(())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.contains(&&*name.to_string_lossy()) {
                found.extend(sources(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn metadata() -> Result<serde_json::Value> {
    let output = Command::new("cargo")
        .current_dir(ebpf::root())
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("read cargo metadata")
}
