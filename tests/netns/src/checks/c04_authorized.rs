//! Check 4: A policy that allows only `web`'s service account: another pod is refused, `web` is not; the
//! access log names policy, rule and both identities; editing the file changes the verdict within
//! a second, also for connections that are open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{End, Mesh, Replica};

use crate::observe::{
    A_SECOND, everyone_is_served, refused, refused_within_a_second, served_within_a_second, without,
};

const POLICY: &str = "cart-only-one";
const SERVERS: [&str; 2] = ["cart-a", "cart-b"];

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    mesh.manifests.allow_only(POLICY, "cart", &["web"])?;
    let mut slowest = Duration::ZERO;
    for server in SERVERS {
        let to = mesh.address_of(server, ports::TELL);
        slowest = slowest.max(refused_within_a_second(&mesh.pod("other").app, to)?);
    }
    other_is_refused_whole(mesh)?;
    the_log_tells_why(mesh)?;
    let cut = an_edit_reaches_open_connections(mesh)?;
    Ok(format!(
        "only web admitted, 0 bytes reached cart; refused after {} ms, open ones cut after {} ms",
        slowest.as_millis(),
        cut.as_millis()
    ))
}

fn other_is_refused_whole(mesh: &Mesh) -> Result<()> {
    let (web, other) = (mesh.pod("web"), mesh.pod("other"));
    for server in SERVERS {
        let app = &mesh.pod(server).app;
        let before = app.bytes_from(ports::TELL, other.net.v4)?;
        let to = mesh.address_of(server, ports::TELL);
        for _ in 0..5 {
            refused(&other.app, to)?;
            web.app
                .ask(to, "may I")
                .with_context(|| format!("web calls {server}"))?;
        }
        let reached = app.bytes_from(ports::TELL, other.net.v4)? - before;
        ensure!(
            reached == 0,
            "{reached} bytes of refused connections reached {server}"
        );
    }
    refused(&other.app, mesh.cart(80)).map(drop)
}

/// The policy allows, so what refuses is that no rule of it matched: the log names all of it.
fn the_log_tells_why(mesh: &Mesh) -> Result<()> {
    let words = [
        &format!("shop/{POLICY}")[..],
        "rule",
        "spiffe://cluster.local/ns/shop/sa/other",
        "spiffe://cluster.local/ns/shop/sa/cart",
    ];
    for (node, server) in [(Replica::A, "cart-a"), (Replica::B, "cart-b")] {
        let lines = mesh.log_lines(node, &words)?;
        let told = mesh.log_lines(node, &["sa/other", server])?;
        ensure!(
            lines.iter().any(|line| line.contains(server)),
            "no line of node {} names {words:?}; it says {told:#?}",
            node.name()
        );
    }
    Ok(())
}

fn an_edit_reaches_open_connections(mesh: &Mesh) -> Result<Duration> {
    let (web, other) = (&mesh.pod("web").app, &mesh.pod("other").app);
    for server in SERVERS {
        web.open(server, mesh.address_of(server, ports::TELL))?;
        web.exchange(server, "I am in")?;
    }
    let edited = Instant::now();
    mesh.manifests.allow_only(POLICY, "cart", &["other"])?;
    let mut slowest = Duration::ZERO;
    for server in SERVERS {
        let end = web
            .read_to_end(server)
            .with_context(|| format!("web's connection to {server}"))?;
        slowest = slowest.max(edited.elapsed());
        ensure!(
            end.end == End::Reset,
            "web's open connection to {server} ended by {:?}",
            end.end
        );
        web.close(server)?;
    }
    ensure!(
        slowest <= A_SECOND,
        "open connections were cut only after {slowest:?}"
    );
    for server in SERVERS {
        let to = mesh.address_of(server, ports::TELL);
        served_within_a_second(other, to)?;
        refused(web, to)?;
    }
    Ok(slowest)
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    without(mesh.manifests.remove_policy(POLICY));
    SERVERS
        .iter()
        .try_for_each(|server| mesh.pod("web").app.close(server))?;
    everyone_is_served(mesh)
}
