//! Runs cargo in the checkout, saying so, and builds the programs a mesh is made of.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::Binaries;

use crate::ebpf;

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Runs cargo; its output is shown as it comes.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    cargo_with(arguments, &[])
}

pub(crate) fn cargo_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let told = format!("cargo {}", arguments.join(" "));
    println!("==> {told}");
    let start = Instant::now();
    let status = Command::new("cargo")
        .current_dir(ebpf::root())
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "{told}: {status}");
    println!("    {told}: {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Builds the daemons, the tool, the test application and the kernel programs.
pub(crate) fn build_mesh(profile: Profile) -> Result<Binaries> {
    println!("==> the kernel programs");
    ebpf::build()?;
    let packages = [
        "-p",
        "ztunnel",
        "-p",
        "controller",
        "-p",
        "cli",
        "-p",
        "harness",
    ];
    let mut arguments = vec!["build", "--locked", "--bins"];
    arguments.extend(packages);
    if profile == Profile::Release {
        arguments.push("--release");
    }
    cargo(&arguments)?;
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    Ok(Binaries::in_target(&target(), folder))
}

pub(crate) fn target() -> PathBuf {
    ebpf::root().join("target")
}
