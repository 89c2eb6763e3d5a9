//! Pilotage itself, and names.

use super::need::{Direction, Family, Need, Protection, Reach, Role, Source};
use Role::{Client, Server};

const fn need(
    service: &'static str,
    role: Role,
    protection: Protection,
    [purpose, closed]: [&'static str; 2],
) -> Need {
    let (direction, node) = match role {
        Client => (Direction::Out, "the client"),
        Server => (Direction::In, "the server"),
    };
    Need {
        service,
        family: Family::Ours,
        role,
        direction,
        node,
        protocol: "tcp",
        reach: Reach::Service(service),
        source: Source::Ephemeral,
        initiator: "the client",
        protection,
        purpose,
        closed,
    }
}

const FULL: Protection = Protection::FULL;
const QUEUE: [&str; 2] = [
    "queue: users submit, pilots ask for payloads; both open the connection",
    "no payload is submitted, and pilots end when they cannot reach the queue",
];
const RELAY: [&str; 2] = [
    "relay: forwarded ports of payloads; pilots and users dial it",
    "pilot forward fails; payloads run all the same",
];
const MAPPING: [&str; 2] = [
    "mapping service: worker nodes ask for the account of a user",
    "calls of users whom no local file maps end with 203",
];
const ACCOUNTING: [&str; 2] =
    ["accounting service: records are sent and asked for", "records wait in the spools of their nodes"];
const GRIDFW: [&str; 2] =
    ["firewall service: jobs ask for openings", "no job gets a port opened from outside"];

/// Name look-ups: of TCP and of UDP.
const fn dns(protocol: &'static str) -> Need {
    let need = need(
        "dns",
        Client,
        Protection::NONE,
        ["names of hosts, both ways", "each call of a Globus client waits ten seconds for names, or fails"],
    );
    Need { family: Family::General, protocol, ..need }
}

pub const NEEDS: &[Need] = &[
    need("queue", Client, FULL, QUEUE),
    need("queue", Server, FULL, QUEUE),
    need("relay", Client, FULL, RELAY),
    need("relay", Server, FULL, RELAY),
    need("mapping", Client, FULL, MAPPING),
    need("mapping", Server, FULL, MAPPING),
    need("accounting", Client, FULL, ACCOUNTING),
    need("accounting", Server, FULL, ACCOUNTING),
    need("gridfw", Client, FULL, GRIDFW),
    need("gridfw", Server, FULL, GRIDFW),
    dns("tcp"),
    dns("udp"),
];
