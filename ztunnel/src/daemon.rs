//! The daemon's only wiring: builds the hops from the application outwards, owns every task, and
//! takes them down in reverse.

mod servers;
mod takeover;

use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use lifecycle::{Readiness, Shutdown};
use telemetry::{Telemetry, log::Log};
use tokio::{
    runtime::Runtime,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};
use xds::client::Client;

use self::takeover::{Predecessor, Requests};
use crate::{
    config::Config,
    control::{
        Controller, Identities, Issuer,
        reports::{Reporter, Reports},
    },
    enrol::{Enroller, ROUND},
    node::{Node, Stage},
    worker::Workers,
};

/// Why the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Told to by a signal.
    Signal,
    /// A successor serves the pods now.
    Succeeded,
}

/// The control plane's runtime: one thread, apart from the workers.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs an epoll descriptor and nothing else")
}

/// Everything the daemon keeps running beside its workers.
struct Control {
    node: Arc<Node>,
    workers: Workers,
    stage: watch::Sender<Stage>,
    xds: xds::client::Handle,
    reports: Reports,
    tasks: JoinSet<()>,
}

/// Runs the daemon until it is told to end, or a successor has taken over.
pub(crate) async fn run(config: Config, log: Log) -> anyhow::Result<()> {
    info!(?config, "starting");
    let mut shutdown = Shutdown::listen().context("cannot listen for signals")?;
    let readiness = Readiness::new();
    let (configured, enrolled) = (readiness.task("configuration"), readiness.task("pods"));
    let (mut control, reporter) = start(&config)?;

    let mut predecessor = Predecessor::find(&config.enrol_socket)?;
    tokio::select! {
        () = control.xds.ready() => configured.done(),
        () = shutdown.requested() => return Ok(()),
    }
    let mut redirect = redirect::Redirect::load(config.redirect.clone())
        .context("cannot steer pods' connections")?;
    if let Some(lines) = redirect.take_logs() {
        control.tasks.spawn(async move {
            if let Err(error) = lines.run().await {
                warn!(%error, "the kernel programs' log has ended");
            }
        });
    }
    let crew = control.workers.crew.clone();
    let mut enroller = Enroller::new(
        redirect,
        control.node.clone(),
        crew,
        control.reports.clone(),
    );
    enroller.restore();
    predecessor.release()?;
    control.tasks.spawn(reporter.run());
    let servers = servers::start(&config, &control.node, &control.xds, &readiness, &log).await?;
    let mut requests = Requests::listen(&config.enrol_socket)?;
    enrolled.done();
    info!("serving");

    let end = serve(&mut shutdown, &mut enroller, &mut requests).await;
    servers.stop().await;
    if end == End::Succeeded {
        requests.released().await;
    }
    drop(requests);
    enroller.close();
    info!(?end, deadline = ?config.drain_deadline, "draining");
    drain(&config, shutdown, control).await;
    Ok(())
}

fn start(config: &Config) -> anyhow::Result<(Control, Reporter)> {
    let controller = Controller::new(config.control.clone())?;
    let telemetry = Telemetry::new();
    telemetry
        .metrics()
        .build("ztunnel", env!("CARGO_PKG_VERSION"));
    let mut tasks = JoinSet::new();

    let index = Arc::new(ArcSwap::default());
    let (client, xds) = Client::new(controller.node(), index.clone());
    let (dialled, credentials) = (controller.clone(), controller.clone());
    tasks.spawn(async move {
        let connect = move || {
            let dialled = dialled.clone();
            async move { dialled.connect().await }
        };
        match client.run(connect, move || credentials.credentials()).await {}
    });
    let issuer = Issuer::new(&controller);
    let (identities, keeper) = Identities::new(
        issuer,
        identity::Config::default(),
        identity::Clock::system(),
    );
    tasks.spawn(keeper.run());

    let (stage, stages) = watch::channel(Stage::Running);
    let node = Node::new(
        config.data.clone(),
        identities,
        telemetry,
        index,
        xds.clone(),
        stages,
    );
    let workers = Workers::start(config.workers, &node).context("cannot start worker threads")?;
    let (reports, reporter) = Reports::new(controller);
    Ok((
        Control {
            node,
            workers,
            stage,
            xds,
            reports,
            tasks,
        },
        reporter,
    ))
}

async fn serve(shutdown: &mut Shutdown, enroller: &mut Enroller, requests: &mut Requests) -> End {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => return End::Signal,
            _ = round.tick() => enroller.round(),
            received = requests.next() => {
                if requests.answer(received, enroller).await.is_released() {
                    return End::Succeeded;
                }
            }
        }
    }
}

/// Lets open connections end by themselves until the deadline; a second signal ends them at once.
async fn drain(config: &Config, mut shutdown: Shutdown, control: Control) {
    let Control {
        workers,
        stage,
        node,
        mut tasks,
        ..
    } = control;
    stage.send_replace(Stage::Draining);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    tokio::pin!(ended);
    tokio::select! {
        _ = &mut ended => {}
        () = tokio::time::sleep(config.drain_deadline) => {
            warn!("cutting the connections that are still open at the drain deadline");
        }
        () = shutdown.requested() => warn!("cutting all connections: told to end a second time"),
    }
    stage.send_replace(Stage::Cut);
    if !ended.is_finished() && (&mut ended).await.is_err() {
        warn!("the workers did not end in order");
    }
    drop(node);
    tasks.shutdown().await;
}
