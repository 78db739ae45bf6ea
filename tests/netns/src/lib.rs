//! The scenario: what the mesh promises, checked by looking at it from outside.
//!
//! One file per check, each reading like the promise it checks. A check judges by a packet
//! capture, by what an application saw, by an exit status, a log line or a metric, and says what
//! it saw. [`sabotage`] breaks one promise at a time, to show that its check notices.

pub mod checks;
pub mod observe;
pub mod sabotage;

use std::time::Instant;

use anyhow::Result;
use harness::Mesh;

pub use checks::{ALL, Check};

/// What became of one check.
#[derive(Debug)]
pub struct Row {
    pub number: u8,
    pub title: &'static str,
    /// What was seen, or why it does not hold.
    pub outcome: Result<String>,
    pub seconds: f32,
}

/// Runs one check and undoes what it did to the mesh, whatever its outcome.
///
/// A mesh that cannot be restored would make the next check lie, so that is a failure too.
pub fn run(check: &Check, mesh: &mut Mesh) -> Row {
    let start = Instant::now();
    let outcome = (check.run)(mesh);
    let restored = (check.restore)(mesh);
    let outcome = outcome.and_then(|seen| restored.map(|()| seen));
    let Check { number, title, .. } = *check;
    Row {
        number,
        title,
        outcome,
        seconds: start.elapsed().as_secs_f32(),
    }
}

/// How an error begins that is the scenario's own fault, not a promise's.
pub const MISHAP: &str = "the mesh could not be broken and mended";

/// Runs the checks in order; with a number given, its promise is broken while it is checked.
pub fn run_all(mesh: &mut Mesh, broken: Option<u8>, mut report: impl FnMut(&Row)) -> Vec<Row> {
    let mut rows = Vec::new();
    for check in &ALL {
        let row = if broken == Some(check.number) {
            run_broken(check, mesh)
        } else {
            run(check, mesh)
        };
        report(&row);
        rows.push(row);
    }
    rows
}

/// Runs a check while its promise is broken: it has to fail.
pub fn run_broken(check: &Check, mesh: &mut Mesh) -> Row {
    let sabotage = sabotage::of(check.number);
    let start = Instant::now();
    let done = (sabotage.commit)(mesh);
    let outcome = (check.run)(mesh);
    let undone = (sabotage.undo)(mesh).and_then(|()| (check.restore)(mesh));
    // Neither may hide behind the check's own failure, which is what is asked for.
    let outcome = match done.and(undone) {
        Ok(()) => outcome,
        Err(error) => Err(error.context(MISHAP)),
    };
    let Check { number, title, .. } = *check;
    Row {
        number,
        title,
        outcome,
        seconds: start.elapsed().as_secs_f32(),
    }
}
