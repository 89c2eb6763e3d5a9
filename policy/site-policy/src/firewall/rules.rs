//! From needs to rules: what a firewall must let through, as values. How a rule is written is the business of the renderers.

use super::net::{Family, Net};
use crate::services::need::{Direction, Need, Reach, Role};
use policy::ports::PortRange;
use policy::services::ServicePorts;
use std::net::IpAddr;

/// Ports beyond the privileged ones: where a peer's range lies is the peer's business, unless the administrator knows it.
const UNPRIVILEGED: (u16, u16) = (1024, 65535);

/// One kind of connection to be let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Seen from the site.
    pub direction: Direction,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// First and last port that the connection goes to.
    pub ports: (u16, u16),
    /// What it is needed for; the first need names the rule.
    pub needs: Vec<&'static Need>,
}

/// What the rules are for.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// Where services listen.
    pub services: &'a ServicePorts,
    /// The callback range.
    pub range: Option<PortRange>,
    /// The callback range of the peers, where it is known.
    pub peer_range: Option<PortRange>,
}

/// Where the rules stand, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Addresses of the site's host when the rules stand on a router before it; none: they stand on the host itself.
    pub hosts: Vec<IpAddr>,
    /// Who is let in, and who may be reached; none: everybody.
    pub peers: Vec<Net>,
    /// The rules are those of servers alone, and the site's jobs are clients of other sites.
    pub servers_alone: bool,
}

/// Source and destination of a rule in one family of addresses; `None`: any.
pub type Ends = (Option<IpAddr>, Vec<Net>);

impl Place {
    /// Whether the rules stand on a router.
    pub fn is_router(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The site's host and the peers in this family; empty when nothing of this family is meant.
    pub fn ends(&self, family: Family) -> Vec<Ends> {
        let peers: Vec<Net> = self.peers.iter().copied().filter(|net| net.family() == family).collect();
        if peers.is_empty() && !self.peers.is_empty() {
            return vec![];
        }
        if !self.is_router() {
            return vec![(None, peers)];
        }
        let hosts = self.hosts.iter().copied().filter(|host| Family::of(*host) == family);
        hosts.map(|host| (Some(host), peers.clone())).collect()
    }
}

/// Whether a need is part of what was asked for.
pub fn wanted(need: &Need, roles: &[Role], names: &[&str]) -> bool {
    roles.contains(&need.role) && names.contains(&need.service)
}

/// The rules for these needs; needs that ask for the same connection share one.
///
/// # Errors
/// When a need asks for the site's range and there is none.
pub fn rules(needs: impl Iterator<Item = &'static Need>, site: &Site<'_>) -> Result<Vec<Rule>, String> {
    let mut rules: Vec<Rule> = Vec::new();
    for need in needs {
        let ports = ports(need, site)?;
        let same = |rule: &&mut Rule| {
            (rule.direction, rule.protocol, rule.ports) == (need.direction, need.protocol, ports)
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.needs.push(need),
            None => {
                let (direction, protocol) = (need.direction, need.protocol);
                rules.push(Rule { direction, protocol, ports, needs: vec![need] });
            }
        }
    }
    Ok(rules)
}

fn ports(need: &Need, site: &Site<'_>) -> Result<(u16, u16), String> {
    let ends = |range: PortRange| (range.low(), range.high());
    Ok(match need.reach {
        Reach::Service(name) => (site.services.port(name), site.services.port(name)),
        Reach::DcacheData => ends(site.services.dcache_data()),
        Reach::PeerRange => site.peer_range.map_or(UNPRIVILEGED, ends),
        Reach::OurRange => ends(site.range.ok_or_else(|| {
            format!(
                "{} ({}) needs the site's callback range: set [ports] range, or give --range",
                need.service, need.purpose
            )
        })?),
    })
}

impl Rule {
    /// What the rule is for, in one line of at most so many bytes.
    pub fn comment(&self, most: usize) -> String {
        let Some(first) = self.needs.first() else { return String::new() };
        let more = match self.needs.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let room = most.saturating_sub(more.len());
        let text: String = format!("{} {}: {}", first.service, first.role.name(), first.purpose);
        let cut = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
        format!("{}{more}", &text[..cut.unwrap_or(0)])
    }

    /// The reasons as lines of a comment.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.needs.iter().map(|need| {
            format!(
                "{} {}, {}: {} [{}; closed: {}]",
                need.service,
                need.role.name(),
                need.node,
                need.purpose,
                need.protection,
                need.closed
            )
        })
    }
}
