//! `cargo xtask test`: every check, then every test, from fast to real.

use anyhow::Result;

use crate::{check, privilege, run, setup};

pub(crate) fn run() -> Result<()> {
    // First, because what is missing here is missing after half an hour too.
    privilege::ensure()?;
    setup::run()?;
    check::run()?;
    run::build_mesh(run::Profile::Dev)?;
    run::cargo(&["test", "--workspace", "--locked"])?;
    println!("==> tests that need root; one at a time, because they measure");
    // Only tests that say so are ignored: none of them may be skipped here.
    run::cargo(&[
        "test",
        "--workspace",
        "--locked",
        "--",
        "--ignored",
        "--test-threads=1",
    ])?;
    println!("all tests passed");
    Ok(())
}
