//! `forwarded`: the address of the client, and the name it dialled (RFC 7239).
//!
//! Said by the peer and not verified: it names flows in logs, and permits nothing.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::HeaderValue;

/// `for="ip:port"[;host=..]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The application that opened the connection.
    pub client: SocketAddr,
    /// The service it dialled.
    pub host: Option<Arc<str>>,
}

impl Forwarded {
    /// Reads the first element of the list; nothing when it names no address.
    pub fn parse(header: &str) -> Option<Self> {
        let element = header.split(',').next()?;
        let mut client = None;
        let mut host = None;
        for pair in element.split(';') {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let value = value.trim();
            let value = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or(value);
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => client = Some(value.parse().ok()?),
                "host" if is_host(value) => host = Some(value.into()),
                _ => {}
            }
        }
        client.map(|client| Self { client, host })
    }

    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

fn is_host(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-:[]*".contains(&byte))
}

impl fmt::Display for Forwarded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            SocketAddr::V4(client) => write!(out, "for=\"{client}\"")?,
            SocketAddr::V6(client) => {
                write!(out, "for=\"[{}]:{}\"", client.ip(), client.port())?;
            }
        }
        match self.host.as_deref().filter(|host| is_host(host)) {
            Some(host) => write!(out, ";host={host}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn round_trips(value: &str) {
        let parsed = Forwarded::parse(value).expect(value);
        assert_eq!(parsed.to_string(), value);
    }

    #[test]
    fn reads_and_writes_both_families() {
        round_trips("for=\"10.0.0.1:4711\"");
        round_trips("for=\"[fd00::1]:4711\";host=cart.shop.svc.cluster.local");
    }

    #[test]
    fn names_nothing_without_an_address() {
        for value in [
            "",
            "for=unknown",
            "host=a",
            "for=\"10.0.0.1\"",
            "for=_hidden;host=a",
        ] {
            assert_eq!(Forwarded::parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_settles(value in ".{0,80}", tail in "[a-z=;\",.:]{0,30}") {
            for text in [value, format!("for=\"1.2.3.4:5\";{tail}")] {
                if let Some(parsed) = Forwarded::parse(&text) {
                    prop_assert_eq!(Forwarded::parse(&parsed.to_string()), Some(parsed));
                }
            }
        }
    }
}
