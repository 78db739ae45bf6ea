//! Breaks one promise at a time, from outside the product: a check that does not notice checks
//! nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::Mesh;
use harness::Replica;
use harness::manifests::Ready;
use harness::mesh::ports;
use harness::protocol::Mode;
use nix::sys::signal::Signal;

/// What is done to the mesh before a check, and undone after it.
pub struct Sabotage {
    pub commit: fn(&mut Mesh) -> Result<()>,
    pub undo: fn(&mut Mesh) -> Result<()>,
}

/// The sabotage of a check.
#[must_use]
pub fn of(check: u8) -> Sabotage {
    match check {
        1 => Sabotage {
            commit: a_replica_leaves_the_mesh,
            undo: the_replica_returns,
        },
        2 => Sabotage {
            commit: a_relay_hides_clients,
            undo: the_relay_goes,
        },
        3 => Sabotage {
            commit: a_replica_is_not_ready,
            undo: the_replica_is_ready,
        },
        4 => Sabotage {
            commit: the_controller_freezes,
            undo: the_controller_thaws,
        },
        5 => Sabotage {
            commit: the_old_client_is_enrolled,
            undo: the_old_client_is_let_go,
        },
        6 => Sabotage {
            commit: late_is_published_too_early,
            undo: late_is_published_no_more,
        },
        7 => Sabotage {
            commit: pins_are_removed,
            undo: node_a_starts_anew,
        },
        8 => Sabotage {
            commit: the_predecessor_cannot_be_found,
            undo: node_a_starts_anew,
        },
        9 => Sabotage {
            commit: the_cluster_is_renamed,
            undo: the_cluster_is_itself,
        },
        10 => Sabotage {
            commit: certificates_live_long,
            undo: certificates_live_short,
        },
        11 => Sabotage {
            commit: node_b_does_not_log,
            undo: node_b_logs,
        },
        _ => panic!("there is no check {check}"),
    }
}

/// What is said to it is said in clear.
fn a_replica_leaves_the_mesh(mesh: &mut Mesh) -> Result<()> {
    mesh.unenrol("cart-b")?;
    mesh.await_protocol("cart-b", "TCP")
}

fn the_replica_returns(mesh: &mut Mesh) -> Result<()> {
    mesh.enrol("cart-b")?;
    mesh.await_protocol("cart-b", "HBONE")
}

const BEHIND: u16 = 18080;

/// The application moves behind a relay of its own pod, and so sees only that.
fn a_relay_hides_clients(mesh: &mut Mesh) -> Result<()> {
    for cart in ["cart-a", "cart-b"] {
        let app = &mesh.pod(cart).app;
        app.stop_serving(ports::TELL)?;
        app.serve(BEHIND, Mode::Tell)?;
        app.relay(ports::TELL, BEHIND)?;
    }
    Ok(())
}

fn the_relay_goes(mesh: &mut Mesh) -> Result<()> {
    for cart in ["cart-a", "cart-b"] {
        let app = &mesh.pod(cart).app;
        app.stop_serving(ports::TELL)?;
        app.stop_serving(BEHIND)?;
        app.serve(ports::TELL, Mode::Tell)?;
    }
    Ok(())
}

fn a_replica_is_not_ready(mesh: &mut Mesh) -> Result<()> {
    mesh.write_pod("cart-b", Ready::No, &[])?;
    mesh.await_workload("cart-b", "status", "Unhealthy")
}

fn the_replica_is_ready(mesh: &mut Mesh) -> Result<()> {
    mesh.write_pod("cart-b", Ready::Yes, &[])?;
    mesh.await_workload("cart-b", "status", "Healthy")
}

fn the_controller_freezes(mesh: &mut Mesh) -> Result<()> {
    mesh.signal_controller(Signal::SIGSTOP)
}

fn the_controller_thaws(mesh: &mut Mesh) -> Result<()> {
    mesh.signal_controller(Signal::SIGCONT)
}

/// It then has an identity to show, and is neither in clear nor refused.
fn the_old_client_is_enrolled(mesh: &mut Mesh) -> Result<()> {
    mesh.enrol("old-client")
}

fn the_old_client_is_let_go(mesh: &mut Mesh) -> Result<()> {
    mesh.unenrol("old-client")
}

/// Everyone is told to use a tunnel that nobody serves yet: the order of enrolment, turned round.
fn late_is_published_too_early(mesh: &mut Mesh) -> Result<()> {
    mesh.write_pod(
        "late",
        Ready::Yes,
        &["ambient.istio.io/redirection: enabled"],
    )?;
    mesh.await_protocol("late", "HBONE")
}

fn late_is_published_no_more(mesh: &mut Mesh) -> Result<()> {
    mesh.write_pod("late", Ready::Yes, &[])?;
    // The check may have ended before it enrolled the pod.
    mesh.unenrol("late").ok();
    mesh.await_protocol("late", "TCP")
}

/// Without pins the hooks die with the daemon that holds them.
fn pins_are_removed(mesh: &mut Mesh) -> Result<()> {
    let folder = mesh.pin_folder(Replica::A);
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))
}

fn node_a_starts_anew(mesh: &mut Mesh) -> Result<()> {
    if let Ok(daemon) = mesh.take_ztunnel(Replica::A) {
        daemon.kill()?;
    }
    mesh.start_ztunnel(Replica::A).map(drop)
}

/// The successor then believes to be the first.
fn the_predecessor_cannot_be_found(mesh: &mut Mesh) -> Result<()> {
    std::fs::remove_file(mesh.enrol_socket(Replica::A)).context("remove the enrolment socket")
}

fn the_cluster_is_renamed(mesh: &mut Mesh) -> Result<()> {
    mesh.options.controller_flags = vec!["--cluster-id".to_owned(), "Renamed".to_owned()];
    Ok(())
}

fn the_cluster_is_itself(mesh: &mut Mesh) -> Result<()> {
    mesh.options.controller_flags.clear();
    mesh.stop_controller()?;
    mesh.start_controller()?;
    mesh.await_published()
}

fn certificates_live_long(mesh: &mut Mesh) -> Result<()> {
    all_start_anew(mesh, Duration::from_secs(3600))
}

fn certificates_live_short(mesh: &mut Mesh) -> Result<()> {
    all_start_anew(mesh, Duration::from_secs(20))
}

fn all_start_anew(mesh: &mut Mesh, ttl: Duration) -> Result<()> {
    mesh.options.certificate_ttl = ttl;
    mesh.stop_controller()?;
    mesh.start_controller()?;
    for node in Replica::BOTH {
        mesh.stop_ztunnel(node)?;
        mesh.start_ztunnel(node)?;
    }
    crate::observe::everyone_is_served(mesh)
}

fn node_b_does_not_log(mesh: &mut Mesh) -> Result<()> {
    node_b_logs_from(mesh, "error")
}

fn node_b_logs(mesh: &mut Mesh) -> Result<()> {
    node_b_logs_from(mesh, "info")
}

fn node_b_logs_from(mesh: &mut Mesh, filter: &'static str) -> Result<()> {
    mesh.stop_ztunnel(Replica::B)?;
    mesh.options.ztunnel.log = filter;
    mesh.start_ztunnel(Replica::B)?;
    crate::observe::everyone_is_served(mesh)
}
