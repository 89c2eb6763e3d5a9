//! Rules as text: nftables, iptables, firewalld, and words.

use super::net::{Family, Net};
use super::rules::{Place, Rule};
use crate::services::need::Direction;
use std::fmt::Write;

/// What every rendering begins with.
fn head(place: &Place, command: &str, comment: &str) -> String {
    let at = match place.hosts.as_slice() {
        [] => "on the host itself".to_owned(),
        hosts => {
            let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            format!("on a router before {}", hosts.join(" and "))
        }
    };
    let clients = match place.servers_alone {
        true => format!(
            "{comment} A site that runs servers needs the rules of clients, too, since its jobs are clients of other sites:\n\
             {comment} --role both writes both.\n"
        ),
        false => String::new(),
    };
    format!(
        "{comment} Written by: {command}\n{comment} To stand {at}. Loading it again changes nothing.\n\
         {comment} Everything that no rule lets through is dropped, name look-ups (--service dns) and your own ssh\n\
         {comment} (--service gsissh) included, when the services do not name them.\n{clients}"
    )
}

fn set(nets: &[Net]) -> String {
    let list: Vec<_> = nets.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", list.join(", "))
}

fn span((low, high): (u16, u16), between: char) -> String {
    if low == high { low.to_string() } else { format!("{low}{between}{high}") }
}

/// The chains of a place: their name, and which directions stand in them.
fn chains(place: &Place) -> Vec<(&'static str, Vec<Direction>)> {
    if place.is_router() {
        vec![("forward", vec![Direction::In, Direction::Out])]
    } else {
        vec![("input", vec![Direction::In]), ("output", vec![Direction::Out])]
    }
}

/// A file for `nft -f`.
pub fn nft(rules: &[Rule], place: &Place, command: &str) -> String {
    let mut text = format!("#!/usr/sbin/nft -f\n{}\n", head(place, command, "#"));
    text.push_str("table inet pilotage\ndelete table inet pilotage\n\ntable inet pilotage {\n");
    for (chain, directions) in chains(place) {
        let _ = writeln!(
            text,
            "    chain {chain} {{\n        type filter hook {chain} priority filter; policy drop;"
        );
        match chain {
            "input" => text.push_str("        iif lo accept\n"),
            "output" => text.push_str("        oif lo accept\n"),
            _ => {}
        }
        text.push_str("        ct state established,related accept\n        # neighbours, path MTU\n");
        text.push_str("        meta l4proto { icmp, ipv6-icmp } accept\n");
        for rule in rules.iter().filter(|rule| directions.contains(&rule.direction)) {
            text.push('\n');
            rule.reasons().for_each(|why| text.push_str(&format!("        # {why}\n")));
            nft_lines(rule, place).for_each(|line| text.push_str(&format!("        {line}\n")));
        }
        text.push_str("    }\n");
    }
    text.push_str("}\n");
    text
}

/// The lines of one rule: one for each family that is meant, or one for both.
pub fn nft_lines(rule: &Rule, place: &Place) -> impl Iterator<Item = String> {
    let end = format!(
        "{} dport {} ct state new counter accept comment \"{}\"",
        rule.protocol,
        span(rule.ports, '-'),
        rule.comment(120)
    );
    let (peer, host) = match rule.direction {
        Direction::In => ("saddr", "daddr"),
        Direction::Out => ("daddr", "saddr"),
    };
    if place.hosts.is_empty() && place.peers.is_empty() {
        return vec![end].into_iter();
    }
    let mut lines = Vec::new();
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        for (address, nets) in place.ends(family) {
            let peers = if nets.is_empty() { String::new() } else { format!("{ip} {peer} {} ", set(&nets)) };
            let host = address.map(|address| format!("{ip} {host} {address} ")).unwrap_or_default();
            lines.push(format!("{host}{peers}{end}"));
        }
    }
    lines.into_iter()
}

/// A file for `iptables-restore`, or `ip6tables-restore`.
pub fn iptables(rules: &[Rule], place: &Place, family: Family, command: &str) -> String {
    let (restore, icmp) = match family {
        Family::V4 => ("iptables-restore", "icmp"),
        Family::V6 => ("ip6tables-restore", "ipv6-icmp"),
    };
    let mut text = format!(
        "{}# Load it with: {restore} FILE. The whole filter table is replaced.\n*filter\n",
        head(place, command, "#")
    );
    let router = place.is_router();
    let _ = writeln!(text, ":INPUT {} [0:0]", if router { "ACCEPT" } else { "DROP" });
    let _ = writeln!(text, ":FORWARD {} [0:0]", if router { "DROP" } else { "ACCEPT" });
    let _ = writeln!(text, ":OUTPUT {} [0:0]", if router { "ACCEPT" } else { "DROP" });
    for (chain, directions) in chains(place) {
        let chain = chain.to_uppercase();
        if !router {
            let side = if chain == "INPUT" { "-i" } else { "-o" };
            let _ = writeln!(text, "-A {chain} {side} lo -j ACCEPT");
        }
        let _ = writeln!(
            text,
            "-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A {chain} -p {icmp} -j ACCEPT"
        );
        for rule in rules.iter().filter(|rule| directions.contains(&rule.direction)) {
            text.push_str(&iptables_lines(rule, place, family, &chain));
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// The lines of one rule with their reasons.
pub fn iptables_lines(rule: &Rule, place: &Place, family: Family, chain: &str) -> String {
    let mut text: String = rule.reasons().map(|why| format!("# {why}\n")).collect();
    for (from, to) in pairs(rule, place, family) {
        let from = from.map(|net| format!(" -s {net}")).unwrap_or_default();
        let to = to.map(|net| format!(" -d {net}")).unwrap_or_default();
        let (protocol, ports, comment) = (rule.protocol, span(rule.ports, ':'), rule.comment(240));
        let _ = writeln!(
            text,
            "-A {chain}{from}{to} -p {protocol} -m {protocol} --dport {ports} -m conntrack --ctstate NEW \
             -m comment --comment \"{comment}\" -j ACCEPT"
        );
    }
    text
}

/// Source and destination of each line of a rule, for languages without sets.
fn pairs(rule: &Rule, place: &Place, family: Family) -> Vec<(Option<String>, Option<String>)> {
    let mut pairs = Vec::new();
    for (host, nets) in place.ends(family) {
        let host = host.map(|address| address.to_string());
        let peers: Vec<Option<String>> = match nets.as_slice() {
            [] => vec![None],
            nets => nets.iter().map(|net| Some(net.to_string())).collect(),
        };
        pairs.extend(peers.into_iter().map(|peer| match rule.direction {
            Direction::In => (peer, host.clone()),
            Direction::Out => (host.clone(), peer),
        }));
    }
    pairs
}

/// A script that tells firewalld. It makes its zone and policies anew, so it may run again.
pub fn firewalld(rules: &[Rule], place: &Place, command: &str) -> String {
    let mut text = format!("#!/bin/sh\n{}", head(place, command, "#"));
    text.push_str(
        "# Offline, before firewalld runs: FIREWALL_CMD=firewall-offline-cmd. The zone counts for INTERFACE, when that is set;\n\
         # afterwards: firewall-cmd --reload.\n\
         set -eu\nfw() { ${FIREWALL_CMD:-firewall-cmd --permanent} \"$@\"; }\n",
    );
    let zone = !place.is_router();
    let policies: &[(&str, &str, &str)] =
        if zone { &[("pilotage-out", "HOST", "ANY")] } else { &[("pilotage-forward", "ANY", "ANY")] };
    if zone {
        text.push_str(
            "fw --delete-zone=pilotage >/dev/null 2>&1 || :\nfw --new-zone=pilotage\nfw --zone=pilotage --set-target=DROP\n\
             [ -z \"${INTERFACE:-}\" ] || fw --zone=pilotage --add-interface=\"$INTERFACE\"\n",
        );
    }
    for (name, ingress, egress) in policies {
        let _ = write!(
            text,
            "fw --delete-policy={name} >/dev/null 2>&1 || :\nfw --new-policy={name}\nfw --policy={name} --set-target=DROP\n\
             fw --policy={name} --add-ingress-zone={ingress}\nfw --policy={name} --add-egress-zone={egress}\n"
        );
    }
    for rule in rules {
        rule.reasons().for_each(|why| text.push_str(&format!("# {why}\n")));
        let at = match (zone, rule.direction) {
            (true, Direction::In) => "--zone=pilotage",
            (true, Direction::Out) => "--policy=pilotage-out",
            (false, _) => "--policy=pilotage-forward",
        };
        let end = format!("port port=\"{}\" protocol=\"{}\" accept'", span(rule.ports, '-'), rule.protocol);
        if place.hosts.is_empty() && place.peers.is_empty() {
            let _ = writeln!(text, "fw {at} --add-rich-rule='rule {end}");
            continue;
        }
        for (family, word) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            for (from, to) in pairs(rule, place, family) {
                let from = from.map(|net| format!(" source address=\"{net}\"")).unwrap_or_default();
                let to = to.map(|net| format!(" destination address=\"{net}\"")).unwrap_or_default();
                let _ = writeln!(text, "fw {at} --add-rich-rule='rule family=\"{word}\"{from}{to} {end}");
            }
        }
    }
    text
}

/// For people, and for forms of those who run the firewall.
pub fn text(rules: &[Rule], place: &Place, command: &str) -> String {
    let mut text = head(place, command, "#");
    let site = match place.hosts.as_slice() {
        [] => "this host".to_owned(),
        hosts => hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    };
    let peers = match place.peers.as_slice() {
        [] => "anywhere".to_owned(),
        peers => peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    for rule in rules {
        let (from, to) = match rule.direction {
            Direction::In => (&peers, &site),
            Direction::Out => (&site, &peers),
        };
        let _ = writeln!(
            text,
            "\nlet {} pass from {from} to {to}, port {}",
            rule.protocol,
            span(rule.ports, '-')
        );
        for need in &rule.needs {
            let _ = writeln!(
                text,
                "    {} {}, {}: {}; from {}, opened by {}; {}\n        closed: {}",
                need.service,
                need.role.name(),
                need.node,
                need.purpose,
                need.source.name(),
                need.initiator,
                need.protection,
                need.closed
            );
        }
    }
    text
}
