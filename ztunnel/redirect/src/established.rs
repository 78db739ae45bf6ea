//! Connections of a namespace, as the kernel lists them: those older than enrolment are not in
//! the mesh and have to be told.
//!
//! Pure but for the reading.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// One end here, one end there.
pub(crate) type Connection = (SocketAddr, SocketAddr);

const ESTABLISHED: &str = "01";

/// Reads the connections of the calling thread's namespace.
pub(crate) fn read() -> io::Result<Vec<Connection>> {
    let mut table = fs::read_to_string("/proc/thread-self/net/tcp")?;
    match fs::read_to_string("/proc/thread-self/net/tcp6") {
        Ok(ipv6) => table.push_str(&ipv6),
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(leaving_the_pod(table.lines().filter_map(parse).collect()))
}

/// Leaves out what stays inside: loopback, and both legs of a connection looped to the daemon.
fn leaving_the_pod(all: Vec<Connection>) -> Vec<Connection> {
    let known: HashSet<Connection> = all.iter().copied().collect();
    all.into_iter()
        .filter(|&(local, remote)| !local.ip().is_loopback() && !known.contains(&(remote, local)))
        .collect()
}

fn parse(line: &str) -> Option<Connection> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    if fields.next()? != ESTABLISHED {
        return None;
    }
    Some((parse_end(local)?, parse_end(remote)?))
}

fn parse_end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each word is printed as a number, so its bytes are the address in memory order.
    let word = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, octets) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *octets = word(ip.get(index * 8..index * 8 + 8)?)?;
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_families_and_only_established_ones() {
        let line =
            |local, remote, state| format!("   0: {local} {remote} {state} 00000000:00000000");
        let established = line("0100A8C0:1F90", "0200A8C0:C350", "01");
        assert_eq!(
            parse(&established),
            Some((
                "192.168.0.1:8080".parse().unwrap(),
                "192.168.0.2:50000".parse().unwrap()
            ))
        );
        let mapped = "0000000000000000FFFF00000100A8C0:0050";
        let ipv6 = "B80D0120000000000000000001000000:0050";
        assert_eq!(
            parse(&line(mapped, ipv6, "01")),
            Some((
                "192.168.0.1:80".parse().unwrap(),
                "[2001:db8::1]:80".parse().unwrap()
            ))
        );
        assert_eq!(parse(&line("0100A8C0:1F90", "00000000:0000", "0A")), None);
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
    }

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
