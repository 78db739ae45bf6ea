//! Check 3: Both replicas of `cart` are used.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use harness::Mesh;

const CALLS: u32 = 60;
/// Of 60 fair draws, fewer than 10 for one replica happen once in 100 million times.
const LEAST: u32 = 10;

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..CALLS {
        let answer = mesh.pod("web").app.ask(mesh.cart(80), "which are you")?;
        *served.entry(answer.told.name).or_default() += 1;
    }
    for replica in ["cart-a", "cart-b"] {
        let times = served.get(replica).copied().unwrap_or_default();
        ensure!(
            times >= LEAST,
            "{replica} served {times} of {CALLS} calls: {served:?}"
        );
    }
    Ok(format!("{served:?}"))
}
