//! Connections of a namespace, as the kernel lists them: those older than enrolment are not in
//! the mesh and have to be told.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::netlink::Netlink;

/// One end here, one end there.
pub(crate) type Connection = (SocketAddr, SocketAddr);

/// Reads the connections of the calling thread's namespace.
pub(crate) fn read() -> io::Result<Vec<Connection>> {
    let netlink = Netlink::diagnostics()?;
    let mut all = netlink.established(Ipv4Addr::UNSPECIFIED.into())?;
    match netlink.established(Ipv6Addr::UNSPECIFIED.into()) {
        Ok(ipv6) => all.extend(ipv6),
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(leaving_the_pod(all))
}

/// Leaves out what stays inside: loopback, and both legs of a connection looped to the daemon.
fn leaving_the_pod(all: Vec<Connection>) -> Vec<Connection> {
    let known: HashSet<Connection> = all.iter().copied().collect();
    all.into_iter()
        .filter(|&(local, remote)| !local.ip().is_loopback() && !known.contains(&(remote, local)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_loops_and_loopback() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        let kept = (end("10.0.0.1:4000"), end("10.0.0.2:80"));
        let looped = (end("10.0.0.1:4001"), end("10.0.0.2:80"));
        let all = vec![
            kept,
            looped,
            (looped.1, looped.0),
            (end("127.0.0.1:1"), end("127.0.0.1:2")),
        ];
        assert_eq!(leaving_the_pod(all), vec![kept]);
    }
}
