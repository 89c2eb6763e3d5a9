//! `site-policy firewall`: rules that a site can load.
//!
//! | looking for | see |
//! |---|---|
//! | what services need | [`crate::services`] |
//! | from needs to rules | [`rules`] |
//! | rules as text | [`render`]; behind one public address [`nat`] |
//! | telling servers and clients their range | [`snippets`] |
//!
//! Each step is a pure function of values; text is made in the last one only.

mod nat;
mod net;
mod render;
mod rules;
mod snippets;

use crate::Reply;
use crate::cli::{FirewallArgs, Format, RoleWord};
use crate::services::catalogue;
use crate::services::need::Role;
use nat::Inside;
use net::{Family, Net};
use policy::SitePolicy;
use policy::ports::PortRange;
use rules::{Place, Site};
use snippets::Told;
use std::net::{IpAddr, Ipv4Addr};

/// Why nothing is written.
enum No {
    /// The command line asks for something that there is none of: exit code 2.
    Usage(String),
    /// It must not be: exit code 1.
    Refused(String),
}

/// Writes the rules to standard output.
pub fn run(args: &FirewallArgs) -> Result<Reply, String> {
    let policy = crate::site_or_default(args.policy.as_deref())?;
    match rendered(args, &policy) {
        Ok(text) => Ok(Reply::done(text)),
        Err(No::Usage(why)) => Ok(Reply::usage(why)),
        Err(No::Refused(why)) => Ok(Reply::refused(why)),
    }
}

fn rendered(args: &FirewallArgs, policy: &SitePolicy) -> Result<String, No> {
    let range = parsed(args.range.as_deref(), "--range")?.or(policy.ports.range);
    if let Some(text) = snippet(args, policy, range)? {
        return Ok(text);
    }
    let role = args.role.ok_or_else(|| No::Usage("give --role: client, server or both".into()))?;
    let roles: &[Role] = match role {
        RoleWord::Client => &[Role::Client],
        RoleWord::Server => &[Role::Server],
        RoleWord::Both => &[Role::Client, Role::Server],
    };
    if args.service.is_empty() {
        return Err(No::Usage(
            "give --service, once for each; site-policy services shows their names".into(),
        ));
    }
    let mut names = Vec::new();
    for word in &args.service {
        names.extend(catalogue::meant(word).map_err(No::Usage)?);
    }
    let place = place(args)?;
    let peer_range = parsed(args.peer_ports.as_deref(), "--peer-ports")?;
    let unguarded = names.contains(&"dcap") && !args.force;
    if unguarded && (place.peers.is_empty() || !place.peers.iter().all(|net| net.is_local())) {
        return Err(No::Refused(
            "dcap has no authentication: everybody who reaches it reads and writes as anybody; name local networks only \
             (--peer 10.0.0.0/8), use gsidcap, or --force"
                .into(),
        ));
    }
    let needs = || catalogue::all().filter(|need| rules::wanted(need, roles, &names));
    let site = Site { services: &policy.services, range, peer_range };
    let command = command(args);
    if let Some(outside) = &args.nat {
        let grid = names.iter().any(|name| catalogue::is_grid(name));
        if grid && role != RoleWord::Client {
            return Err(No::Refused(nat::NO_SERVERS.into()));
        }
        let hosts = inside(args, policy)?.into_iter().map(|(address, share)| {
            let its = Site { range: Some(share), ..site.clone() };
            Ok(Inside { address, share, rules: rules::rules(needs(), &its).map_err(No::Usage)? })
        });
        let hosts = hosts.collect::<Result<Vec<_>, No>>()?;
        return match args.format {
            Format::Nft => Ok(nat::nft(*outside, &hosts, &place, &command)),
            Format::Iptables => Ok(nat::iptables(*outside, &hosts, &place, &command)),
            Format::Text => Ok(nat::text(*outside, &hosts, &command)),
            _ => {
                Err(No::Usage("--nat is written as nft, iptables or text; IPv6 needs no translation".into()))
            }
        };
    }
    let rules = rules::rules(needs(), &site).map_err(No::Usage)?;
    Ok(match args.format {
        Format::Iptables => render::iptables(&rules, &place, Family::V4, &command),
        Format::Ip6tables => render::iptables(&rules, &place, Family::V6, &command),
        Format::Firewalld => render::firewalld(&rules, &place, &command),
        Format::Text => render::text(&rules, &place, &command),
        _ => render::nft(&rules, &place, &command),
    })
}

/// A snippet, when the format is one.
fn snippet(args: &FirewallArgs, policy: &SitePolicy, range: Option<PortRange>) -> Result<Option<String>, No> {
    let write: fn(&Told<'_>) -> String = match args.format {
        Format::Inetd => snippets::inetd,
        Format::Xinetd => snippets::xinetd,
        Format::Wrapper => snippets::wrapper,
        Format::Java => snippets::java,
        Format::Cog => snippets::cog,
        _ => return Ok(None),
    };
    let range = range
        .ok_or_else(|| No::Usage("there is no callback range: set [ports] range, or give --range".into()))?;
    let (hostname, gridftp) = (policy.ports.hostname.as_deref(), policy.services.port("gridftp"));
    Ok(Some(write(&Told { range, hostname, gridftp })))
}

fn parsed(text: Option<&str>, option: &str) -> Result<Option<PortRange>, No> {
    text.map(|text| PortRange::parse(text).map_err(|why| No::Usage(format!("{option}: {why}")))).transpose()
}

fn place(args: &FirewallArgs) -> Result<Place, No> {
    let peers =
        args.peer.iter().map(|text| Net::parse(text).map_err(|why| No::Usage(format!("--peer: {why}"))));
    let servers_alone = args.role == Some(RoleWord::Server);
    Ok(Place { hosts: args.host.clone(), peers: peers.collect::<Result<_, _>>()?, servers_alone })
}

/// The hosts behind the router and their shares: `NAME=ADDRESS`, with the share of `[ports] hosts`, or `ADDRESS:SHARE`.
fn inside(args: &FirewallArgs, policy: &SitePolicy) -> Result<Vec<(Ipv4Addr, PortRange)>, No> {
    if args.hosts.is_empty() {
        return Err(No::Usage(
            "--nat needs --hosts NAME=ADDRESS, once for each host of [ports] hosts".into(),
        ));
    }
    let mut found: Vec<(Ipv4Addr, PortRange)> = Vec::new();
    for text in &args.hosts {
        let bad = |why: String| No::Usage(format!("--hosts {text}: {why}"));
        let (name, rest) = text.split_once('=').unwrap_or((text, text));
        let (address, share) = rest.split_once(':').map_or((rest, None), |(a, s)| (a, Some(s)));
        let name = if name == rest { address } else { name };
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| bad("write NAME=ADDRESS or ADDRESS:40000-40499, with an IPv4 address".into()))?;
        let share = match share {
            Some(share) => PortRange::parse(share).map_err(|why| bad(why.to_string()))?,
            None => match policy.ports.share_of(&[name]) {
                Ok(Some(share)) if !policy.ports.hosts.is_empty() => share,
                Ok(_) => {
                    return Err(bad(
                        "[ports] hosts gives it no share; add it there, or write ADDRESS:SHARE".into()
                    ));
                }
                Err(why) => return Err(bad(why.to_string())),
            },
        };
        if let Some((other, its)) = found.iter().find(|(other, its)| its.meets(share) || *other == address) {
            return Err(bad(format!("it and {other} ({its}) have an address or ports in common")));
        }
        found.push((address, share));
    }
    Ok(found)
}

/// The command line as it can be given again.
fn command(args: &FirewallArgs) -> String {
    let mut words = vec!["site-policy firewall".to_owned()];
    words.extend(args.role.map(|role| format!("--role {}", role.word())));
    words.extend(args.service.iter().map(|name| format!("--service {name}")));
    words.extend(args.host.iter().map(|host: &IpAddr| format!("--host {host}")));
    words.extend(args.peer.iter().map(|net| format!("--peer {net}")));
    words.extend(args.range.iter().map(|range| format!("--range {range}")));
    words.extend(args.peer_ports.iter().map(|range| format!("--peer-ports {range}")));
    words.extend(args.nat.iter().map(|outside| format!("--nat {outside}")));
    words.extend(args.hosts.iter().map(|host| format!("--hosts {host}")));
    words.extend(args.force.then(|| "--force".to_owned()));
    words.push(format!("--format {}", args.format.word()));
    identity::one_line(&words.join(" "))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
