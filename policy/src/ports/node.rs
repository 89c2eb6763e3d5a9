//! What else on a node takes ports: the kernel's own ephemeral ports and whoever listens. Text of `/proc` in, values out.

use super::PortRange;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the kernel takes ports for sockets that name none.
pub const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Ports that it leaves out of that range.
pub const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A socket that waits for connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Uid of the account that opened it.
    pub uid: u32,
    /// The socket's inode, by which its process can be found.
    pub inode: u64,
}

/// The first stretch of `range` that the kernel may hand to sockets that ask for any port: within the text of
/// [`LOCAL_RANGE`] and not in the list of [`RESERVED`].
pub fn taken_by_the_kernel(range: PortRange, local: &str, reserved: &str) -> Option<PortRange> {
    let mut ends = local.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let (low, high) = (ends.next()?, ends.next()?);
    let reserved: Vec<(u16, u16)> = reserved.trim().split(',').filter_map(stretch).collect();
    let free = |port: &u16| {
        (low..=high).contains(port) && !reserved.iter().any(|(from, to)| (from..=to).contains(&port))
    };
    let first = (range.low()..=range.high()).find(free)?;
    let last = (first..=range.high()).take_while(free).last()?;
    PortRange::new(first, last)
}

fn stretch(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
}

/// The listeners in a table of sockets of `proc_net(5)`: `tcp`, `tcp6`, `udp` or `udp6`. Lines that cannot be read are passed over.
pub fn listeners(protocol: &'static str, table: &str) -> Vec<Listener> {
    // TCP_LISTEN, and TCP_CLOSE as UDP sockets have it that are not connected.
    let waiting = if protocol == "tcp" { "0A" } else { "07" };
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (local, state) = (words.nth(1)?, words.nth(1)?);
        let (uid, inode) = (words.nth(3)?.parse().ok()?, words.nth(1)?.parse().ok()?);
        let (address, port) = local.split_once(':')?;
        let (address, port) = (address_of(address)?, u16::from_str_radix(port, 16).ok()?);
        (state == waiting).then_some(Listener { protocol, address, port, uid, inode })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Words of 32 bits in the host's byte order, each in hexadecimal.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(words.iter().flatten()).for_each(|(to, from)| *to = *from);
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_ports_are_a_conflict_unless_they_are_reserved() {
        let range = PortRange::parse("40000-40099").unwrap();
        let taken = |local, reserved| taken_by_the_kernel(range, local, reserved).map(|r| r.to_string());
        assert_eq!(taken("32768\t60999\n", "\n").as_deref(), Some("40000-40099"));
        assert_eq!(taken("32768\t60999\n", "40000-40099\n"), None);
        assert_eq!(taken("32768\t60999\n", "22,40000-40049,40060\n").as_deref(), Some("40050-40059"));
        assert_eq!(taken("32768\t39999\n", "\n"), None);
        assert_eq!(taken("40099\t60999\n", "\n").as_deref(), Some("40099-40099"));
        assert_eq!(taken("", ""), None);
    }

    #[test]
    fn listeners_are_read_from_tables_of_sockets() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let tcp = "   0: 0100007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 777 1 0\n   \
                   1: 0100007F:9C41 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 778 1 0\nbroken\n";
        let found = listeners("tcp", &format!("{head}{tcp}"));
        let one = Listener {
            protocol: "tcp",
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 40000,
            uid: 1000,
            inode: 777,
        };
        assert_eq!(found, [one]);
        let udp6 = "   0: 00000000000000000000000001000000:9C40 00000000000000000000000000000000:0000 07 0:0 0:0 0 65534 0 5 2\n";
        let found = listeners("udp", &format!("{head}{udp6}"));
        assert_eq!((found[0].address, found[0].uid), (IpAddr::V6(Ipv6Addr::LOCALHOST), 65_534));
    }
}
