//! `/etc/pilotage/factory.toml`: unknown keys are errors, and every value is checked before the factory goes by it.

use crate::decide::{Limits, Site, Vo};
use batch::{Batch, Line, System};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    queue: String,
    #[serde(default = "default_proxy")]
    proxy: PathBuf,
    #[serde(default = "default_ca_dir")]
    ca_dir: PathBuf,
    #[serde(default = "default_ledger")]
    ledger: PathBuf,
    #[serde(default = "default_interval")]
    interval: String,
    #[serde(default = "default_unknown_after")]
    unknown_after: String,
    #[serde(default = "default_backoff")]
    backoff: String,
    #[serde(default = "default_total")]
    max_pilots: u32,
    max_per_user: Option<u32>,
    #[serde(default)]
    vo: BTreeMap<String, RawVo>,
    #[serde(default)]
    site: BTreeMap<String, RawSite>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVo {
    max_pilots: u32,
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    system: String,
    ssh: Option<String>,
    account: Option<String>,
    queue: Option<String>,
    project: Option<String>,
    parallel_environment: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default = "one")]
    cores: u32,
    memory: Option<String>,
    walltime: String,
    #[serde(default = "one")]
    slots: u32,
    max_pilots: u32,
    max_pending: Option<u32>,
    #[serde(default = "default_pilot")]
    pilot: String,
    pilot_proxy: Option<String>,
    #[serde(default)]
    pilot_options: Vec<String>,
    #[serde(default = "default_idle")]
    max_idle: String,
    logs: Option<String>,
}

fn default_proxy() -> PathBuf {
    "/var/lib/pilotage/factory/proxy.pem".into()
}
fn default_ca_dir() -> PathBuf {
    "/etc/grid-security/certificates".into()
}
fn default_ledger() -> PathBuf {
    "/var/lib/pilotage/factory/ledger.db".into()
}
fn default_interval() -> String {
    "30s".into()
}
fn default_unknown_after() -> String {
    "2m".into()
}
fn default_backoff() -> String {
    "1m".into()
}
fn default_total() -> u32 {
    1000
}
fn default_pilot() -> String {
    "/usr/bin/pilot".into()
}
fn default_idle() -> String {
    "5m".into()
}
fn one() -> u32 {
    1
}

/// How pilots of a site are submitted and started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The batch system.
    pub batch: Batch,
    /// Partition or queue.
    pub queue: Option<Line>,
    /// Project.
    pub project: Option<Line>,
    /// Parallel environment.
    pub environment: Option<Line>,
    /// More options of the submission.
    pub options: Vec<Line>,
    /// Memory of the job in MiB.
    pub memory_mib: Option<u64>,
    /// Program on the worker nodes.
    pub pilot: Line,
    /// The pilot's proxy on the worker nodes.
    pub pilot_proxy: Option<Line>,
    /// More options of `pilot run`.
    pub pilot_options: Vec<Line>,
    /// How long a pilot without payloads stays, seconds.
    pub max_idle: u64,
    /// Directory for the output of the jobs.
    pub logs: Option<Line>,
}

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// URL of the queue.
    pub queue: Line,
    /// The factory's own proxy.
    pub proxy: PathBuf,
    /// Trusted authorities.
    pub ca_dir: PathBuf,
    /// The ledger.
    pub ledger: PathBuf,
    /// Pause between rounds.
    pub interval: Duration,
    /// Seconds after which a job that no listing shows does not exist.
    pub unknown_after: u64,
    /// Caps over all sites.
    pub limits: Limits,
    /// What sites offer, in the order of their names.
    pub sites: Vec<Site>,
    /// How to submit there, by name.
    pub places: BTreeMap<String, Place>,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// One line with file, key, reason and remedy.
    pub fn load(file: &Path) -> Result<Self, String> {
        service::config::load(file, Self::parse).map_err(|e| e.to_string())
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// With key, reason and remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = service::config::parse(text).map_err(|e| e.to_string())?;
        if !raw.queue.starts_with("https://") {
            return Err(format!("queue = {:?} does not begin with https://", raw.queue));
        }
        if raw.site.is_empty() {
            return Err("there is no [site.NAME]; describe at least one".into());
        }
        let vos =
            raw.vo.into_iter().map(|(name, vo)| Vo { name, max_pilots: vo.max_pilots, members: vo.members });
        let limits = Limits {
            total: raw.max_pilots,
            per_user: raw.max_per_user.unwrap_or(raw.max_pilots),
            vos: vos.collect(),
            backoff: seconds("backoff", &raw.backoff)?.max(1),
        };
        let (mut sites, mut places) = (Vec::new(), BTreeMap::new());
        for (name, raw) in raw.site {
            let (site, place) = site(&name, raw).map_err(|e| format!("[site.{name}] {e}"))?;
            sites.push(site);
            places.insert(name, place);
        }
        Ok(Self {
            queue: line("queue", &raw.queue)?,
            proxy: raw.proxy,
            ca_dir: raw.ca_dir,
            ledger: raw.ledger,
            interval: Duration::from_secs(seconds("interval", &raw.interval)?.max(1)),
            unknown_after: seconds("unknown_after", &raw.unknown_after)?,
            limits,
            sites,
            places,
        })
    }
}

fn site(name: &str, raw: RawSite) -> Result<(Site, Place), String> {
    let system: System = raw.system.parse().map_err(|e: batch::BatchError| format!("system: {e}"))?;
    let account = match (raw.account, &raw.ssh) {
        (Some(account), _) => account,
        (None, Some(ssh)) => ssh.split_once('@').map(|(user, _)| user.to_owned()).ok_or(
            "account is missing: whose jobs are to be listed there? give it, or write ssh = \"USER@HOST\"",
        )?,
        (None, None) => own_account()?,
    };
    let mut batch = Batch::here(system, line("account", &account)?);
    if let Some(ssh) = &raw.ssh {
        batch = batch.over_ssh(line("ssh", ssh)?).map_err(|e| format!("ssh: {e}"))?;
    }
    let (cores, slots) = (positive("cores", raw.cores)?, positive("slots", raw.slots)?);
    if cores < slots {
        return Err(format!("slots = {slots} are more than cores = {cores}"));
    }
    if system == System::GridEngine && cores > 1 && raw.parallel_environment.is_none() {
        return Err(format!("cores = {cores} need parallel_environment (`qconf -spl` lists them)"));
    }
    let walltime = seconds("walltime", &raw.walltime)?;
    let max_idle = seconds("max_idle", &raw.max_idle)?;
    if walltime < 60 {
        return Err("walltime must be 1m at least".into());
    }
    let memory = raw.memory.as_deref().map(bytes).transpose()?;
    let some = |key: &str, text: &Option<String>| text.as_deref().map(|text| line(key, text)).transpose();
    let all = |key: &str, texts: &[String]| texts.iter().map(|t| line(key, t)).collect::<Result<Vec<_>, _>>();
    let place = Place {
        batch,
        queue: some("queue", &raw.queue)?,
        project: some("project", &raw.project)?,
        environment: some("parallel_environment", &raw.parallel_environment)?,
        options: all("options", &raw.options)?,
        memory_mib: memory.map(|bytes| bytes.div_ceil(1 << 20)),
        pilot: line("pilot", &raw.pilot)?,
        pilot_proxy: some("pilot_proxy", &raw.pilot_proxy)?,
        pilot_options: all("pilot_options", &raw.pilot_options)?,
        max_idle,
        logs: some("logs", &raw.logs)?,
    };
    let max_pending = raw.max_pending.unwrap_or(raw.max_pilots);
    let name = name.to_owned();
    let site = Site { name, cores, memory, walltime, slots, max_pilots: raw.max_pilots, max_pending };
    Ok((site, place))
}

fn own_account() -> Result<String, String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    user.map(|user| user.name).ok_or_else(|| "account is missing, and this process's uid has no name".into())
}

fn positive(key: &str, number: u32) -> Result<u32, String> {
    if number == 0 { Err(format!("{key} must be 1 at least")) } else { Ok(number) }
}

fn line(key: &str, text: &str) -> Result<Line, String> {
    Line::parse(text).map_err(|e| format!("{key}: {e}"))
}

fn seconds(key: &str, text: &str) -> Result<u64, String> {
    identity::duration::parse(text).map(|d| d.as_secs()).map_err(|e| format!("{key}: {e}"))
}

/// `2000M`, `16G`: powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("memory = {text:?} is not understood; write a whole number and M or G");
    let (number, unit) = match text.strip_suffix('G') {
        Some(number) => (number, 1u64 << 30),
        None => (text.strip_suffix('M').ok_or_else(bad)?, 1 << 20),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "queue = \"https://q:8443\"\n[site.a]\nsystem = \"slurm\"\naccount = \"pilot\"\n\
                         walltime = \"1h\"\nmax_pilots = 4\n";

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Config::parse(SMALL).unwrap();
        assert_eq!((config.interval.as_secs(), config.unknown_after, config.limits.backoff), (30, 120, 60));
        assert_eq!((config.limits.total, config.limits.per_user), (1000, 1000));
        let site = &config.sites[0];
        assert_eq!((site.cores, site.slots, site.max_pending, site.walltime), (1, 1, 4, 3600));
        assert_eq!(config.places["a"].max_idle, 300);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (change, named) in [
            ("max_pilots = 4\nmax_pilot = 1\n", "line 7, column 1: unknown field `max_pilot`"),
            ("max_pilots = 4\ncores = 0\n", "cores"),
            ("max_pilots = 4\nslots = 2\n", "slots = 2"),
            ("max_pilots = 4\nmemory = \"2T\"\n", "memory"),
            ("max_pilots = 4\nmax_idle = \"5\"\n", "max_idle"),
            ("max_pilots = 4\nssh = \"-oProxyCommand=x\"\n", "ssh"),
            ("max_pilots = -1\n", "line 6, column 14: invalid value"),
            ("", "max_pilots"),
        ] {
            let text = SMALL.replace("max_pilots = 4\n", change);
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(named), "{change}: {error}");
        }
        for (from, to, named) in [
            ("slurm", "lsf", "system"),
            ("https://", "http://", "queue"),
            ("1h", "1", "walltime"),
            ("1h", "5s", "walltime"),
            ("slurm\"", "gridengine\"\ncores = 2", "parallel_environment"),
        ] {
            let error = Config::parse(&SMALL.replace(from, to)).unwrap_err();
            assert!(error.contains(named), "{to}: {error}");
        }
        assert!(Config::parse("queue = \"https://q\"\n").unwrap_err().contains("[site.NAME]"));
        let far = SMALL.replace("account = \"pilot\"", "ssh = \"front\"");
        assert!(Config::parse(&far).unwrap_err().contains("account"));
    }

    /// The sample with every example taken as if it stood there.
    #[test]
    fn the_sample_shows_every_key() {
        let sample = include_str!("../../../packaging/factory.toml");
        let text: String =
            sample.lines().map(|line| format!("{}\n", line.trim_start_matches("#: "))).collect();
        Config::parse(&text).unwrap();
        let all: toml::Table = text.parse().unwrap();
        let known = |text: &str| -> Vec<String> {
            let error = toml::from_str::<Raw>(text).unwrap_err().to_string();
            let list = error.split("expected one of").nth(1).unwrap_or_default().to_owned();
            list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let (top, site) = (known("no_such_key = 1\n"), known("queue = \"\"\n[site.x]\nno_such_key = 1\n"));
        assert!(top.len() >= 11 && site.len() >= 18, "{top:?} {site:?}");
        for key in top {
            assert!(all.contains_key(&key), "packaging/factory.toml lacks {key}");
        }
        let sites = all["site"].as_table().unwrap();
        for key in site {
            let shown = sites.values().any(|site| site.as_table().unwrap().contains_key(&key));
            assert!(shown, "packaging/factory.toml lacks {key} of a site");
        }
    }
}
