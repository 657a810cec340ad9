//! Addresses at which members are reached.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::ENDPOINT_BYTES_MAX;

/// An address `host:port`, kept as the text its owner wrote.
///
/// The host is an IPv4 address, a DNS name or an IPv6 address in brackets; the port is 1 to 65535.
/// The text is what a member signs, so it is never rewritten. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    text: Arc<str>,
    port: u16,
}

/// Text that should have been an endpoint and is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "an endpoint is HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:4000 or [::1]:4000: {reason}"
)]
pub struct EndpointError {
    reason: &'static str,
}

impl Endpoint {
    /// The text as its owner wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |reason| Err(EndpointError { reason });
        if text.len() > ENDPOINT_BYTES_MAX {
            return fail("it is too long");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return fail("there is no ':'");
        };
        if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
            return fail("the port is not a number");
        }
        let Ok(port @ 1..) = port.parse::<u16>() else {
            return fail("the port is out of range");
        };
        if !is_host(host) {
            return fail(
                "the host is neither an IPv4 address, a DNS name nor an IPv6 address in brackets",
            );
        }
        Ok(Self { text: text.into(), port })
    }
}

/// Whether `host` is something a resolver could be asked for.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let looks_numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_numeric {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    // Labels of letters, digits, '-' and, as found in the wild, '_'.
    host.split('.').all(|label| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind_are_taken_as_written() {
        for (text, host, port) in [
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("localhost:65535", "localhost", 65535),
            ("node-1.example.org:1", "node-1.example.org", 1),
            ("my_host:4000", "my_host", 4000),
            ("[::1]:4000", "::1", 4000),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.as_str(), endpoint.host(), endpoint.port()), (text, host, port));
        }
    }

    #[test]
    fn what_nobody_could_connect_to_is_refused() {
        for bad in [
            "",
            ":",
            "80",
            ":80",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+80",
            "host:8o",
            "1.2.3:80",
            "1.2.3.256:80",
            "::1:80",
            "[::1:80",
            "[zz]:80",
            "a b:80",
            "a\n:80",
            "-a:80",
            "a..b:80",
            "TcpEndPoint: 1.2.3.4:80",
            &format!("{}:80", "a".repeat(64)),
            &format!("{}:80", "abc.".repeat(100)),
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }
}
