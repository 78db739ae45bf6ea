//! Bulk bytes through two relays over loopback, without TLS: a place to point `perf` at.
//!
//! `cargo run --release -p hbone --example throughput -- [direct|relay|tunnel] [GiB] [connections]`
//! prints the rate and the CPU time of the threads between the applications. A relay with nothing
//! but `tokio::io::copy_bidirectional` is what the tunnel is compared with.

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hbone::{ConnectRequest, Settings, Traffic, client, relay, server::Server};
use tokio::{
    net,
    task::{JoinSet, LocalSet},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_else(|| "tunnel".into());
    let gib: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let connections: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;

    let sink = TcpListener::bind("127.0.0.1:0")?;
    let mut target = sink.local_addr()?;
    match mode.as_str() {
        "direct" => {}
        "relay" => {
            target = node(move |listener| plain(listener, target))?;
            target = node(move |listener| plain(listener, target))?;
        }
        "tunnel" => {
            let inbound = node(move |listener| server(listener, target))?;
            target = node(move |listener| outbound(listener, inbound, target))?;
        }
        other => return Err(format!("no mode {other}").into()),
    }
    let bytes = (gib << 30) / connections;
    let started = Instant::now();
    let senders: Vec<_> = (0..connections)
        .map(|_| thread::spawn(move || send(target, bytes)))
        .collect();
    let readers: Vec<_> = (0..connections)
        .map(|_| {
            sink.accept()
                .map(|(socket, _)| thread::spawn(|| drain(socket)))
        })
        .collect::<Result<_, _>>()?;
    for sender in senders {
        sender
            .join()
            .expect("a sender does not panic")
            .expect("sends");
    }
    for reader in readers {
        let heard = reader
            .join()
            .expect("a reader does not panic")
            .expect("reads");
        assert_eq!(heard, bytes);
    }
    let took = started.elapsed();
    let rate = (gib << 30) as f64 / took.as_secs_f64() / 1e9;
    println!(
        "{mode}: {rate:.2} GB/s, nodes' CPU {:.2} s/GiB",
        nodes_cpu()?.as_secs_f64() / gib as f64
    );
    Ok(())
}

fn send(target: SocketAddr, bytes: u64) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(target)?;
    let buffer = vec![7; 128 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        socket.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn drain(mut socket: TcpStream) -> std::io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(total),
            len => total += len as u64,
        }
    }
}

/// CPU time of the threads called `node`, from proc(5): fields 14 and 15 in ticks of 10 ms.
fn nodes_cpu() -> Outcome<Duration> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        if let Some((name, fields)) = stat.rsplit_once(") ")
            && name.ends_with("(node")
        {
            let fields: Vec<_> = fields.split(' ').collect();
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// A thread with a runtime of its own, like a daemon's worker; it ends with the process.
fn node<F, R>(serve: F) -> Outcome<SocketAddr>
where
    F: FnOnce(net::TcpListener) -> R + Send + 'static,
    R: Future<Output = std::io::Result<()>>,
{
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("node".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async move {
            let listener = net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("bound"))
                .expect("main waits");
            serve(listener).await.expect("serves");
        });
    })?;
    Ok(told.recv()?)
}

async fn plain(listener: net::TcpListener, target: SocketAddr) -> std::io::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await?;
        let mut far = net::TcpStream::connect(target).await?;
        tasks.spawn_local(async move {
            tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 256 << 10, 256 << 10)
                .await
        });
    }
}

async fn outbound(
    listener: net::TcpListener,
    inbound: SocketAddr,
    target: SocketAddr,
) -> std::io::Result<()> {
    let socket = net::TcpStream::connect(inbound).await?;
    socket.set_nodelay(true)?;
    let (connection, driver) = client::handshake(socket, &Settings::client())
        .await
        .expect("begins");
    let mut drivers = JoinSet::new();
    drivers.spawn_local(driver);
    let mut tasks = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        let request = ConnectRequest::new(target);
        let tunnel = connection.connect(&request).await.expect("connects");
        tasks.spawn_local(async move { uncounted(tunnel, socket).await });
    }
}

async fn server(listener: net::TcpListener, target: SocketAddr) -> std::io::Result<()> {
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    let mut server = Server::handshake(socket, &Settings::server())
        .await
        .expect("begins");
    let mut tasks = JoinSet::new();
    while let Some(Ok(incoming)) = server.accept().await {
        let socket = net::TcpStream::connect(target).await?;
        let tunnel = incoming.accept(None).expect("answers");
        tasks.spawn_local(async move { uncounted(tunnel, socket).await });
    }
    Ok(())
}

async fn uncounted(tunnel: hbone::Tunnel, socket: tokio::net::TcpStream) -> hbone::RelayEnd {
    let (up, down) = Default::default();
    let traffic = Traffic {
        to_tunnel: &up,
        from_tunnel: &down,
    };
    relay(tunnel, socket, traffic).await
}
