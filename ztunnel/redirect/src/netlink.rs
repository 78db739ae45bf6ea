//! Just enough netlink to add a rule and a route and to list addresses and connections.
//!
//! Synchronous, and always about the calling thread's namespace. Knows nothing of pods.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

const RTM_NEWROUTE: u16 = 24;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWRULE: u16 = 32;

const RTN_LOCAL: u8 = 2;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const FR_ACT_TO_TBL: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Whether a request changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    New,
    WasThere,
}

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceAddress {
    pub(crate) device: u32,
    pub(crate) ip: IpAddr,
}

/// A rule that sends marked packets to a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkRule {
    pub(crate) priority: u32,
    pub(crate) mark: u32,
    pub(crate) mask: u32,
    pub(crate) table: u32,
}

pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// For rules, routes and addresses.
    pub(crate) fn routing() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For connections.
    pub(crate) fn diagnostics() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkSockDiag)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        Ok(Self { socket })
    }

    /// Adds `rule` for the family of `of`.
    pub(crate) fn add_rule(&self, of: IpAddr, rule: MarkRule) -> io::Result<Added> {
        let mut message = Message::new(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        // struct fib_rule_hdr
        message.bytes(&[family(of), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        message.attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes());
        message.attribute(FRA_FWMARK, &rule.mark.to_ne_bytes());
        message.attribute(FRA_FWMASK, &rule.mask.to_ne_bytes());
        message.attribute(FRA_TABLE, &rule.table.to_ne_bytes());
        self.add(message)
    }

    /// Adds `local default dev lo table TABLE src SOURCE`.
    pub(crate) fn add_local_default(&self, source: IpAddr, table: u32) -> io::Result<Added> {
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        // struct rtmsg
        message.bytes(&[
            family(source),
            0,
            0,
            0,
            0,
            RTPROT_STATIC,
            RT_SCOPE_HOST,
            RTN_LOCAL,
        ]);
        message.bytes(&[0; 4]);
        message.attribute(RTA_TABLE, &table.to_ne_bytes());
        message.attribute(RTA_OIF, &1u32.to_ne_bytes());
        match source {
            IpAddr::V4(ip) => message.attribute(RTA_PREFSRC, &ip.octets()),
            IpAddr::V6(ip) => message.attribute(RTA_PREFSRC, &ip.octets()),
        }
        self.add(message)
    }

    /// Lists addresses of global scope.
    pub(crate) fn global_addresses(&self) -> io::Result<Vec<DeviceAddress>> {
        let mut message = Message::new(RTM_GETADDR, NLM_F_DUMP);
        // struct ifaddrmsg
        message.bytes(&[0; 8]);
        self.dump(message, RTM_NEWADDR, parse_address)
    }

    /// Lists established TCP connections of one family, as (local, remote).
    ///
    /// One pass over the kernel's table; `/proc/net/tcp` takes one for each read, 3 ms on a
    /// machine with much memory.
    pub(crate) fn established(&self, of: IpAddr) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
        let mut message = Message::new(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
        // struct inet_diag_req_v2: the states asked for, and any ends
        message.bytes(&[family(of), libc::IPPROTO_TCP as u8, 0, 0]);
        message.bytes(&(1u32 << TCP_ESTABLISHED).to_ne_bytes());
        message.bytes(&[0; 48]);
        self.dump(message, SOCK_DIAG_BY_FAMILY, parse_connection)
    }

    fn dump<T>(
        &self,
        request: Message,
        wanted: u16,
        parse: fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.send(request)?;
        let mut found = Vec::new();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(parse_error(body)),
                    kind if kind == wanted => found.extend(parse(body)),
                    _ => {}
                }
            }
        }
    }

    fn add(&self, message: Message) -> io::Result<Added> {
        self.send(message)?;
        let mut buffer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let (_, body) = messages(&buffer[..length])
            .find(|(kind, _)| *kind == NLMSG_ERROR)
            .ok_or(io::ErrorKind::InvalidData)?;
        let answer = parse_error(body);
        match answer.raw_os_error() {
            Some(0) => Ok(Added::New),
            Some(libc::EEXIST) => Ok(Added::WasThere),
            _ => Err(answer),
        }
    }

    fn send(&self, message: Message) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(
            self.socket.as_raw_fd(),
            &message.finish(),
            &kernel,
            MsgFlags::empty(),
        )?;
        Ok(())
    }
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes(&(value.len() as u16 + 4).to_ne_bytes());
        self.bytes(&kind.to_ne_bytes());
        self.bytes(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Splits what was received into kinds and bodies; stops at what is malformed.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The error of an acknowledgement, which is code 0 when all is well.
fn parse_error(body: &[u8]) -> io::Error {
    match body.first_chunk() {
        Some(code) => io::Error::from_raw_os_error(-i32::from_ne_bytes(*code)),
        None => io::ErrorKind::InvalidData.into(),
    }
}

fn parse_address(body: &[u8]) -> Option<DeviceAddress> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    let scope = *body.get(3)?;
    let device = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    if scope != 0 {
        return None;
    }
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = parse_ip(value),
            IFA_ADDRESS => address = parse_ip(value),
            _ => {}
        }
    }
    // On a point-to-point device the other is the peer's.
    Some(DeviceAddress {
        device,
        ip: local.or(address)?,
    })
}

fn parse_connection(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    // struct inet_diag_msg: family, three bytes, then ports and addresses in network order
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let length = match i32::from(*body.first()?) {
        libc::AF_INET => 4,
        _ => 16,
    };
    let ip = |at: usize| Some(parse_ip(body.get(at..at + length)?)?.to_canonical());
    Some((
        SocketAddr::new(ip(8)?, port(4)?),
        SocketAddr::new(ip(24)?, port(6)?),
    ))
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(value).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_answers_end_the_iteration() {
        assert_eq!(messages(&[1, 0, 0]).count(), 0);
        assert_eq!(messages(&[255; 16]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(parse_address(&[0; 6]), None);
    }

    #[test]
    fn reads_both_ends_of_a_connection() {
        let mut body = vec![libc::AF_INET as u8, 1, 0, 0, 0x1f, 0x90, 0xc3, 0x50];
        body.extend([192, 168, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend([192, 168, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let ends = ("192.168.0.1:8080", "192.168.0.2:50000");
        let ends = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
        assert_eq!(parse_connection(&body), Some(ends));
        assert_eq!(parse_connection(&body[..20]), None);
    }

    #[test]
    fn prefers_the_local_end_of_a_point_to_point_device() {
        let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 7, 0, 0, 0];
        for (kind, last) in [(IFA_ADDRESS, 2u8), (IFA_LOCAL, 1)] {
            body.extend([8, 0, kind as u8, 0, 10, 0, 0, last]);
        }
        let address = parse_address(&body).unwrap();
        assert_eq!(address.ip, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(address.device, 7);
    }
}
