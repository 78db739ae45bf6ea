//! `ambit-controller`: runs a controller, or prints a token for a node.

use std::{path::Path, process::ExitCode, time::Duration, time::SystemTime};

use anyhow::Context;
use controller::{
    ca::token::TokenKey,
    config::{Command, Config},
    daemon::Controller,
};
use telemetry::log::{Format, LogConfig};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let outcome = match Command::load() {
        Ok(Command::Run(config)) => run(*config),
        Ok(Command::Token {
            node,
            ttl,
            data_dir,
        }) => print_token(&node, ttl, &data_dir),
        Err(faults) => return faults.report(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ambit-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let filter = config.log.clone();
    let format = Format::Plain;
    let _log = telemetry::log::init(&LogConfig { filter, format }).context("--log")?;
    tracing::info!("{config}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("no signal handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no signal handler")?;
        let controller = Controller::start(config).await?;
        let (address, admin) = (controller.address()?, controller.admin_address());
        tracing::info!(%address, %admin, "serving");
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        controller.run(shutdown).await;
        Ok(())
    })
}

fn print_token(node: &str, ttl: Duration, data_dir: &Path) -> anyhow::Result<()> {
    let key = TokenKey::load_or_create(data_dir)?;
    println!("{}", key.issue(node, ttl, SystemTime::now())?);
    Ok(())
}
