//! A plain TCP relay: the price of a hop without any mesh, which the bench compares with.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const BUFFER: usize = 64 * 1024;
const DIAL: Duration = Duration::from_secs(5);

/// Relays every connection to a first address on to the second of its pair, until it is killed.
pub(crate) fn run(routes: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut serving = JoinSet::new();
        for pair in routes.chunks(2) {
            let [listen, to] = pair else {
                anyhow::bail!("addresses come in pairs")
            };
            let to = to.parse()?;
            let listener = TcpListener::bind(listen)
                .await
                .with_context(|| format!("listen on {listen}"))?;
            serving.spawn(serve(listener, to));
        }
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    })
}

/// Relays what the listener accepts.
pub(crate) async fn serve(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted?;
                connections.spawn(relay(client, to));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut server = timeout(DIAL, TcpStream::connect(to)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
