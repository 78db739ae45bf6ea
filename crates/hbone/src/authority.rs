//! The `:authority` of a CONNECT request: where the other end is asked to connect.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// Why a string names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No `:port`, or not a port.
    #[error("{0:?} does not end with a port between 1 and 65535")]
    Port(String),
    /// The host is empty, holds a character no host name has, or is an address in a wrong form.
    #[error("the host of {0:?} is neither an address (IPv6 in brackets) nor a host name")]
    Host(String),
}

/// A target: `ip:port` (IPv6 in brackets) or `hostname:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    Address(SocketAddr),
    Host { host: Arc<str>, port: u16 },
}

impl Authority {
    /// The port asked for.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A scope id would not be an authority, so the address is written without it.
            Self::Address(SocketAddr::V6(address)) => {
                write!(out, "[{}]:{}", address.ip(), address.port())
            }
            Self::Address(SocketAddr::V4(address)) => write!(out, "{address}"),
            Self::Host { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(value: &str) -> Result<Self, AuthorityError> {
        let no_port = || AuthorityError::Port(value.to_owned());
        let (host, digits) = value.rsplit_once(':').ok_or_else(no_port)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(no_port());
        }
        let port: u16 = digits.parse().map_err(|_| no_port())?;
        if port == 0 {
            return Err(no_port());
        }
        let no_host = || AuthorityError::Host(value.to_owned());
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(no_host)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| no_host())?;
            return Ok(Self::Address(SocketAddr::new(IpAddr::V6(ip), port)));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return match ip {
                IpAddr::V4(_) => Ok(Self::Address(SocketAddr::new(ip, port))),
                IpAddr::V6(_) => Err(no_host()),
            };
        }
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_name {
            return Err(no_host());
        }
        Ok(Self::Host {
            host: host.into(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn round_trips(value: &str) {
        let parsed: Authority = value.parse().expect(value);
        assert_eq!(parsed.to_string(), value);
    }

    #[track_caller]
    fn refuses(value: &str) {
        assert!(value.parse::<Authority>().is_err(), "{value}");
    }

    #[test]
    fn reads_and_writes_every_form() {
        round_trips("10.0.0.1:80");
        round_trips("[fd00::1]:8080");
        round_trips("cart.shop.svc.cluster.local:443");
    }

    #[test]
    fn refuses_what_names_no_target() {
        for value in [
            "",
            ":",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:+80",
            "fd00::1:80",
            "[fd00::1]",
            "[fd00::1:80",
            "[10.0.0.1]:80",
            ":80",
            "a b:80",
            "u@h:80",
            "[fe80::1%eth0]:80",
        ] {
            refuses(value);
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(value in ".{0,64}") {
            if let Ok(parsed) = value.parse::<Authority>() {
                prop_assert_eq!(parsed.to_string().parse::<Authority>(), Ok(parsed));
            }
        }

        #[test]
        fn addresses_survive(ip: IpAddr, port in 1u16..) {
            let authority = Authority::Address(SocketAddr::new(ip, port));
            prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
        }
    }
}
