//! `cargo xtask ebpf`: builds the kernel programs into `target/ebpf/ambit-ebpf.o`.
//!
//! They need `core` built for the kernel's target, so they have a toolchain of their own: Debian's
//! `rustc-web` with its sources, or a rustup nightly with `rust-src`. Installs nothing; that is
//! [`crate::setup`]'s.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

const TARGET: &str = "bpfel-unknown-none";
const OBJCOPY: [&str; 2] = ["/usr/lib/llvm-22/bin/llvm-objcopy", "/usr/bin/llvm-objcopy"];

/// A compiler that can build `core`.
pub(crate) enum Toolchain {
    /// Debian's packages, found by their files.
    Debian,
    /// The rustup toolchain of that name.
    Rustup(String),
}

pub(crate) fn run() -> Result<()> {
    crate::setup::ensure(crate::setup::Need::Ebpf)?;
    let object = build()?;
    println!("built {}", object.display());
    Ok(())
}

/// Builds what has changed and returns where the object is.
pub(crate) fn build() -> Result<PathBuf> {
    let toolchain =
        find_toolchain().context("no compiler with Rust's own sources: run `cargo xtask setup`")?;
    let linker = find_linker().context("no bpf-linker: run `cargo xtask setup`")?;
    let output = target_dir();
    let mut cargo = command(&toolchain);
    cargo
        .current_dir(root().join("ebpf"))
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&output);
    // Maps of the new kind are described in BTF, which the linker writes only when asked.
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("-Clinker={}\x1f-Clink-arg=--btf", linker.display()),
    );
    let status = cargo.status().context("cannot start cargo for ebpf/")?;
    ensure!(status.success(), "the eBPF programs do not build");
    let built = output.join(TARGET).join("release/ambit-ebpf");
    let object = output.join("ambit-ebpf.o");
    place(&built, &object)?;
    Ok(object)
}

/// Puts the object where the daemon looks for it, without the parts only a debugger reads.
fn place(built: &Path, object: &Path) -> Result<()> {
    let new = object.with_extension("new");
    let objcopy = OBJCOPY.iter().find(|path| Path::new(path).exists());
    let stripped = objcopy.is_some_and(|objcopy| {
        Command::new(objcopy)
            .arg("--strip-debug")
            .args([built, &new])
            .status()
            .is_ok_and(|status| status.success())
    });
    if !stripped {
        fs::copy(built, &new).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    // Renamed, because a test may be reading the old one.
    fs::rename(&new, object).with_context(|| format!("cannot write {}", object.display()))
}

fn command(toolchain: &Toolchain) -> Command {
    let mut command = match toolchain {
        Toolchain::Debian => {
            let mut cargo = Command::new("/usr/bin/cargo");
            // Debian's compiler is a stable one that has to be told that it may.
            cargo
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
        Toolchain::Rustup(name) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", name, "cargo"]).env_remove("RUSTC");
            rustup
        }
    };
    // What the outer cargo and rustup set is meant for the outer toolchain.
    for name in [
        "RUSTUP_TOOLCHAIN",
        "CARGO",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn find_toolchain() -> Option<Toolchain> {
    let debian = ["/usr/bin/cargo", "/usr/bin/rustc"]
        .iter()
        .all(|path| Path::new(path).exists());
    if debian && has_sources("/usr/bin/rustc", &[]) {
        return Some(Toolchain::Debian);
    }
    let installed = Command::new("rustup")
        .args(["toolchain", "list", "-q"])
        .output()
        .ok()?;
    String::from_utf8_lossy(&installed.stdout)
        .split_whitespace()
        .find(|name| name.starts_with("nightly") && has_sources("rustup", &["run", name, "rustc"]))
        .map(|name| Toolchain::Rustup(name.to_owned()))
}

fn has_sources(program: &str, arguments: &[&str]) -> bool {
    let sysroot = Command::new(program)
        .args(arguments)
        .args(["--print", "sysroot"])
        .output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        let sources = "lib/rustlib/src/rust/library/core/src/lib.rs";
        Path::new(sysroot.trim()).join(sources).exists()
    })
}

pub(crate) fn find_linker() -> Option<PathBuf> {
    let home = std::env::home_dir()?.join(".cargo/bin/bpf-linker");
    [
        home,
        PathBuf::from("/usr/local/bin/bpf-linker"),
        PathBuf::from("/usr/bin/bpf-linker"),
    ]
    .into_iter()
    .find(|path| path.exists())
}

/// The folder of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the checkout")
}

fn target_dir() -> PathBuf {
    root().join("target/ebpf")
}
