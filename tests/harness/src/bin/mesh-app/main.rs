//! The application in a pod of a test: serves, connects and measures as told, JSON lines in and out.
//!
//! `mesh-app serve NAME` takes commands from stdin; `mesh-app relay LISTEN TO ...` is the plain TCP
//! relay the bench compares with. It knows nothing of the mesh.

mod client;
mod load;
mod relay;
mod server;
mod stream;

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use harness::protocol::{Command, Reply, Request, Response};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::{JoinSet, LocalSet};

fn main() -> Result<()> {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit)?;
    nix::sys::resource::setrlimit(limit, hard, hard)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name] => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            LocalSet::new().block_on(&runtime.enable_all().build()?, serve(name.to_owned()))
        }
        ["relay", ref routes @ ..] => relay::run(routes),
        _ => bail!("usage: mesh-app serve NAME | mesh-app relay LISTEN TO [LISTEN TO ...]"),
    }
}

/// Everything one application holds.
pub(crate) struct State {
    pub(crate) servers: server::Servers,
    pub(crate) client: client::Client,
    pub(crate) load: load::Load,
}

async fn serve(name: String) -> Result<()> {
    let state = Rc::new(State {
        servers: server::Servers::new(name),
        client: client::Client::default(),
        load: load::Load::default(),
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let request: Request = serde_json::from_str(&line).context("read a command")?;
                let state = Rc::clone(&state);
                running.spawn_local(async move {
                    let reply = obey(&state, request.command).await;
                    Response { number: request.number, reply }
                });
            }
            Some(done) = running.join_next() => {
                println!("{}", serde_json::to_string(&done?)?);
            }
        }
    }
}

async fn obey(state: &State, command: Command) -> Reply {
    let outcome = match command {
        Command::Serve { port, mode } => state.servers.serve(port, mode),
        Command::Relay { port, to } => state.servers.relay(port, to),
        Command::StopServing { port } => state.servers.stop(port).await,
        Command::Seen { port } => Ok(state.servers.seen(port)),
        Command::Open { name, to } => state.client.open(name, to).await,
        Command::Send { name, data } => state.client.send(&name, &data).await,
        Command::ReadLine { name } => state.client.read_line(&name).await,
        Command::ReadToEnd { name } => state.client.read_to_end(&name).await,
        Command::EndWrite { name } => state.client.end_write(&name),
        Command::Abort { name } => state.client.abort(&name),
        Command::Close { name } => Ok(state.client.close(&name)),
        Command::Ask { to, line } => client::ask(to, &line).await.map(Reply::Answer),
        Command::Upload { to, bytes } => client::upload(to, bytes).await,
        Command::Download { to } => client::download(to).await,
        Command::Storm(storm) => Ok(state.load.storm(storm).await),
        Command::Calm { name } => Ok(state.load.calm(&name)),
        Command::Pump {
            to,
            connections,
            millis,
        } => load::pump(to, connections, millis).await,
        Command::Requests(requests) => load::requests(requests).await,
        Command::Churn {
            to,
            parallel,
            millis,
        } => load::churn(to, parallel, millis).await,
        Command::OpenMany { name, to, count } => state.load.open_many(name, to, count).await,
        Command::CloseMany { name } => Ok(state.load.close_many(&name)),
    };
    outcome.unwrap_or_else(Reply::Failed)
}
