//! Check 10: Certificates renew at half life while traffic flows; a short life is set for this.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Mesh, Replica, wait};
use serde_json::Value;

use crate::observe::{all_served, storm};

/// The life the scenario sets is 20 s: at half of it all are renewed, with some time to spare.
const RENEWED: Duration = Duration::from_secs(15);
const USERS: [(Replica, &str); 2] = [(Replica::A, "web"), (Replica::B, "cart")];

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let web = &mesh.pod("web").app;
    let to = mesh.address_of("cart-b", ports::TELL);
    web.open("renewed", to)?;
    let flowing = web.storm(storm(
        "flowing",
        vec![mesh.cart(80)],
        50,
        Duration::from_secs(60),
    ))?;
    let start = Instant::now();
    let outcome = USERS
        .iter()
        .try_for_each(|(node, account)| renews(mesh, *node, account));
    let took = start.elapsed();
    let still = web.exchange("renewed", "still");
    web.close("renewed")?;
    web.calm("flowing")?;
    let report = flowing.storm()?;
    outcome?;
    still.context("a connection opened before the renewal")?;
    let served = all_served(&report)?;
    Ok(format!(
        "renewed within {:.1} s; {served} connections meanwhile",
        took.as_secs_f32()
    ))
}

fn renews(mesh: &Mesh, node: Replica, account: &str) -> Result<()> {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let serial = |dump: &Value| serials(dump).get(&identity).cloned();
    let before = serial(&mesh.config_dump(node)?)
        .with_context(|| format!("node {} shows no certificate of {identity}", node.name()))?;
    let what = format!("node {} to renew {identity}", node.name());
    let (after, _) = wait::until(&what, RENEWED, || {
        Ok(serial(&mesh.config_dump(node)?).filter(|now| *now != before))
    })?;
    ensure!(
        !after.is_empty(),
        "the renewed certificate of {identity} has no serial number"
    );
    Ok(())
}

/// The serial number of each identity's certificate, as the admin page shows it.
fn serials(dump: &Value) -> BTreeMap<String, String> {
    let all = dump["certificates"].as_array().into_iter().flatten();
    all.filter_map(|one| {
        let identity = one["identity"].as_str()?.to_owned();
        let serial = one["certChain"].get(0)?["serialNumber"]
            .as_str()?
            .to_owned();
        Some((identity, serial))
    })
    .collect()
}
