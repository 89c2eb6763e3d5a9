//! Openings as elements of sets: what a packet filter looks up. Pure.
//!
//! Openings add up, and may say the same thing twice or in part. Elements of one set may not overlap, so they are made
//! disjoint here, for each destination by itself: a change of one job never touches the elements of another.

use crate::openings::{Opening, Proto};
use crate::ports::Ports;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What an element lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// ICMP, or ICMPv6 for an IPv6 destination.
    Icmp,
    /// Every protocol.
    All,
    /// Ports from the first to the last.
    Ports(Transport, u16, u16),
}

/// One element of one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Element {
    /// Destination.
    pub to: IpAddr,
    /// Where the packet may come from; anywhere when there is none.
    pub from: Option<IpNet>,
    /// What it may be.
    pub what: What,
}

/// Sources: anywhere comes before every network.
type Sources = BTreeSet<Option<IpNet>>;

/// Ranges of ports by their source, as they come.
type Ranges = BTreeMap<Option<IpNet>, Vec<(u16, u16)>>;

#[derive(Default)]
struct Destination {
    icmp: Sources,
    all: Sources,
    ports: BTreeMap<Transport, Ranges>,
}

/// The elements that stand for these openings together.
pub fn elements<'a>(openings: impl IntoIterator<Item = &'a Opening>) -> BTreeSet<Element> {
    let mut destinations: BTreeMap<IpAddr, Destination> = BTreeMap::new();
    for opening in openings {
        for to in opening.addr() {
            let destination = destinations.entry(*to).or_default();
            sources(opening, to).for_each(|from| destination.add(opening, from));
        }
    }
    destinations.into_iter().flat_map(|(to, destination)| destination.elements(to)).collect()
}

/// The sources that a destination can have packets from: those of its own family.
fn sources<'a>(opening: &'a Opening, to: &'a IpAddr) -> impl Iterator<Item = Option<IpNet>> + 'a {
    let anywhere = opening.sources().is_empty().then_some(None);
    let same_family = opening.sources().iter().filter(|net| net.addr().is_ipv4() == to.is_ipv4());
    anywhere.into_iter().chain(same_family.map(|net| (net.prefix_len() > 0).then_some(*net)))
}

impl Destination {
    fn add(&mut self, opening: &Opening, from: Option<IpNet>) {
        self.icmp.insert(from);
        let transports: &[Transport] = match opening.proto() {
            Proto::All => {
                self.all.insert(from);
                &[]
            }
            Proto::Tcp => &[Transport::Tcp],
            Proto::Udp => &[Transport::Udp],
            Proto::TcpUdp => &[Transport::Tcp, Transport::Udp],
        };
        for transport in transports {
            let ranges = self.ports.entry(*transport).or_default().entry(from).or_default();
            ranges.extend(opening.ports().ranges());
        }
    }

    fn elements(self, to: IpAddr) -> Vec<Element> {
        let widest = |all: Sources, what| widest(all).into_iter().map(move |from| Element { to, from, what });
        let mut found: Vec<Element> = widest(self.icmp, What::Icmp).collect();
        found.extend(widest(self.all, What::All));
        for (transport, by_source) in self.ports {
            let by_source: BTreeMap<_, _> =
                by_source.into_iter().map(|(from, ranges)| (from, Ports::merged(ranges))).collect();
            for (from, ports) in &by_source {
                let wider = by_source.iter().filter(|(other, _)| *other != from && covers(other, from));
                let left = wider.fold(ports.clone(), |left, (_, theirs)| left.without(theirs));
                let element = |(low, high): &(u16, u16)| Element {
                    to,
                    from: *from,
                    what: What::Ports(transport, *low, *high),
                };
                found.extend(left.ranges().iter().map(element));
            }
        }
        found
    }
}

fn widest(all: Sources) -> Sources {
    let narrow = |one: &Option<IpNet>| all.iter().any(|other| other != one && covers(other, one));
    all.iter().filter(|one| !narrow(one)).copied().collect()
}

fn covers(wide: &Option<IpNet>, narrow: &Option<IpNet>) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide.contains(narrow),
    }
}

/// What has to be added and taken away to come from one state to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// New elements.
    pub add: Vec<Element>,
    /// Elements that go.
    pub remove: Vec<Element>,
}

impl Change {
    /// The difference of two states.
    pub fn between(before: &BTreeSet<Element>, after: &BTreeSet<Element>) -> Self {
        Self {
            add: after.difference(before).copied().collect(),
            remove: before.difference(after).copied().collect(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// The destinations that lose something.
    pub fn losers(&self) -> BTreeSet<IpAddr> {
        self.remove.iter().map(|element| element.to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(values: &[Value]) -> BTreeSet<Element> {
        let openings: Vec<_> = values.iter().map(|v| Opening::from_json(v).unwrap()).collect();
        elements(&openings)
    }

    fn text(values: &[Value]) -> Vec<String> {
        of(values)
            .into_iter()
            .map(|e| {
                let from = e.from.map_or("any".into(), |n| n.to_string());
                match e.what {
                    What::Icmp => format!("{from} icmp"),
                    What::All => format!("{from} all"),
                    What::Ports(t, low, high) => format!("{from} {t:?} {low}-{high}"),
                }
            })
            .collect()
    }

    #[test]
    fn icmp_comes_with_each_opening() {
        let tcp = json!({"addr": "2001:db8::1", "port": 22, "proto": "tcp"});
        assert_eq!(text(&[tcp]), ["any icmp", "any Tcp 22-22"]);
        let both = json!({"addr": "2001:db8::1", "port": "22 80..90"});
        assert_eq!(
            text(&[both]),
            ["any icmp", "any Tcp 22-22", "any Tcp 80-90", "any Udp 22-22", "any Udp 80-90"]
        );
        let all = json!({"addr": "2001:db8::1", "proto": "all", "src_addr": "2001:db8:9::/48"});
        assert_eq!(text(&[all]), ["2001:db8:9::/48 icmp", "2001:db8:9::/48 all"]);
    }

    #[test]
    fn what_overlaps_becomes_disjoint() {
        let open = |port: &str, from: &[&str]| json!({"addr": "2001:db8::1", "proto": "tcp", "port": port, "src_addr": if from.is_empty() { Value::Null } else { json!(from) }});
        assert_eq!(text(&[open("10..20", &[]), open("15..30", &[])]), ["any icmp", "any Tcp 10-30"]);
        let nested =
            [open("10..20", &["2001:db8:9::/48"]), open("15..30", &["2001:db8:9:1::/64"]), open("18", &[])];
        assert_eq!(
            text(&nested),
            [
                "any icmp",
                "any Tcp 18-18",
                "2001:db8:9::/48 Tcp 10-17",
                "2001:db8:9::/48 Tcp 19-20",
                "2001:db8:9:1::/64 Tcp 21-30"
            ]
        );
        assert_eq!(text(&[open("22", &["::/0"])]), ["any icmp", "any Tcp 22-22"]);
    }

    #[test]
    fn families_do_not_mix() {
        let both = json!({"addr": "2001:db8::1", "addr4": "192.0.2.1", "port": 22, "proto": "tcp",
            "src_addr": "2001:db8:9::/48 198.51.100.0/24"});
        for element in of(&[both]) {
            assert_eq!(element.to.is_ipv4(), element.from.unwrap().addr().is_ipv4());
        }
    }

    #[test]
    fn a_change_is_the_difference() {
        let before = of(&[json!({"addr": "2001:db8::1", "port": 22, "proto": "tcp"})]);
        let after = of(&[json!({"addr": "2001:db8::1", "port": 23, "proto": "tcp"})]);
        let change = Change::between(&before, &after);
        assert_eq!((change.add.len(), change.remove.len()), (1, 1));
        assert!(Change::between(&after, &after).is_empty());
        assert_eq!(change.losers().len(), 1);
    }
}
