//! Check 5: PERMISSIVE lets `old-client` in, in clear; STRICT refuses it; a port can differ.

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Capture, Mesh};

use crate::observe::{
    everyone_is_served, refused, refused_within_a_second, served_within_a_second, without,
};

const NAME: &str = "cart";
const WORDS: &str = "old-words-in-clear";

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    let old = mesh.pod("old-client");
    let web = &mesh.pod("web").app;
    let told = mesh.address_of("cart-b", ports::TELL);
    let greeted = mesh.address_of("cart-b", ports::GREET);

    mesh.manifests
        .peer_authentication(NAME, "cart", "PERMISSIVE", &[])?;
    let capture = Capture::start(mesh.fabric())?;
    let answer = old
        .app
        .ask(told, WORDS)
        .context("PERMISSIVE admits old-client")?;
    ensure!(
        answer.told.peer.ip() == old.net.v4,
        "cart-b saw {}",
        answer.told.peer
    );
    let captured = capture.stop()?;
    ensure!(
        !captured.carrying(WORDS).is_empty(),
        "old-client's words were not seen in clear"
    );

    mesh.manifests
        .peer_authentication(NAME, "cart", "STRICT", &[])?;
    let strict = refused_within_a_second(&old.app, told).context("STRICT")?;
    refused(&old.app, greeted)?;
    let cart = &mesh.pod("cart-b").app;
    let before = cart.bytes_from(ports::TELL, old.net.v4)?;
    refused(&old.app, told)?;
    let reached = cart.bytes_from(ports::TELL, old.net.v4)? - before;
    ensure!(
        reached == 0,
        "{reached} bytes in clear reached cart-b under STRICT"
    );
    web.ask(told, "I have a certificate")
        .context("STRICT admits web")?;

    mesh.manifests
        .peer_authentication(NAME, "cart", "STRICT", &[(ports::TELL, "PERMISSIVE")])?;
    served_within_a_second(&old.app, told).context("the port that is PERMISSIVE")?;
    refused(&old.app, greeted).context("the ports that stay STRICT")?;
    Ok(format!(
        "clear admitted, refused {} ms after STRICT, one port open",
        strict.as_millis()
    ))
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    without(mesh.manifests.remove_peer_authentication(NAME));
    everyone_is_served(mesh)
}
