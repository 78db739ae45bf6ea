//! Check 1: `web` calls `cart` by Service, by pod address, over IPv4 and IPv6: it works, and on the
//! wires there is TLS to port 15008 and not one packet with the payload or the application's port.

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Capture, Mesh, Replica};

use crate::observe::none;

const SECRET: &str = "this-sentence-must-not-be-seen-on-any-wire";

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let fabric = Capture::start(mesh.fabric())?;
    let node_a = Capture::start(&mesh.node(Replica::A).host.namespace)?;
    let web = &mesh.pod("web").app;
    let destinations = [
        ("cart by its Service", mesh.cart(80)),
        ("cart by its Service over IPv6", mesh.cart_v6(80)),
        (
            "cart on the other node",
            mesh.address_of("cart-b", ports::TELL),
        ),
        (
            "cart on the other node over IPv6",
            mesh.v6_address_of("cart-b", ports::TELL),
        ),
        (
            "cart on the same node",
            mesh.address_of("cart-a", ports::TELL),
        ),
        (
            "cart on the same node over IPv6",
            mesh.v6_address_of("cart-a", ports::TELL),
        ),
        ("the service that has only IPv6", mesh.six()),
    ];
    let mut calls = 0;
    for (name, to) in destinations {
        // A few, so that a Service's every endpoint gets its turn.
        for _ in 0..8 {
            let answer = web
                .ask(to, SECRET)
                .with_context(|| format!("web calls {name}"))?;
            ensure!(
                answer.told.line == SECRET,
                "{name} read {:?}",
                answer.told.line
            );
            calls += 1;
        }
    }
    let (fabric, node_a) = (fabric.stop()?, node_a.stop()?);
    for (wire, captured) in [("the fabric", &fabric), ("the wires of node a", &node_a)] {
        none(
            &format!("packets with the payload on {wire}"),
            &captured.carrying(SECRET),
        )?;
        for port in ports::ALL.into_iter().chain([80]) {
            none(
                &format!("packets of port {port} on {wire}"),
                &captured.on_port(port),
            )?;
        }
    }
    let tunnelled = fabric.tunnelled().len();
    ensure!(tunnelled > 0, "no TLS to port 15008 crossed the fabric");
    Ok(format!(
        "{calls} calls; {tunnelled} TLS segments to 15008, none in clear"
    ))
}
