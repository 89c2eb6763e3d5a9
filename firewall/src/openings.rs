//! What a request asks for, and what it becomes once names are addresses.

use crate::ports::{Ports, Written};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Most openings of one request, and most names in one field: a request is read by hand-written checks, one by one.
const MOST: usize = 1000;

/// Why a request cannot be understood: which opening, which field, why, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOpening(String);

/// The protocols of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Both: what is meant when nothing is said.
    TcpUdp,
    /// Every protocol, GRE and the like as well.
    All,
}

impl Proto {
    const NAMES: [(Self, &'static str); 4] =
        [(Self::TcpUdp, "tcp+udp"), (Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::All, "all")];

    /// Its word in requests and answers.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(proto, _)| *proto == self).map_or("", |(_, name)| name)
    }

    /// Reads the word.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(proto, _)| *proto);
        found.ok_or_else(|| format!("{:?} is no protocol here; write tcp+udp, tcp, udp or all", cut(text)))
    }
}

/// A host name as DNS has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Letters, digits, hyphens, underscores and dots; at most 253 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let label = |l: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=63).contains(&l.len()) && l.bytes().all(good) && !l.starts_with('-')
        };
        let bare = text.strip_suffix('.').unwrap_or(text);
        // Digits and dots alone are a broken IPv4 address, and a resolver would make one of them.
        let numbers = bare.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let good = bare.len() <= 253 && bare.split('.').all(label) && !numbers;
        good.then(|| Self(bare.to_ascii_lowercase()))
    }

    /// The name in lower case, without a final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `NODE-ipv6.SITE` is another name of `NODE.SITE`, and the other way round.
    pub fn twin(&self) -> Self {
        let (node, rest) = self.0.split_at(self.0.find('.').unwrap_or(self.0.len()));
        Self(match node.strip_suffix("-ipv6") {
            Some(bare) if !bare.is_empty() => format!("{bare}{rest}"),
            _ => format!("{node}-ipv6{rest}"),
        })
    }

    /// Whether the node's name ends in `-ipv6`.
    pub fn is_ipv6_name(&self) -> bool {
        self.0.split('.').next().is_some_and(|node| node.ends_with("-ipv6"))
    }
}

/// One word of `addr`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// To be looked up.
    Name(HostName),
    /// Taken as it is.
    Address(IpAddr),
}

/// One word of `src_addr`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// To be looked up.
    Name(HostName),
    /// A network; a single host is one of full length.
    Net(IpNet),
}

/// An opening as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Destinations.
    pub addr: BTreeSet<Host>,
    /// Destinations that are wanted with their IPv4 addresses: our extension.
    pub addr4: BTreeSet<Host>,
    /// Protocols.
    pub proto: Proto,
    /// Ports; none for `all`.
    pub ports: Ports,
    /// Where packets may come from; empty for anywhere.
    pub sources: BTreeSet<Source>,
    /// What is to be said about the spelling.
    pub hints: Vec<String>,
}

/// An opening with addresses only: what is stored, sent to firewalls and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    addr: BTreeSet<IpAddr>,
    proto: Proto,
    ports: Ports,
    sources: BTreeSet<IpNet>,
}

impl Opening {
    /// What was asked for, with the addresses of its names. Every destination can be reached from some source: otherwise the
    /// opening would open nothing.
    ///
    /// # Errors
    /// When nothing is left, or source and destination have no family in common.
    pub fn new(asked: &Asked, addr: BTreeSet<IpAddr>, sources: BTreeSet<IpNet>) -> Result<Self, String> {
        if let Some(odd) = addr.iter().find(|a| !is_usable(a)) {
            return Err(format!(
                "addr: {odd} is no address of a single host that others can reach; name a node of the job"
            ));
        }
        let reached =
            |a: &IpAddr| sources.is_empty() || sources.iter().any(|s| s.addr().is_ipv4() == a.is_ipv4());
        if let Some(cut_off) = addr.iter().find(|a| !reached(a)) {
            let family = if cut_off.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!(
                "src_addr: no {family} source for the destination {cut_off}; add one, or leave src_addr out"
            ));
        }
        if addr.is_empty() {
            return Err("addr: names no host; write names or IPv6 addresses of nodes of the job".into());
        }
        Ok(Self { addr, proto: asked.proto, ports: asked.ports.clone(), sources })
    }

    /// Destinations.
    pub fn addr(&self) -> &BTreeSet<IpAddr> {
        &self.addr
    }

    /// Protocols.
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// Ports; none for `all`.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Where packets may come from; empty for anywhere.
    pub fn sources(&self) -> &BTreeSet<IpNet> {
        &self.sources
    }

    /// As the interface shows it, and as it is stored. Clients that know nothing of IPv4 find what they expect in `addr`.
    pub fn to_json(&self) -> Value {
        let of = |v4: bool| self.addr.iter().filter(|a| a.is_ipv4() == v4).map(ToString::to_string).collect();
        let (addr, addr4): (Vec<String>, Vec<String>) = (of(false), of(true));
        let mut object = json!({ "addr": addr, "proto": self.proto.as_str() });
        if !addr4.is_empty() {
            object["addr4"] = addr4.into();
        }
        if self.proto != Proto::All {
            object["port"] = self.ports.to_json().into();
        }
        if !self.sources.is_empty() {
            let sources: Vec<String> = self.sources.iter().map(source_text).collect();
            object["src_addr"] = sources.into();
        }
        object
    }

    /// Reads what [`Opening::to_json`] has written.
    ///
    /// # Errors
    /// When it is no opening, or one with names.
    pub fn from_json(value: &Value) -> Result<Self, BadOpening> {
        let asked = opening(value).map_err(BadOpening)?;
        let addr = asked.addr.iter().chain(&asked.addr4).filter_map(|host| match host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
        });
        let sources = asked.sources.iter().filter_map(|source| match source {
            Source::Net(net) => Some(*net),
            Source::Name(_) => None,
        });
        let (addr, sources): (BTreeSet<_>, BTreeSet<_>) = (addr.collect(), sources.collect());
        if sources.len() != asked.sources.len() {
            return Err(BadOpening("src_addr: a stored opening has addresses only".into()));
        }
        Self::new(&asked, addr, sources).map_err(BadOpening)
    }
}

/// A single host is shown without its length.
fn source_text(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// One host's address that a packet from elsewhere can be sent to.
fn is_usable(address: &IpAddr) -> bool {
    let link_local = |a: &Ipv6Addr| a.segments()[0] & 0xffc0 == 0xfe80 || a.to_ipv4_mapped().is_some();
    let odd = match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => link_local(a),
    };
    !(odd || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Reads the body of a request: an opening, or a list of openings.
///
/// # Errors
/// What is wrong, where, and what would be accepted. Nothing of the request is taken then.
pub fn parse(body: &[u8]) -> Result<Vec<Asked>, BadOpening> {
    let sample = r#"send {"addr": "NODE-ipv6.SITE.grid5000.fr", "port": 22}, or a list of such objects"#;
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| BadOpening(format!("the body is no JSON ({}); {sample}", cut(&e.to_string()))))?;
    let Value::Array(all) = value else { return Ok(vec![opening(&value).map_err(BadOpening)?]) };
    if all.is_empty() || all.len() > MOST {
        return Err(BadOpening(format!(
            "the list has {} openings, 1 to {MOST} are taken; {sample}",
            all.len()
        )));
    }
    let number = |(n, one): (usize, &Value)| {
        opening(one).map_err(|reason| BadOpening(format!("opening {}: {reason}", n + 1)))
    };
    all.iter().enumerate().map(number).collect()
}

const FIELDS: [&str; 6] = ["addr", "addr4", "proto", "port", "src_addr", "hint"];

fn opening(value: &Value) -> Result<Asked, String> {
    let Value::Object(object) = value else {
        return Err(format!(
            "{} is no opening; write an object with addr, proto, port, src_addr",
            shown(value)
        ));
    };
    if let Some(odd) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Err(format!("{:?} is no field; addr, addr4, proto, port and src_addr are", cut(odd)));
    }
    let field = |name: &str| object.get(name).filter(|value| !value.is_null());
    let proto = field("proto").map_or(Ok(Proto::TcpUdp), |value| match value {
        Value::String(text) => Proto::parse(text),
        other => Err(format!("{} is no protocol; write tcp+udp, tcp, udp or all", shown(other))),
    });
    let proto = proto.map_err(|reason| format!("proto: {reason}"))?;
    let (addr, addr4) = (hosts(object, "addr")?, hosts(object, "addr4")?);
    if addr.is_empty() && addr4.is_empty() {
        return Err("addr: names no host; write names or IPv6 addresses of nodes of the job, with blanks between or in a list".into());
    }
    let written = match (field("port"), proto) {
        (Some(_), Proto::All) => {
            return Err("port: not with proto all, which opens every port; leave one of them out".into());
        }
        (None, Proto::All) => Written::default(),
        (Some(value), _) => Written::parse(value).map_err(|reason| format!("port: {reason}"))?,
        (None, _) => {
            return Err(format!(
                "port: missing, and needed with proto {}; write a port such as 22, or proto all",
                proto.as_str()
            ));
        }
    };
    let sources = words(object, "src_addr")?.iter().map(|word| source(word)).collect::<Result<_, _>>()?;
    if field("src_addr").is_some() && words(object, "src_addr")?.is_empty() {
        return Err(
            "src_addr: names nobody; write hosts and networks, or leave it out to let everybody in".into()
        );
    }
    Ok(Asked { addr, addr4, proto, ports: written.ports, sources, hints: written.hints })
}

fn hosts(object: &Map<String, Value>, key: &str) -> Result<BTreeSet<Host>, String> {
    let host = |word: String| match (word.parse(), HostName::parse(&word)) {
        (Ok(address), _) if key == "addr4" && IpAddr::is_ipv6(&address) => {
            Err(format!("addr4: {address} is an IPv6 address; write it in addr"))
        }
        (Ok(address), _) => Ok(Host::Address(address)),
        (_, Some(name)) => Ok(Host::Name(name)),
        _ => Err(format!(
            "{key}: {:?} is neither a host name nor an address; write NODE.SITE.grid5000.fr or 2001:db8::1",
            cut(&word)
        )),
    };
    words(object, key)?.into_iter().map(host).collect()
}

fn source(word: &str) -> Result<Source, String> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(Source::Net(address.into()));
    }
    if let Ok(net) = word.parse::<IpNet>() {
        if net.trunc() != net {
            return Err(format!("src_addr: {word} has bits beyond its length; write {}", net.trunc()));
        }
        return Ok(Source::Net(net));
    }
    let bad = || {
        format!(
            "src_addr: {:?} is no host and no network; write 2001:db8::/32, 2001:db8::1 or a name",
            cut(word)
        )
    };
    HostName::parse(word).map(Source::Name).ok_or_else(bad)
}

/// A text with blanks or commas between, or a list of texts.
fn words(object: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let split = |text: &str| -> Vec<String> {
        text.split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let bad = |value: &Value| format!("{key}: {} is no text; write a text or a list of texts", shown(value));
    let words = match object.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => split(text),
        Some(Value::Array(all)) => {
            let texts = all.iter().map(|one| one.as_str().map(split).ok_or_else(|| bad(one)));
            texts.collect::<Result<Vec<_>, _>>()?.concat()
        }
        Some(other) => return Err(bad(other)),
    };
    if words.len() > MOST {
        return Err(format!("{key}: {} words, at most {MOST} are taken; send several openings", words.len()));
    }
    Ok(words)
}

/// A value of a request for a message.
pub fn shown(value: &Value) -> impl fmt::Display {
    cut(&value.to_string())
}

/// What others wrote, short enough for a message.
pub fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
#[path = "openings_tests.rs"]
mod tests;
