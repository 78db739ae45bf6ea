//! `cargo xtask bench`: no mesh, a plain TCP relay over the same hops, and Ambit, side by side.
//!
//! Every round measures every line over every way in random order, so that what the machine does
//! meanwhile hits all alike; what compares is the ratio within a round.

mod measure;
mod memory;
mod report;
mod ways;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Mesh, MeshOptions};
use rand::seq::SliceRandom;

use crate::{interrupt::Interrupt, privilege, run, setup};
use measure::{Line, Sample};
use ways::{Way, Ways};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds each measurement takes
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Where the result is kept
    #[arg(long)]
    output: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "release")]
    profile: run::Profile,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    privilege::ensure()?;
    setup::ensure(setup::Need::Ebpf)?;
    setup::ensure(setup::Need::Mesh)?;
    let binaries = run::build_mesh(arguments.profile)?;
    let mut options = MeshOptions::new("bench", binaries);
    // Nothing but the traffic is measured: certificates outlive the run, no line is logged for
    // each connection, as neither direct nor the relay does that.
    options.certificate_ttl = Duration::from_secs(24 * 3600);
    options.ztunnel.log = "warn";
    let _interrupt = Interrupt::catch()?;
    let mut mesh = Mesh::start(options)?;
    let outcome = measure_all(&mut mesh, arguments);
    let report = outcome.map_err(|error| error.context(mesh.diagnosis()))?;
    drop(mesh);
    report.print();
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None => run::target().join("bench.json"),
    };
    let text = serde_json::to_string_pretty(&report)?;
    std::fs::write(&output, text).with_context(|| format!("write {}", output.display()))?;
    println!("\nkept in {}", output.display());
    Ok(())
}

fn measure_all(mesh: &mut Mesh, arguments: &Arguments) -> Result<report::Report> {
    // Memory first: the daemons have carried nothing yet.
    println!("==> memory");
    let memory = memory::measure(mesh)?;
    let ways = Ways::start(mesh)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut samples: Vec<Sample> = Vec::new();
    for round in 0..arguments.rounds {
        println!("==> round {} of {}", round + 1, arguments.rounds);
        let mut order: Vec<(Line, Way)> = Line::ALL
            .into_iter()
            .flat_map(|line| Way::ALL.map(|way| (line, way)))
            .collect();
        order.shuffle(&mut rand::rng());
        for (line, way) in order {
            let sample = measure::measure(mesh, &ways, line, way, round, time)
                .with_context(|| format!("{line:?} over {way:?}"))?;
            samples.push(sample);
        }
    }
    Ok(report::Report::of(samples, memory))
}
