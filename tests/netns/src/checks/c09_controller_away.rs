//! Check 9: The controller is stopped: traffic goes on; started again: the change made meanwhile
//! arrives, and of the rest nothing is sent again, counted in resources on the wire.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Mesh, wait};

use crate::observe::{all_served, everyone_is_served, refused, storm, watch_for, without};

const POLICY: &str = "shop-only-web";
/// Reconnecting backs off; it has to be over by then.
const ARRIVES: Duration = Duration::from_secs(30);

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let carts = vec![mesh.cart(80), mesh.address_of("cart-b", ports::TELL)];
    let away = storm("away", carts, 50, Duration::from_secs(60));
    let away = mesh.pod("web").app.storm(away)?;
    mesh.stop_controller()?;
    mesh.manifests.allow_only_in_shop(POLICY, &["web"])?;
    watch_for(Duration::from_secs(2));
    let to = mesh.address_of("cart-b", ports::TELL);
    mesh.pod("other")
        .app
        .ask(to, "nobody told")
        .context("with the controller away")?;

    mesh.start_controller()?;
    let returned = Instant::now();
    // Each node reconnects in its own time.
    for server in ["cart-a", "cart-b"] {
        let to = mesh.address_of(server, ports::TELL);
        let what = format!("the change made meanwhile to reach the node of {server}");
        let other = &mesh.pod("other").app;
        wait::until(&what, ARRIVES, || refused(other, to).map(Some))?;
    }
    let took = returned.elapsed();
    mesh.pod("web").app.calm("away")?;
    let served = all_served(&away.storm()?).context("with the controller away")?;

    // What would be sent again would have been sent by now.
    watch_for(Duration::from_secs(1));
    let metrics = mesh.controller_metrics()?;
    let sent = metrics.sum("ambit_xds_resources_sent_total", &[]);
    let removed = metrics.sum("ambit_xds_removals_sent_total", &[]);
    ensure!(
        (sent, removed) == (2.0, 0.0),
        "one policy changed for two nodes, but {sent} resources and {removed} removals were sent"
    );
    Ok(format!(
        "{served} connections meanwhile; the change came {:.1} s after the return, alone",
        took.as_secs_f32()
    ))
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    mesh.pod("web").app.calm("away")?;
    if mesh.controller_metrics().is_err() {
        mesh.start_controller()?;
    }
    without(mesh.manifests.remove_policy(POLICY));
    everyone_is_served(mesh)
}
