//! `cargo xtask setup`: finds what building and testing need, and installs what is missing.
//!
//! Asks nothing and says what it does. When all is there it only looks, in a fraction of a
//! second, so that every other command can call it first.

use std::{
    fs::{self, File},
    io::{IsTerminal, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::ebpf;

/// What a command is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Build the kernel programs.
    Ebpf,
    /// Build the daemons, run nodes and pods as namespaces, and watch them.
    Mesh,
    /// Check licences and sources of dependencies.
    Check,
}

const ALL: [Need; 3] = [Need::Ebpf, Need::Mesh, Need::Check];

/// For compiling C and for linking.
const BUILD_PACKAGES: [&str; 2] = ["build-essential", "pkg-config"];
const MESH_PACKAGES: [&str; 4] = ["iproute2", "tcpdump", "procps", "curl"];
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
const LLVM_PACKAGES: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];
const LLVM: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";
const DENY_VERSION: &str = "0.20.2";

/// Installs whatever is missing for anything this repository does.
pub(crate) fn run() -> Result<()> {
    for need in ALL {
        ensure(need)?;
    }
    println!("everything is installed");
    Ok(())
}

/// Installs what is missing for one need; quick when nothing is.
pub(crate) fn ensure(need: Need) -> Result<()> {
    match need {
        Need::Ebpf => ensure_ebpf(),
        Need::Mesh => ensure_packages(&[&BUILD_PACKAGES[..], &MESH_PACKAGES[..]].concat()),
        Need::Check => ensure_tool("cargo-deny", DENY_VERSION, &["--locked"], &[]),
    }
}

fn ensure_ebpf() -> Result<()> {
    if ebpf::find_toolchain().is_none() {
        ensure_packages(&COMPILER_PACKAGES)?;
    }
    if ebpf::find_linker().is_some() {
        return Ok(());
    }
    ensure_packages(&BUILD_PACKAGES)?;
    ensure_packages(&LLVM_PACKAGES)?;
    ensure_tool(
        "bpf-linker",
        LINKER_VERSION,
        &["--no-default-features", "--features", "llvm-22"],
        // Without the first it looks in /usr/lib64 and fails to link.
        &[("LLVM_PREFIX", LLVM), ("LLVM_SYS_221_PREFIX", LLVM)],
    )
}

/// Installs a program from crates.io, unless some version of it is there.
fn ensure_tool(
    name: &str,
    version: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<()> {
    let home = std::env::home_dir().context("no home folder to install into")?;
    if home.join(".cargo/bin").join(name).exists() {
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", name, "--version", version])
        .args(arguments)
        .envs(environment.iter().copied());
    step(
        &format!("building {name} {version} from crates.io"),
        &mut cargo,
    )
}

fn ensure_packages(wanted: &[&str]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    // Our own process entry belongs to who we are.
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("missing packages, and only root can install them: apt-get install {names}");
    }
    step("reading the package lists", apt().arg("update"))?;
    step(
        &format!("installing {names}"),
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
    )
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Runs a long command with a line that says how long, and its output in a file.
fn step(title: &str, command: &mut Command) -> Result<()> {
    let log = log_file(title)?;
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let status = wait(title, &mut child)?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!(
            "{title} failed ({status}), all of it in {}:\n{tail}",
            log.display()
        );
    }
    Ok(())
}

/// Waits for `child`, telling the time every second to a terminal and now and then to a file.
fn wait(title: &str, child: &mut Child) -> Result<ExitStatus> {
    let started = Instant::now();
    let terminal = std::io::stdout().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 30 });
    let mut told = None;
    loop {
        let done = child.try_wait()?;
        let due = told.is_none_or(|told: Instant| told.elapsed() >= every);
        if due || done.is_some() {
            told = Some(Instant::now());
            let (start, end) = if terminal { ("\r", "") } else { ("", "\n") };
            print!("{start}{title} ... {} s{end}", started.elapsed().as_secs());
            std::io::stdout().flush()?;
        }
        if let Some(status) = done {
            if terminal {
                println!();
            }
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn log_file(title: &str) -> Result<PathBuf> {
    let folder: &Path = &ebpf::root().join("target/setup");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name: String = title
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .take(60)
        .collect();
    Ok(folder.join(format!("{name}.log")))
}
