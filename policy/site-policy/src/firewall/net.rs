//! Addresses and networks on the command line.

use identity::Malformed;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// An address, or a network with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    /// Parses `192.0.2.0/24`, `192.0.2.7`, `2001:db8::/32`.
    ///
    /// # Errors
    /// For names, for a prefix that is too long, and for bits set behind the prefix: nft and iptables would take them for
    /// different networks.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bad = |rule| Malformed::new("network", text, rule);
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr =
            address.parse().map_err(|_| bad("write an address, or address/length: 192.0.2.0/24"))?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(whole), |text| text.parse::<u8>().map_err(|_| ()));
        let prefix = prefix.ok().filter(|length| *length <= whole);
        let prefix = prefix.ok_or_else(|| bad("the length of the prefix is at most 32, for IPv6 128"))?;
        let net = Self { address, prefix };
        if net.masked() != address {
            return Err(bad("bits are set behind the prefix; write the first address of the network"));
        }
        Ok(net)
    }

    fn masked(self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        }
    }

    /// Of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether all of it is in a private, link-local or loopback network (RFC 1918, 4193, 4291).
    pub fn is_local(self) -> bool {
        match self.address {
            IpAddr::V4(a) => {
                let within = [
                    ("10.0.0.0", 8),
                    ("172.16.0.0", 12),
                    ("192.168.0.0", 16),
                    ("169.254.0.0", 16),
                    ("127.0.0.0", 8),
                ];
                within.iter().any(|(net, length)| {
                    let whole = Self::parse(&format!("{net}/{length}"));
                    let inside = Self { address: IpAddr::V4(a), prefix: *length };
                    self.prefix >= *length && whole.is_ok_and(|whole| inside.masked() == whole.address)
                })
            }
            IpAddr::V6(a) => {
                (a.is_unique_local() && self.prefix >= 7)
                    || (a.is_unicast_link_local() && self.prefix >= 10)
                    || (a.is_loopback() && self.prefix == 128)
            }
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == whole {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_told_apart() {
        for (text, local) in [
            ("192.0.2.0/24", false),
            ("10.1.0.0/16", true),
            ("10.1.2.3", true),
            ("0.0.0.0/0", false),
            ("172.16.0.0/11", false),
            ("2001:db8::/32", false),
            ("fd00::/8", true),
            ("::/0", false),
            ("::1", true),
        ] {
            let net = Net::parse(text);
            match net {
                Ok(net) => assert_eq!((net.to_string().as_str(), net.is_local()), (text, local), "{text}"),
                Err(why) => assert_eq!(text, "172.16.0.0/11", "{why}"),
            }
        }
        for bad in
            ["", "wn1.example.org", "192.0.2.0/33", "192.0.2.7/24", "::/129", "10.0.0.0/", "10.0.0.0/-1"]
        {
            assert!(Net::parse(bad).is_err(), "{bad}");
        }
    }
}
