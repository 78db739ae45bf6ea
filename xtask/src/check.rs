//! `cargo xtask check`: what can be said about a change without running it.

use anyhow::Result;

use crate::{run, setup, tidy};

pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::Need::Check)?;
    run::cargo(&["fmt", "--all", "--check"])?;
    run::cargo(&["fmt", "--manifest-path", "ebpf/Cargo.toml", "--check"])?;
    tidy::run()?;
    run::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?;
    run::cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"])?;
    let strict = [("RUSTDOCFLAGS", "-D warnings")];
    run::cargo_with(
        &["doc", "--workspace", "--no-deps", "--locked", "--quiet"],
        &strict,
    )
}
