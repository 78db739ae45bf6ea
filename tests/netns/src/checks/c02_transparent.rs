//! Check 2: `cart` sees `web`'s own address, `web` sees the address it dialled; half-close,
//! server-first, a 1 GiB transfer with checksum and resets in both directions behave as without
//! the mesh, which two pods outside of it show.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::mesh::{Pod, ports};
use harness::{App, End, Mesh, wait};

const GIB: u64 = 1 << 30;

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    sees_true_addresses(mesh)?;
    server_first(mesh)?;
    let direct = behaviour(mesh.pod("old-client"), mesh.pod("old-server"))
        .context("between pods outside the mesh")?;
    for server in ["cart-b", "cart-a"] {
        let meshed = behaviour(mesh.pod("web"), mesh.pod(server))
            .with_context(|| format!("between web and {server}"))?;
        ensure!(
            meshed == direct,
            "{server} behaves as {meshed:#?}, without the mesh {direct:#?}"
        );
    }
    let sent = mesh
        .pod("web")
        .app
        .upload(mesh.cart(81), GIB)
        .context("web uploads 1 GiB")?;
    ensure!(
        sent.answer == format!("{GIB} {}", sent.sha256),
        "1 GiB arrived as {}",
        sent.answer
    );
    let rate = GIB as f64 / 1e3 / sent.millis as f64;
    Ok(format!(
        "own addresses, resets, half-close as direct; 1 GiB whole at {rate:.0} MB/s"
    ))
}

fn sees_true_addresses(mesh: &Mesh) -> Result<()> {
    let web = mesh.pod("web");
    for dialled in [
        mesh.cart(80),
        mesh.cart_v6(80),
        mesh.address_of("cart-a", ports::TELL),
    ] {
        let answer = web.app.ask(dialled, "who am I")?;
        let told = &answer.told;
        ensure!(
            answer.peer == dialled,
            "web dialled {dialled} and sees {}",
            answer.peer
        );
        let own = if dialled.is_ipv4() {
            web.net.v4
        } else {
            web.net.v6
        };
        ensure!(
            told.peer.ip() == own,
            "{} sees {}, not web at {own}",
            told.name,
            told.peer
        );
        let server = &mesh.pod(&told.name).net;
        let here = if dialled.is_ipv4() {
            server.v4
        } else {
            server.v6
        };
        let reached = SocketAddr::new(here, ports::TELL);
        ensure!(
            told.local == reached,
            "{} was reached at {}",
            told.name,
            told.local
        );
    }
    Ok(())
}

fn server_first(mesh: &Mesh) -> Result<()> {
    let web = &mesh.pod("web").app;
    web.open("greeter", mesh.greeter())?;
    let greeting = web
        .read_line("greeter")
        .context("the server that speaks first")?;
    ensure!(
        greeting.contains("greeter"),
        "the greeter said {greeting:?}"
    );
    web.close("greeter")
}

/// What either end of a connection sees of the other's ways to end it.
#[derive(Debug, PartialEq)]
struct Behaviour {
    /// The client ends its direction; the answer still comes, then the server's own end.
    half_close: (String, End, End),
    /// The server ends first and goes on reading.
    server_half_close: (End, u64),
    reset_by_server: End,
    reset_by_client: End,
    end_by_client: End,
}

fn behaviour(client: &Pod, server: &Pod) -> Result<Behaviour> {
    let at = |port| SocketAddr::new(server.net.v4, port);
    let app = &client.app;
    app.open("half", at(ports::SINK))?;
    app.send("half", "a request of 24 letters.")?;
    app.end_write("half")?;
    let answer = app.read_to_end("half")?;
    app.close("half")?;
    let half_close = (answer.data, answer.end, last_end(server, ports::SINK)?);

    app.open("reset", at(ports::RESET))?;
    app.send("reset", "reset me")?;
    let reset_by_server = app.read_to_end("reset")?.end;
    app.close("reset")?;

    open_and_exchange(app, "abort", at(ports::TELL))?;
    app.abort("abort")?;
    let reset_by_client = last_end(server, ports::TELL)?;

    open_and_exchange(app, "end", at(ports::TELL))?;
    app.close("end")?;
    let end_by_client = last_end(server, ports::TELL)?;

    Ok(Behaviour {
        half_close,
        server_half_close: server_half_close(client, server)?,
        reset_by_server,
        reset_by_client,
        end_by_client,
    })
}

fn server_half_close(client: &Pod, server: &Pod) -> Result<(End, u64)> {
    let app = &client.app;
    app.open("source", SocketAddr::new(server.net.v4, ports::SOURCE))?;
    let end = app.read_to_end("source")?.end;
    app.send("source", "still here")?;
    app.close("source")?;
    last_end(server, ports::SOURCE)?;
    let seen = server.app.seen(ports::SOURCE)?;
    Ok((
        end,
        seen.last().context("the server saw the connection")?.bytes,
    ))
}

fn open_and_exchange(app: &App, name: &str, to: SocketAddr) -> Result<()> {
    app.open(name, to)?;
    app.exchange(name, "hello").map(drop)
}

/// How the last connection ended for the server.
fn last_end(server: &Pod, port: u16) -> Result<End> {
    let what = format!(
        "{} to see the end of the connection on port {port}",
        server.spec.name
    );
    let ask = || {
        let seen = server.app.seen(port)?;
        let last = seen.last().context("the server saw the connection")?;
        Ok((last.end != End::Open).then_some(last.end))
    };
    wait::until(&what, Duration::from_secs(5), ask).map(|(end, _)| end)
}
