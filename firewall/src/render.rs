//! Elements as text for nft(8). Pure: typed values in, one transaction out.
//!
//! Sets without intervals are hash tables: most openings are single ports from anywhere, and cost the same however many
//! there are. The rest has sets with intervals of its own.

use crate::elements::{Change, Element, Transport, What};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

/// The comment of a table that is ours. A table of our name without it is somebody else's.
pub const MARK: &str = "gridfw: openings of jobs";

/// Where packets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// On a router: packets that go through.
    Forward,
    /// On a node: packets for the node itself.
    Input,
}

/// The table around the sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name, in the family `inet`.
    pub name: TableName,
    /// Where packets are looked at.
    pub hook: Hook,
    /// Networks that are closed but for openings.
    pub protect: Vec<IpNet>,
    /// Bits that are set in the mark of packets that an opening lets in, for rules of the site.
    pub mark: u32,
}

/// A name that nft takes without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName(String);

impl TableName {
    /// A letter, then letters, digits and underscores; at most 64.
    pub fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        (first && text.len() <= 64 && text.bytes().all(good)).then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the set that an element belongs to, and what it is there.
fn place(element: &Element) -> (&'static str, String) {
    let Element { to, from, what } = element;
    let v4 = to.is_ipv4();
    let by = |four, six| if v4 { four } else { six };
    match (what, from) {
        (What::Icmp, None) => (by("icmp4", "icmp6"), to.to_string()),
        (What::Icmp, Some(from)) => (by("icmp_from4", "icmp_from6"), format!("{to} . {from}")),
        (What::All, None) => (by("all4", "all6"), to.to_string()),
        (What::All, Some(from)) => (by("all_from4", "all_from6"), format!("{to} . {from}")),
        (What::Ports(transport, low, high), None) if low == high => {
            (by("port4", "port6"), format!("{to} . {} . {low}", name(*transport)))
        }
        (What::Ports(transport, low, high), None) => {
            (by("ports4", "ports6"), format!("{to} . {} . {low}-{high}", name(*transport)))
        }
        (What::Ports(transport, low, high), Some(from)) => {
            (by("ports_from4", "ports_from6"), format!("{to} . {from} . {} . {low}-{high}", name(*transport)))
        }
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// `ADD element` lines, one for each set.
fn lines(text: &mut String, verb: &str, table: &Table, elements: &[Element]) {
    let mut sets: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for element in elements {
        let (set, key) = place(element);
        sets.entry(set).or_default().push(key);
    }
    for (set, keys) in sets {
        let _ = writeln!(text, "{verb} element inet {} {set} {{ {} }}", table.name.as_str(), keys.join(", "));
    }
}

/// One transaction for a change. What goes is added first: then its absence is no error, and a change can be repeated.
pub fn change(table: &Table, change: &Change) -> String {
    let mut text = String::new();
    lines(&mut text, "add", table, &change.remove);
    lines(&mut text, "delete", table, &change.remove);
    lines(&mut text, "add", table, &change.add);
    text
}

/// One transaction that puts this state in the place of whatever our table held.
pub fn replace(table: &Table, all: &BTreeSet<Element>) -> String {
    let name = table.name.as_str();
    let mut text = format!(
        "add table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n  comment \"{MARK}\"\n"
    );
    for (family, address) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        sets(&mut text, family, address);
    }
    text.push_str(&chains(table));
    text.push_str("}\n");
    for (family, v4) in [("4", true), ("6", false)] {
        let nets = table.protect.iter().filter(|net| net.addr().is_ipv4() == v4);
        let nets: Vec<_> =
            IpNet::aggregate(&nets.copied().collect()).iter().map(ToString::to_string).collect();
        if !nets.is_empty() {
            let _ = writeln!(text, "add element inet {name} protect{family} {{ {} }}", nets.join(", "));
        }
    }
    let all: Vec<Element> = all.iter().copied().collect();
    lines(&mut text, "add", table, &all);
    text
}

fn sets(text: &mut String, family: &str, address: &str) {
    let plain = [("icmp", ""), ("all", ""), ("port", " . inet_proto . inet_service")];
    let intervals = [
        ("icmp_from", format!(" . {address}")),
        ("all_from", format!(" . {address}")),
        ("ports", " . inet_proto . inet_service".to_owned()),
        ("ports_from", format!(" . {address} . inet_proto . inet_service")),
        ("protect", String::new()),
    ];
    for (name, rest) in plain {
        let _ = writeln!(text, "  set {name}{family} {{ type {address}{rest}; }}");
    }
    for (name, rest) in intervals {
        let _ = writeln!(text, "  set {name}{family} {{ type {address}{rest}; flags interval; }}");
    }
}

fn chains(table: &Table) -> String {
    let (hook, mark) = match table.hook {
        Hook::Forward => ("forward", table.mark),
        Hook::Input => ("input", table.mark),
    };
    let verdict = match mark {
        0 => "accept".to_owned(),
        bits => format!("meta mark set meta mark | {bits:#x} accept"),
    };
    let mut text = String::from("  chain openings {\n");
    for (family, header, icmp) in [("4", "ip", "icmp"), ("6", "ip6", "ipv6-icmp")] {
        let port = "meta l4proto . th dport";
        for rule in [
            format!("{header} daddr . {port} @port{family}"),
            format!("{header} daddr . {port} @ports{family}"),
            format!("{header} daddr . {header} saddr . {port} @ports_from{family}"),
            format!("{header} daddr @all{family}"),
            format!("{header} daddr . {header} saddr @all_from{family}"),
            format!("meta l4proto {icmp} {header} daddr @icmp{family}"),
            format!("meta l4proto {icmp} {header} daddr . {header} saddr @icmp_from{family}"),
        ] {
            let _ = writeln!(text, "    {rule} {verdict}");
        }
    }
    // A connection that was cut is not taken up again in the middle by a packet of either side.
    let middle = "ct state new tcp flags & (syn | rst | ack) != syn";
    let neighbours = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert";
    let input = match table.hook {
        Hook::Forward => String::new(),
        Hook::Input => format!("    iifname \"lo\" accept\n    icmpv6 type {{ {neighbours} }} accept\n"),
    };
    let _ = write!(
        text,
        "  }}\n  chain {hook} {{\n    type filter hook {hook} priority filter; policy accept;\n\
         \x20   ct state established,related accept\n{input}\
         \x20   ip6 saddr @protect6 {middle} drop\n    ip saddr @protect4 {middle} drop\n    jump openings\n\
         \x20   ip6 daddr @protect6 reject with icmpx type admin-prohibited\n\
         \x20   ip daddr @protect4 reject with icmpx type admin-prohibited\n  }}\n"
    );
    text
}

/// Whether the listing of a table of our name (`nft -t list table`) is one that we have made.
pub fn is_ours(listing: &str) -> bool {
    let comment = format!("comment \"{MARK}\"");
    listing.lines().any(|line| line.trim() == comment)
}

/// Destinations whose connections are to be cut, as conntrack(8) names them.
pub fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::elements;
    use crate::openings::Opening;
    use serde_json::json;

    fn table() -> Table {
        Table {
            name: TableName::parse("gridfw").unwrap(),
            hook: Hook::Forward,
            protect: vec!["2001:db8::/32".parse().unwrap()],
            mark: 0,
        }
    }

    #[test]
    fn a_change_is_one_text_and_can_be_repeated() {
        let open = |v| elements(&[Opening::from_json(&v).unwrap()]);
        let before = open(json!({"addr": "2001:db8::1", "port": "22", "proto": "tcp"}));
        let after = open(
            json!({"addr": "2001:db8::1", "port": "8000..8010", "proto": "tcp", "src_addr": "2001:db8:9::/48"}),
        );
        let text = change(&table(), &Change::between(&before, &after));
        assert_eq!(
            text,
            "add element inet gridfw icmp6 { 2001:db8::1 }\nadd element inet gridfw port6 { 2001:db8::1 . tcp . 22 }\n\
             delete element inet gridfw icmp6 { 2001:db8::1 }\ndelete element inet gridfw port6 { 2001:db8::1 . tcp . 22 }\n\
             add element inet gridfw icmp_from6 { 2001:db8::1 . 2001:db8:9::/48 }\n\
             add element inet gridfw ports_from6 { 2001:db8::1 . 2001:db8:9::/48 . tcp . 8000-8010 }\n"
        );
    }

    #[test]
    fn a_whole_state_begins_with_taking_the_old_one_away() {
        let text = replace(&Table { mark: 0x10, ..table() }, &BTreeSet::new());
        assert!(
            text.starts_with("add table inet gridfw\ndelete table inet gridfw\ntable inet gridfw {"),
            "{text}"
        );
        assert!(
            text.contains("meta mark set meta mark | 0x10 accept")
                && text.contains("protect6 { 2001:db8::/32 }")
        );
        assert!(is_ours(&text) && !is_ours("table inet gridfw {\n\tcomment \"mine\"\n}"));
    }

    #[test]
    fn names_of_tables_are_words() {
        assert!(["gridfw", "g_1"].iter().all(|n| TableName::parse(n).is_some()));
        assert!(["", "1a", "a b", "a;flush ruleset", "a}"].iter().all(|n| TableName::parse(n).is_none()));
    }
}
