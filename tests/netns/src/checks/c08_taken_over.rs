//! Check 8: A second daemon takes over from the first under load (1,000 connections a second for 20 s
//! from several sources): none is refused or reset but those still open at the drain deadline.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::mesh::ports;
use harness::{Mesh, Replica};

use crate::observe::{all_served, everyone_is_served, storm, watch_for};

const SOURCES: [&str; 3] = ["web", "other", "cart-a"];
const RATE: u32 = 1000;
const TIME: Duration = Duration::from_secs(20);
const BEFORE: Duration = Duration::from_secs(5);

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    // Every source gets the same part, and the last what is left.
    let part = RATE / 3;
    let rates = [part, part, RATE - 2 * part];
    let mut storms = Vec::new();
    for (source, rate) in SOURCES.into_iter().zip(rates) {
        let to = vec![
            mesh.cart(80),
            mesh.cart_v6(80),
            mesh.address_of("cart-b", ports::TELL),
        ];
        storms.push((
            source,
            mesh.pod(source)
                .app
                .storm(storm("takeover", to, rate, TIME))?,
        ));
    }
    watch_for(BEFORE);
    let web = &mesh.pod("web").app;
    web.open("kept", mesh.address_of("cart-b", ports::TELL))?;
    web.exchange("kept", "before")?;
    let first = mesh.start_successor(Replica::A)?;
    watch_for(mesh.options.ztunnel.drain_deadline / 2);
    let web = &mesh.pod("web").app;
    web.exchange("kept", "before the deadline")
        .context("a connection open before")?;
    web.close("kept")?;
    mesh.await_succession(Replica::A, first)?;
    let mut served = 0;
    for (source, pending) in storms {
        served += all_served(&pending.storm()?).with_context(|| source.to_owned())?;
    }
    Ok(format!(
        "{served} connections, 0 refused or reset; the first daemon drained and ended"
    ))
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    for source in SOURCES {
        mesh.pod(source).app.calm("takeover")?;
    }
    mesh.pod("web").app.close("kept")?;
    everyone_is_served(mesh)
}
