//! The configuration file.

use crate::decide::Rules;
use crate::openings::Proto;
use crate::ports::Written;
use crate::render::{Hook, Table, TableName};
use crate::system::Batch;
use crate::who::Believed;
use clap::ValueEnum;
use identity::{AccountName, Dn};
use ipnet::IpNet;
use serde::Deserialize;
use service::config::{self, BadConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What holds the openings on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// nftables.
    Nft,
    /// Only the log: what would be done.
    DryRun,
    /// Nothing: there are remote firewalls only.
    None,
}

/// A whole configuration: the file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    listen: Option<String>,
    backend: Option<Backend>,
    batch: Option<Batch>,
    store: Option<PathBuf>,
    sites: Vec<String>,
    every: Option<String>,
    front: Front,
    users: BTreeMap<Dn, AccountName>,
    policy: Policy,
    nft: Nft,
    remote: Vec<Remote>,
    agent: Agent,
    queue: Queue,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Queue {
    url: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Front {
    addresses: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remote {
    url: String,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Agent {
    masters: Vec<Dn>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    ports: String,
    protocols: Vec<String>,
    sources: Vec<IpNet>,
    openings_per_job: usize,
    ipv4: bool,
    flush: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ports: "1..65535".into(),
            protocols: ["tcp+udp", "tcp", "udp", "all"].map(str::to_owned).into(),
            sources: Vec::new(),
            openings_per_job: 100,
            ipv4: true,
            flush: false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nft {
    table: String,
    hook: Hook,
    protect: Vec<IpNet>,
    mark: u32,
}

impl Default for Nft {
    fn default() -> Self {
        Self { table: "gridfw".into(), hook: Hook::Forward, protect: Vec::new(), mark: 0 }
    }
}

/// A firewall elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Certificate and key that are shown there; those of the service when there are none.
    pub shown: Option<(PathBuf, PathBuf)>,
}

/// A configuration whose values have been checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Option<String>,
    /// What holds the openings.
    pub backend: Option<Backend>,
    /// Whose jobs.
    pub batch: Option<Batch>,
    /// Where openings are kept.
    pub store: PathBuf,
    /// Names of the site; any when there is none.
    pub sites: Vec<String>,
    /// How often jobs and firewalls are looked at.
    pub every: Duration,
    /// Who is believed.
    pub believed: Believed,
    /// What may be opened.
    pub rules: Rules,
    /// Whether removal always cuts connections.
    pub always_cut: bool,
    /// The table.
    pub table: Table,
    /// Further firewalls.
    pub remote: Vec<Elsewhere>,
    /// Who tells this host what to hold, when it is an agent.
    pub masters: Vec<Dn>,
    /// The queue whose pilots are jobs.
    pub queue: Option<Elsewhere>,
}

impl Config {
    /// Reads and checks a file; one that nobody named may be missing.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn load(path: &Path, named: bool) -> Result<Self, BadConfig> {
        match named || config::standard(path).is_some() {
            true => config::load(path, Self::parse),
            false => Self::parse(""),
        }
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Line and column, or key, with the reason.
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        config::parse::<File>(text)?.check().map_err(BadConfig::from)
    }
}

impl File {
    fn check(self) -> Result<Config, String> {
        let rules = self.policy.rules()?;
        let name = TableName::parse(&self.nft.table);
        let name = name.ok_or_else(|| {
            format!("[nft] table: {:?} is no name; use letters, digits and _", self.nft.table)
        })?;
        let network = |text: &String| {
            let host = text.parse::<std::net::IpAddr>().map(IpNet::from);
            host.or_else(|_| text.parse()).map_err(|_| format!("[front] addresses: {text:?} is no address and no network; write 192.0.2.1 or 192.0.2.0/24"))
        };
        let front_ends = self.front.addresses.iter().map(network).collect::<Result<_, _>>()?;
        let every = self.every.as_deref().unwrap_or("60s");
        let every = identity::duration::parse(every).map_err(|e| format!("every: {e}"))?;
        if every.is_zero() {
            return Err("every: 0 would never rest; write 60s".into());
        }
        let remote = self
            .remote
            .into_iter()
            .map(|remote| elsewhere("[[remote]]", &remote.url, remote.cert, remote.key));
        let remote = remote.collect::<Result<_, _>>()?;
        let Queue { url, cert, key } = self.queue;
        let queue = match url {
            Some(url) => Some(elsewhere("[queue]", &url, cert, key)?),
            None if cert.is_some() || key.is_some() => {
                return Err("[queue]: cert and key have no effect without url; add url".into());
            }
            None => None,
        };
        let odd = self.sites.iter().find(|site| !is_site(site));
        if let Some(odd) = odd {
            return Err(format!(
                "sites: {odd:?} is no name of a site; use letters, digits, '-', '_' and '.'"
            ));
        }
        Ok(Config {
            listen: self.listen,
            backend: self.backend,
            batch: self.batch,
            store: self.store.unwrap_or_else(|| "/var/lib/pilotage/gridfw/gridfw.db".into()),
            sites: self.sites,
            every,
            believed: Believed { front_ends, users: self.users },
            rules,
            always_cut: self.policy.flush,
            table: Table { name, hook: self.nft.hook, protect: self.nft.protect, mark: self.nft.mark },
            remote,
            masters: self.agent.masters,
            queue,
        })
    }
}

impl Policy {
    fn rules(&self) -> Result<Rules, String> {
        let written =
            Written::parse(&self.ports.as_str().into()).map_err(|e| format!("[policy] ports: {e}"))?;
        let protocols = self.protocols.iter().map(|text| Proto::parse(text)).collect::<Result<Vec<_>, _>>();
        let protocols = protocols.map_err(|e| format!("[policy] protocols: {e}"))?;
        let Self { sources, openings_per_job: most, ipv4, .. } = self.clone();
        Ok(Rules { ports: written.ports, protocols, sources, most, ipv4 })
    }
}

fn elsewhere(
    section: &str,
    url: &str,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Elsewhere, String> {
    let shown = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(format!("{section}: cert and key belong together; give both, or neither")),
    };
    let url = origin(url).map_err(|reason| format!("{section} url: {reason}"))?;
    Ok(Elsewhere { url, shown })
}

/// `https://HOST:PORT` and nothing else.
///
/// # Errors
/// What it should be.
pub fn origin(url: &str) -> Result<String, String> {
    let bad = || format!("{url:?} is no place of a server; write https://HOST:PORT");
    let place = url.strip_prefix("https://").ok_or_else(bad)?;
    let place = place.strip_suffix('/').unwrap_or(place);
    place.parse::<service::Address>().map_err(|_| bad())?;
    Ok(format!("https://{place}"))
}

/// Whether a text can be the name of a site in a path.
pub fn is_site(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_good_configuration_with_every_key() {
        let sample = include_str!("../../packaging/gridfw.toml");
        let empty = Config::parse(sample).unwrap();
        assert!(
            empty.believed.front_ends.is_empty() && empty.believed.users.is_empty(),
            "as shipped, nobody is believed"
        );
        let uncommented: String =
            sample.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
        let config = Config::parse(&uncommented).unwrap();
        assert!(!config.believed.front_ends.is_empty() && !config.believed.users.is_empty());
        assert!(!config.remote.is_empty() && !config.masters.is_empty() && config.queue.is_some());
        assert!(config.always_cut && !config.table.protect.is_empty() && config.table.mark != 0);
        for key in [
            "listen",
            "backend",
            "batch",
            "store",
            "sites",
            "every",
            "addresses",
            "ports",
            "protocols",
            "sources",
            "openings_per_job",
            "ipv4",
            "flush",
            "table",
            "hook",
            "protect",
            "mark",
            "url",
            "cert",
            "key",
            "masters",
        ] {
            assert!(
                uncommented.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "{key} is not in the sample"
            );
        }
    }

    #[test]
    fn errors_name_their_place_and_the_remedy() {
        for (text, why) in [
            ("x = 1\n", "line 1, column 1: unknown field `x`"),
            ("[nft]\n  tablo = 'a'\n", "line 2, column 3"),
            ("[nft]\ntable = 'a b'\n", "letters, digits and _"),
            ("[front]\naddresses = ['front']\n", "192.0.2.0/24"),
            ("[policy]\nports = 'ssh'\n", "8000..8010"),
            ("[policy]\nprotocols = ['gre']\n", "tcp+udp, tcp, udp or all"),
            ("every = '0s'\n", "60s"),
            ("every = 'soon'\n", "10s, 5m"),
            ("sites = ['a/b']\n", "sites:"),
            ("[[remote]]\nurl = 'http://a:1'\n", "https://HOST:PORT"),
            ("[[remote]]\nurl = 'https://a/x'\n", "https://HOST:PORT"),
            ("[[remote]]\nurl = 'https://a:1'\ncert = '/c'\n", "give both"),
            ("batch = 'lsf'\n", "unknown variant"),
            ("[queue]\nurl = 'queue.example.org'\n", "[queue] url: "),
            ("[queue]\ncert = '/c'\nkey = '/k'\n", "no effect without url"),
        ] {
            let reason = Config::parse(text).expect_err(text).to_string();
            assert!(reason.contains(why), "{reason}");
        }
        assert!(
            Config::load(Path::new("/nowhere"), true).is_err()
                && Config::load(Path::new("/nowhere"), false).is_ok()
        );
    }
}
