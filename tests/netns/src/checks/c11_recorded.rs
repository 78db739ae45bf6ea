//! Check 11: Metrics and the access log of both nodes tell the same story: connections opened, closed
//! and refused, bytes in the direction the metric means, identities, labels.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::metrics::Metrics;
use harness::{Mesh, Replica, wait};

use crate::observe::{everyone_is_served, refused, refused_within_a_second, without};

const POLICY: &str = "cart-without-other";
/// Accounts are settled a moment after the fact.
const A_WHILE: Duration = Duration::from_secs(5);
const TRANSFERS: u32 = 10;
const BYTES: u64 = 100_000;
const REFUSALS: u32 = 5;
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const NODES: [(Replica, &str); 2] = [(Replica::A, "source"), (Replica::B, "destination")];

/// What one node counted of `web`'s connections to `cart-b`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counted {
    opened: f64,
    closed: f64,
    /// From the client to the server, which is what the metric calls received.
    received: f64,
    sent: f64,
}

pub(super) fn run(mesh: &mut Mesh) -> Result<String> {
    // A connection of an earlier check may still be closing.
    let quiet = || Ok(Some(counted(mesh)?).filter(|now| now.iter().all(Counted::is_settled)));
    let (before, _) = wait::until("earlier connections to be closed", A_WHILE, quiet)?;
    let logged_before = logged(mesh)?;
    let to = mesh.address_of("cart-b", ports::SINK);
    let mut answered = 0;
    for _ in 0..TRANSFERS {
        let sent = mesh.pod("web").app.upload(to, BYTES)?;
        answered += sent.answer.len() as u64 + 1;
    }
    let requested = u64::from(TRANSFERS) * BYTES;
    let truth = Counted {
        opened: f64::from(TRANSFERS),
        closed: f64::from(TRANSFERS),
        received: requested as f64,
        sent: answered as f64,
    };
    let told = || {
        let now = counted(mesh)?;
        let delta = [now[0].since(before[0]), now[1].since(before[1])];
        ensure!(
            delta.iter().all(|one| *one == truth),
            "the truth is {truth:?}; source and destination counted {delta:#?}"
        );
        Ok(Some(()))
    };
    wait::until("both nodes' metrics to tell what happened", A_WHILE, told)?;
    the_logs_agree(mesh, logged_before, requested, answered)?;
    refusals_are_counted(mesh)?;
    Ok(format!(
        "{TRANSFERS} connections, {requested} bytes there, {answered} back, {REFUSALS} refusals: \
         all four accounts agree"
    ))
}

impl Counted {
    fn of(metrics: &Metrics, reporter: &str) -> Self {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "web"),
            ("source_workload_namespace", "shop"),
            ("source_principal", WEB),
            ("destination_workload", "cart-b"),
            ("destination_principal", CART),
            ("connection_security_policy", "mutual_tls"),
            ("request_protocol", "tcp"),
        ];
        let sum = |name: &str| metrics.sum(&format!("istio_tcp_{name}_total"), &labels);
        Self {
            opened: sum("connections_opened"),
            closed: sum("connections_closed"),
            received: sum("received_bytes"),
            sent: sum("sent_bytes"),
        }
    }

    fn is_settled(&self) -> bool {
        self.opened == self.closed
    }

    fn since(self, before: Self) -> Self {
        Self {
            opened: self.opened - before.opened,
            closed: self.closed - before.closed,
            received: self.received - before.received,
            sent: self.sent - before.sent,
        }
    }
}

fn counted(mesh: &Mesh) -> Result<[Counted; 2]> {
    let of =
        |(node, reporter)| -> Result<Counted> { Ok(Counted::of(&mesh.metrics(node)?, reporter)) };
    let [source, destination] = NODES.map(of);
    Ok([source?, destination?])
}

/// Bytes sent and received that each node's log tells of `web`'s closed connections to `cart-b`,
/// from the view of that node's own pod, and how many lines tell it.
fn logged(mesh: &Mesh) -> Result<[(u64, u64, usize); 2]> {
    let of = |node| -> Result<(u64, u64, usize)> {
        let lines = mesh.log_lines(node, &["connection complete", WEB, CART, "cart-b"])?;
        let sum = |field| {
            lines
                .iter()
                .filter_map(|line| number(line, field))
                .sum::<u64>()
        };
        Ok((sum("bytes_sent"), sum("bytes_recv"), lines.len()))
    };
    Ok([of(Replica::A)?, of(Replica::B)?])
}

fn number(line: &str, field: &str) -> Option<u64> {
    let after = line.split_once(&format!("{field}="))?.1;
    let digits = after.trim_start_matches('"');
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn the_logs_agree(
    mesh: &Mesh,
    before: [(u64, u64, usize); 2],
    requested: u64,
    answered: u64,
) -> Result<()> {
    let lines = usize::try_from(TRANSFERS)?;
    let truth = [(requested, answered, lines), (answered, requested, lines)];
    let told = || {
        let now = logged(mesh)?;
        let delta = [0, 1].map(|node: usize| {
            let (then, now) = (before[node], now[node]);
            (now.0 - then.0, now.1 - then.1, now.2 - then.2)
        });
        ensure!(
            delta == truth,
            "(sent, received, lines) are {truth:?}; the logs say {delta:?}"
        );
        Ok(Some(()))
    };
    wait::until("both nodes' logs to tell what happened", A_WHILE, told).map(drop)
}

fn refusals_are_counted(mesh: &Mesh) -> Result<()> {
    let failed = || -> Result<f64> {
        let labels = [
            ("reporter", "destination"),
            ("source_workload", "other"),
            ("destination_workload", "cart-b"),
        ];
        Ok(mesh
            .metrics(Replica::B)?
            .sum("istio_tcp_connections_failed_total", &labels))
    };
    let to = mesh.address_of("cart-b", ports::TELL);
    mesh.manifests.allow_only(POLICY, "cart", &["web"])?;
    let other = &mesh.pod("other").app;
    refused_within_a_second(other, to)?;
    let before = failed()?;
    let logged = mesh.log_lines(Replica::B, &[POLICY, "sa/other"])?.len();
    for _ in 0..REFUSALS {
        refused(other, to)?;
    }
    wait::until("the refusals to be counted", A_WHILE, || {
        let counted = failed()? - before;
        ensure!(
            counted == f64::from(REFUSALS),
            "{REFUSALS} were refused, {counted} counted"
        );
        let lines = mesh.log_lines(Replica::B, &[POLICY, "sa/other"])?.len() - logged;
        ensure!(
            lines == usize::try_from(REFUSALS)?,
            "{REFUSALS} were refused, {lines} logged"
        );
        Ok(Some(()))
    })
    .context("refusals")?;
    Ok(())
}

pub(super) fn restore(mesh: &mut Mesh) -> Result<()> {
    without(mesh.manifests.remove_policy(POLICY));
    everyone_is_served(mesh)
}
