//! Hosts behind one public address: each host's share of the range is forwarded to it, with the same port inside and outside.

use super::net::Family;
use super::render;
use super::rules::{Place, Rule};
use crate::services::need::Direction;
use policy::ports::PortRange;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

/// A host and what is forwarded to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Its address behind the router.
    pub address: Ipv4Addr,
    /// Its share.
    pub share: PortRange,
    /// What it needs, with its share as the range.
    pub rules: Vec<Rule>,
}

/// Why no grid service stands behind address translation.
pub const NO_SERVERS: &str = "grid services cannot stand behind network address translation: their certificates name the host that clients \
    must reach, and job contacts and GridFTP answers carry the inner address; give the server an address of its own, or use --role client";

/// A file for `nft -f`, for the router.
pub fn nft(outside: Ipv4Addr, hosts: &[Inside], place: &Place, command: &str) -> String {
    let all: Vec<_> = hosts.iter().map(|host| host.address.to_string()).collect();
    let all = all.join(", ");
    let mut text = format!(
        "#!/usr/sbin/nft -f\n# Written by: {command}\n# To stand on the router that has {outside}. Loading it again changes nothing.\n\
         # IPv4 only: IPv6 needs no translation.\n\ntable ip pilotage_nat\ndelete table ip pilotage_nat\n\ntable ip pilotage_nat {{\n    \
         chain prerouting {{\n        type nat hook prerouting priority dstnat; policy accept;\n"
    );
    for Inside { address, share, .. } in hosts {
        let _ = writeln!(
            text,
            "        # the share of {address}: the same port inside and outside\n        ip daddr {outside} tcp dport {share} dnat to {address}"
        );
    }
    let _ = write!(
        text,
        "    }}\n    chain postrouting {{\n        type nat hook postrouting priority srcnat; policy accept;\n        \
         ip saddr {{ {all} }} ip daddr != {{ {all} }} snat to {outside}\n    }}\n    chain forward {{\n        \
         type filter hook forward priority filter; policy drop;\n        ct state established,related accept\n        \
         meta l4proto icmp accept\n"
    );
    for Inside { address, rules, .. } in hosts {
        let here = Place { hosts: vec![IpAddr::V4(*address)], ..place.clone() };
        for rule in rules {
            text.push('\n');
            rule.reasons().for_each(|why| text.push_str(&format!("        # {why}\n")));
            render::nft_lines(rule, &here).for_each(|line| text.push_str(&format!("        {line}\n")));
        }
    }
    text.push_str("    }\n}\n");
    text
}

/// A file for `iptables-restore`, for the router.
pub fn iptables(outside: Ipv4Addr, hosts: &[Inside], place: &Place, command: &str) -> String {
    let mut text = format!(
        "# Written by: {command}\n# To stand on the router that has {outside}. The tables nat and filter are replaced.\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
    );
    for Inside { address, share, .. } in hosts {
        let (low, high) = (share.low(), share.high());
        let _ = writeln!(
            text,
            "# the share of {address}: the same port inside and outside\n\
             -A PREROUTING -d {outside} -p tcp -m tcp --dport {low}:{high} -j DNAT --to-destination {address}"
        );
    }
    for inside in hosts {
        for neighbour in hosts {
            let (from, to) = (inside.address, neighbour.address);
            let _ = writeln!(text, "-A POSTROUTING -s {from} -d {to} -j RETURN");
        }
        let _ = writeln!(text, "-A POSTROUTING -s {} -j SNAT --to-source {outside}", inside.address);
    }
    text.push_str("COMMIT\n");
    let mut filter = String::from(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -p icmp -j ACCEPT\n",
    );
    for Inside { address, rules, .. } in hosts {
        let here = Place { hosts: vec![IpAddr::V4(*address)], ..place.clone() };
        for rule in rules {
            filter.push_str(&render::iptables_lines(rule, &here, Family::V4, "FORWARD"));
        }
    }
    text + &filter + "COMMIT\n"
}

/// In words.
pub fn text(outside: Ipv4Addr, hosts: &[Inside], command: &str) -> String {
    let mut text = format!("# Written by: {command}\n");
    for Inside { address, share, rules } in hosts {
        let _ = writeln!(text, "\nforward tcp {outside} ports {share} to {address}, the same ports");
        for rule in rules.iter().filter(|rule| rule.direction == Direction::Out) {
            let (low, high) = rule.ports;
            let _ =
                writeln!(text, "let {} pass from {address} to outside, ports {low}-{high}", rule.protocol);
        }
    }
    text
}
