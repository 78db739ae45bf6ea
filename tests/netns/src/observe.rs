//! What several checks observe in the same way.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::app::failure;
use harness::capture::Segment;
use harness::mesh::ports;
use harness::protocol::{Storm, StormReport};
use harness::{App, Failure, FailureKind, Mesh, wait};

/// A change of configuration has this long to act.
pub const A_SECOND: Duration = Duration::from_secs(1);

/// Lets the mesh run for a while: only time can show that something does not happen.
pub fn watch_for(time: Duration) {
    std::thread::sleep(time);
}

/// Succeeds when the connection is refused as the mesh refuses: by a reset, or at connect.
pub fn refused(app: &App, to: SocketAddr) -> Result<Failure> {
    let error = match app.ask(to, "let me in") {
        Ok(answer) => bail!("{} was served by {} at {to}", app.name(), answer.told.name),
        Err(error) => error,
    };
    match failure(&error) {
        Some(one) if matches!(one.kind, FailureKind::Reset | FailureKind::Refused) => {
            Ok(one.clone())
        }
        _ => Err(error.context(format!("{} was not refused with a reset", app.name()))),
    }
}

/// Waits at most a second until the connection is refused.
pub fn refused_within_a_second(app: &App, to: SocketAddr) -> Result<Duration> {
    let what = format!("{} to be refused at {to}", app.name());
    wait::until(&what, A_SECOND, || refused(app, to).map(Some)).map(|(_, took)| took)
}

/// Waits at most a second until the connection is served.
pub fn served_within_a_second(app: &App, to: SocketAddr) -> Result<Duration> {
    let what = format!("{} to be served at {to}", app.name());
    wait::until(&what, A_SECOND, || app.ask(to, "let me in").map(Some)).map(|(_, took)| took)
}

/// Fails when there is any, showing the first few.
pub fn none(what: &str, segments: &[&Segment]) -> Result<()> {
    let shown = &segments[..segments.len().min(5)];
    ensure!(segments.is_empty(), "{} {what}: {shown:#?}", segments.len());
    Ok(())
}

/// A storm of new connections that says the same line over and over.
#[must_use]
pub fn storm(name: &str, to: Vec<SocketAddr>, per_second: u32, time: Duration) -> Storm {
    let millis = u64::try_from(time.as_millis()).expect("a test is shorter");
    Storm {
        name: name.to_owned(),
        to,
        per_second,
        millis,
        line: name.to_owned(),
    }
}

/// Fails unless every connection of the storm was served.
pub fn all_served(report: &StormReport) -> Result<u64> {
    let shown = &report.failures[..report.failures.len().min(5)];
    ensure!(
        report.failed == 0 && report.attempts > 0,
        "{} of {} new connections failed: {shown:#?}",
        report.failed,
        report.attempts
    );
    Ok(report.attempts)
}

/// Waits until every pod is served everywhere again, after a policy or a daemon came back.
pub fn everyone_is_served(mesh: &Mesh) -> Result<()> {
    for client in ["web", "other", "old-client"] {
        for server in ["cart-a", "cart-b"] {
            let to = mesh.address_of(server, ports::TELL);
            let what = format!("{client} to be served by {server} again");
            let app = &mesh.pod(client).app;
            wait::until(&what, Duration::from_secs(10), || {
                app.ask(to, "again").map(Some)
            })
            .context("the mesh was not restored")?;
        }
    }
    Ok(())
}

/// Removes a file of the manifests that may be there.
pub fn without(outcome: Result<()>) {
    // It is not there when the check failed before it wrote it.
    outcome.ok();
}
