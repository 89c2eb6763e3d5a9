//! The range of callback ports beside the node that leases them.

use super::Site;
use crate::finding::{About, Finding, Severity};
use crate::node::Node;
use crate::ports::Places;
use policy::file::PortsPolicy;
use policy::ports::{PortRange, variables};

/// Ports for each simultaneous user, by the firewall guide of Globus: at a site whose users are clients elsewhere, and at one
/// that runs servers.
const PER_USER: [usize; 2] = [10, 20];
/// What a large site opens.
const LARGE_SITE: usize = 300;
/// Payloads are taken to last at least this long when rests are counted, in seconds.
const SHORT_PAYLOAD: u64 = 60;

/// Variables that Globus reads, and ignores when they are malformed.
const READ_BY_GLOBUS: [&str; 5] = [
    "GLOBUS_TCP_PORT_RANGE",
    "GLOBUS_TCP_SOURCE_RANGE",
    "GLOBUS_UDP_PORT_RANGE",
    "GLOBUS_UDP_SOURCE_RANGE",
    "MYPROXY_TCP_PORT_RANGE",
];

/// Adds what is wrong with the range on this node, and whether it is large enough.
pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) -> Result<(), String> {
    let mut about = About::new(site.policy_file, found);
    for name in READ_BY_GLOBUS {
        let value = std::env::var(name).ok();
        if let Some(why) = value.and_then(|value| PortRange::parse_globus(&value).err()) {
            about.error(format!("{name} of this environment: {why}"), "correct it, or unset it");
        }
    }
    let ports = &site.policy.ports;
    if let Err(why) = variables::chosen(ports.variables.as_deref()) {
        about.error(why, "pilots do not start; docs/ports.md describes each");
    }
    let Some(range) = ports.range else { return Ok(()) };
    super::wall::told(ports.enforce, super::wall::of_this_host(), &mut about);
    enough(ports, range, &mut about);
    let node = Node::look()?;
    let share = match ports.share_of(&node.names()) {
        Ok(share) => share.unwrap_or(range),
        Err(why) => {
            about.error(why.to_string(), "");
            return Ok(());
        }
    };
    if let Some(taken) = node.ephemeral_in(share) {
        about.error(
            format!("[ports] range: the kernel gives {taken} to any program that asks for no port (ip_local_port_range)"),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={share}, and keep that in /etc/sysctl.d"),
        );
    }
    listeners(ports, share, &node, &mut about);
    slots(ports, share, std::thread::available_parallelism().map_or(1, usize::from), &mut about);
    Ok(())
}

/// Rules of thumb, with their numbers.
fn enough(ports: &PortsPolicy, range: PortRange, about: &mut About<'_>) {
    let [clients, servers] = PER_USER.map(|each| range.count() / each);
    let what = format!(
        "[ports] range has {} ports: by rule of thumb for {clients} simultaneous users at a client site ({} each), \
         {servers} at a server site ({} each)",
        range.count(),
        PER_USER[0],
        PER_USER[1]
    );
    if range.count() < LARGE_SITE {
        about.warning(what, format!("a large site opens several hundred ports, {LARGE_SITE} or more"));
    } else {
        about.add(None, Severity::Note, what, "");
    }
    let smallest = ports.hosts.iter().min_by_key(|(_, share)| share.count());
    if let Some((host, share)) = smallest.filter(|(_, share)| share.count() < PER_USER[0]) {
        about.warning(
            format!("[ports] hosts: {host} has {} ports", share.count()),
            "ten for each user are usual",
        );
    }
}

fn listeners(ports: &PortsPolicy, share: PortRange, node: &Node, about: &mut About<'_>) {
    let leased = crate::ports::leased(share, ports, &Places::of(None));
    let strange = |port: u16| share.contains(port) && !leased.iter().any(|block| block.contains(port));
    for one in node.listeners.iter().filter(|l| strange(l.port)) {
        let pid = crate::node::process_of_socket(one.inode).map(|pid| format!(", process {pid}"));
        about.error(
            format!(
                "[ports] range: uid {}{} listens on {} port {}, and no payload has leased it",
                one.uid,
                pid.unwrap_or_default(),
                one.protocol,
                one.port
            ),
            "move the service, or the range",
        );
    }
}

/// A block for each slot, and those that rest while the slots are busy with the next payloads.
fn slots(ports: &PortsPolicy, share: PortRange, slots: usize, about: &mut About<'_>) {
    let blocks = share.blocks(ports.per_payload).count();
    let resting = ports.quarantine.as_secs().div_ceil(SHORT_PAYLOAD);
    let needed = slots.saturating_mul(usize::try_from(resting.saturating_add(1)).unwrap_or(usize::MAX));
    if blocks < needed {
        about.warning(
            format!(
                "[ports]: {share} has {blocks} blocks of {}; {slots} slots with payloads of a minute need {needed}: \
                 a block for each, and {resting} that rest ({}s) for each",
                ports.per_payload,
                ports.quarantine.as_secs()
            ),
            "enlarge range, lower per_payload or quarantine; else payloads wait for ports",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::SitePolicy;
    use std::path::Path;

    fn said(text: &str, judge: impl Fn(&PortsPolicy, PortRange, &mut About<'_>)) -> Vec<(Severity, String)> {
        let ports = SitePolicy::parse(Path::new("p"), text).unwrap().ports;
        let mut found = Vec::new();
        judge(&ports, ports.range.unwrap(), &mut About::new(Path::new("p"), &mut found));
        found.into_iter().map(|f| (f.severity, f.what)).collect()
    }

    #[test]
    fn rules_of_thumb_come_with_their_numbers() {
        let small = said("[ports]\nrange = \"40000-40099\"\n", enough);
        assert_eq!(small[0].0, Severity::Warning);
        assert!(
            small[0].1.contains(
                "for 10 simultaneous users at a client site (10 each), 5 at a server site (20 each)"
            )
        );
        assert_eq!(said("[ports]\nrange = \"40000-40999\"\n", enough)[0].0, Severity::Note);
    }

    #[test]
    fn a_block_for_every_slot_and_its_rest() {
        let of = |quarantine: &str, slots_here| {
            let text = format!("[ports]\nrange = \"40000-40099\"\nquarantine = {quarantine:?}\n");
            said(&text, |ports, share, about| slots(ports, share, slots_here, about))
        };
        assert_eq!(of("60s", 5), []);
        assert!(of("60s", 6)[0].1.contains("has 10 blocks of 10; 6 slots with payloads of a minute need 12"));
        assert_eq!(of("0s", 10), []);
        assert!(of("90s", 4)[0].1.contains("need 12"));
    }
}
