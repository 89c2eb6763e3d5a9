//! Where a server listens: `HOST:PORT`, where the host may be a name.

use std::fmt;
use std::str::FromStr;

/// A checked `HOST:PORT`. Names are looked up when the server binds, not before: a configuration stays valid while the
/// name service is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to listen on; write HOST:PORT, such as localhost:8443, 0.0.0.0:8443 or [::]:8443"
)]
pub struct BadAddress(String);

impl Address {
    /// The host as written, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 asks for a free one.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.chars().take(100).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        // `u16` would also take a plus sign.
        let port = Some(port).filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
        let port = port.and_then(|p| p.parse().ok()).ok_or_else(bad)?;
        let bare = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok().then_some(v6),
            None => is_name(host).then_some(host),
        };
        Ok(Self { host: bare.ok_or_else(bad)?.to_owned(), port })
    }
}

/// A host name or an IPv4 address: what a resolver can be asked for without surprises.
fn is_name(host: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(good)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_addresses() {
        for good in ["localhost:8443", "0.0.0.0:0", "[::]:8443", "[::1]:65535", "queue-1.example.org:443"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn everything_else_is_refused_with_an_example() {
        for bad in [
            "",
            "8443",
            ":8443",
            "localhost",
            "localhost:",
            "::1:8443",
            "a b:1",
            "h:65536",
            "h:+1",
            "[x]:1",
            "https://h:1",
        ] {
            let error = bad.parse::<Address>().expect_err(bad).to_string();
            assert!(error.contains("localhost:8443"), "{error}");
        }
    }
}
