//! Check 6: A pod is enrolled and un-enrolled while its connections are open and 50 new ones a second
//! are made each way: none breaks, none fails, new ones follow the new state, and connections
//! older than enrolment are listed by `ambit pods`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Capture, Captured, Mesh, Replica, wait};

use crate::observe::{all_served, none, storm, watch_for};

const RATE: u32 = 50;
const LONGEST: Duration = Duration::from_secs(60);
const WATCHED: Duration = Duration::from_millis(1500);
const OPEN: [(&str, &str); 2] = [("late", "out"), ("web", "in")];

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let (late, web) = (&mesh.pod("late").app, &mesh.pod("web").app);
    let carts = ["cart-a", "cart-b"].map(|name| mesh.address_of(name, ports::TELL));
    let home = mesh.address_of("late", ports::TELL);
    let old = late.open("out", carts[1])?;
    web.open("in", home)?;
    let leaving = late.storm(storm("leaving", carts.to_vec(), RATE, LONGEST))?;
    let coming = web.storm(storm("coming", vec![home], RATE, LONGEST))?;

    let clear = watched(mesh)?;
    ensure!(
        begun_in_clear(mesh, &clear) > 0,
        "late's connections are in clear before enrolment"
    );
    mesh.enrol("late")?;
    mesh.await_protocol("late", "HBONE")?;
    let captured = watched(mesh)?;
    none(
        "connections of late in clear",
        &captured.begun_in_clear_by(mesh.pod("late").net.v4),
    )?;
    still_open(mesh).context("connections older than enrolment")?;
    let listed = mesh.ambit(Replica::A, "pods", &[])?;
    let local = old.local.to_string();
    ensure!(
        listed.contains(&local),
        "ambit pods does not list {local}:\n{listed}"
    );
    late.open("tunnelled-out", carts[1])?;
    web.open("tunnelled-in", home)?;

    mesh.unenrol("late")?;
    mesh.await_protocol("late", "TCP")?;
    let captured = watched(mesh)?;
    ensure!(
        begun_in_clear(mesh, &captured) > 0,
        "late's new connections do not go direct again"
    );
    still_open(mesh).context("connections older than enrolment, after un-enrolment")?;
    late.exchange("tunnelled-out", "still")
        .context("a tunnelled connection of late")?;
    web.exchange("tunnelled-in", "still")
        .context("a tunnelled connection to late")?;

    late.calm("leaving")?;
    web.calm("coming")?;
    let left = all_served(&leaving.storm()?).context("new connections of late")?;
    let came = all_served(&coming.storm()?).context("new connections to late")?;
    Ok(format!(
        "{left} from and {came} to the pod, 0 failed; 4 open ones lived on"
    ))
}

fn watched(mesh: &Mesh) -> Result<Captured> {
    let capture = Capture::start(mesh.fabric())?;
    watch_for(WATCHED);
    capture.stop()
}

fn begun_in_clear(mesh: &Mesh, captured: &Captured) -> usize {
    captured.begun_in_clear_by(mesh.pod("late").net.v4).len()
}

fn still_open(mesh: &Mesh) -> Result<()> {
    for (pod, name) in OPEN {
        mesh.pod(pod)
            .app
            .exchange(name, "still")
            .with_context(|| format!("{pod}: {name}"))?;
    }
    Ok(())
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    for (pod, name) in OPEN {
        let app = &mesh.pod(pod).app;
        app.close(name)?;
        app.close(&format!("tunnelled-{name}"))?;
    }
    for (pod, name) in [("late", "leaving"), ("web", "coming")] {
        mesh.pod(pod).app.calm(name)?;
    }
    // It fails where the check has un-enrolled it already.
    mesh.unenrol("late").ok();
    mesh.await_protocol("late", "TCP")?;
    wait::until("late to be let go", Duration::from_secs(30), || {
        Ok((!mesh.ambit(Replica::A, "pods", &[])?.contains("late")).then_some(()))
    })?;
    Ok(())
}
