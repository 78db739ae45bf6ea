//! From an Ethernet frame to the TCP segment in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;

/// A TCP segment as it was on the wire.
#[derive(Clone)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// SYN without ACK: the first packet of a connection.
    pub begins: bool,
    pub payload: Vec<u8>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.payload[..self.payload.len().min(48)];
        write!(
            formatter,
            "{} -> {}{} {} bytes {:?}",
            self.source,
            self.destination,
            if self.begins { " SYN" } else { "" },
            self.payload.len(),
            String::from_utf8_lossy(start)
        )
    }
}

impl Segment {
    /// The segment in a frame, unless the frame holds something else or is cut short.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        match u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?) {
            IPV4 => Self::parse_v4(packet),
            IPV6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
        if *packet.get(9)? != TCP {
            return None;
        }
        let from = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
        let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
        // Total length is zero in frames too large for the field; padding only pads short ones.
        let end = if total == 0 { packet.len() } else { total };
        Self::parse_tcp(packet.get(header..end)?, from.into(), to.into())
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        if *packet.get(6)? != TCP {
            return None;
        }
        let from = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
        let to = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
        Self::parse_tcp(packet.get(40..)?, from.into(), to.into())
    }

    fn parse_tcp(segment: &[u8], from: IpAddr, to: IpAddr) -> Option<Self> {
        let port = |at: usize| {
            Some(u16::from_be_bytes(
                segment.get(at..at + 2)?.try_into().ok()?,
            ))
        };
        let offset = usize::from(segment.get(12)? >> 4) * 4;
        let flags = *segment.get(13)?;
        Some(Self {
            source: SocketAddr::new(from, port(0)?),
            destination: SocketAddr::new(to, port(2)?),
            begins: flags & 0x12 == 0x02,
            payload: segment.get(offset..)?.to_vec(),
        })
    }

    /// Whether the payload begins with a TLS record: handshake or application data.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.payload[..], [0x16 | 0x17, 0x03, ..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x9c, 0x40, 0x3a, 0xa0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags]);
        frame.extend([0; 6]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_segment_tells_both_ends_and_its_payload() {
        let mut bytes = frame(0x18, &[0x17, 0x03, 0x03, 0, 1]);
        bytes.extend([0; 7]); // Ethernet padding.
        let segment = Segment::parse(&bytes).unwrap();
        assert_eq!(segment.source, "10.0.0.1:40000".parse().unwrap());
        assert_eq!(segment.destination, "10.0.0.2:15008".parse().unwrap());
        assert_eq!(segment.payload, [0x17, 0x03, 0x03, 0, 1]);
        assert!(segment.is_tls() && !segment.begins);
    }

    #[test]
    fn only_a_first_syn_begins_a_connection() {
        assert!(Segment::parse(&frame(0x02, b"")).unwrap().begins);
        assert!(!Segment::parse(&frame(0x12, b"")).unwrap().begins);
    }

    #[test]
    fn a_frame_cut_anywhere_is_no_segment_and_no_panic() {
        let whole = frame(0x18, b"payload");
        for length in 0..whole.len() {
            assert!(Segment::parse(&whole[..length]).is_none());
        }
    }
}
