//! Ambit's node daemon: mutual TLS, identity and L4 policy for the pods of one node.

mod admin;
mod config;
mod control;
mod daemon;
mod enrol;
mod inbound;
mod node;
mod outbound;
mod pod;
mod record;
mod relay;
mod worker;

use std::process::ExitCode;

use config::Config;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        Err(faults) => return faults.report(),
    };
    let log = match telemetry::log::init(&config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("ztunnel: --log {error}");
            return ExitCode::from(64);
        }
    };
    match daemon::runtime().block_on(daemon::run(config, log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
