//! `/etc/pilotage/policy.toml`: reading it, and its meaning.
//!
//! Unknown keys are errors. Every error names line and column. The keys, their defaults and examples are in
//! `docs/policy.md`; [`raw`] has the same list as the parser sees it.

mod raw;

use crate::callers::CallerPattern;
use crate::glexec_conf::GlexecConf;
use crate::ids::{IdRange, IdSet};
use crate::ports::{PortRange, PortWall};
use crate::services::ServicePorts;
use identity::{AccountName, Malformed, Service};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the policy lies.
pub const POLICY_FILE: &str = "/etc/pilotage/policy.toml";

/// The whole policy of a site.
#[derive(Debug, Clone)]
pub struct SitePolicy {
    /// `[callers] allow`: who may call `glexec`; united with `user_white_list` of `glexec.conf`.
    pub callers: Vec<CallerPattern>,
    /// `[accounts]`.
    pub accounts: AccountsPolicy,
    /// `[trust]`.
    pub trust: TrustPolicy,
    /// `[bans]`.
    pub bans: BansPolicy,
    /// `[mapping]`.
    pub mapping: MappingPolicy,
    /// `[payload]`.
    pub payload: PayloadPolicy,
    /// `[ports]`.
    pub ports: PortsPolicy,
    /// `[services]`.
    pub services: ServicePorts,
    /// `[accounting]`.
    pub accounting: AccountingPolicy,
}

/// Which local accounts a payload may get, whatever a mapping service says.
#[derive(Debug, Clone)]
pub struct AccountsPolicy {
    /// Uids that may be mapped to.
    pub uids: IdSet,
    /// Accounts that may be mapped to by name, whatever their uid (but never below the floor).
    pub names: Vec<AccountName>,
    /// Gids that a payload may have, primary or supplementary.
    pub gids: IdSet,
    /// Groups of the caller that survive the switch: the batch system tracks its jobs by them.
    pub keep_gids: IdSet,
}

/// Which credentials are believed.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// Hashed directory of CA certificates, signing policies and CRLs.
    pub ca_dir: PathBuf,
    /// Directory of LSC files and VOMS server certificates, one folder per VO.
    pub voms_dir: PathBuf,
    /// Refuse CAs without a CRL.
    pub require_crl: bool,
    /// Longest validity of a proxy, from its notBefore to its notAfter.
    pub max_proxy_lifetime: Duration,
    /// Accept limited proxies.
    pub allow_limited: bool,
    /// What else of a chain is accepted.
    pub rules: identity::ChainRules,
}

/// A path and whether the administrator wrote it: only a written one must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredPath {
    /// The path.
    pub path: PathBuf,
    /// False when it is the built-in default.
    pub explicit: bool,
}

/// Who is locked out, whatever the mapping says. Same grammar as a grid-mapfile; only the key counts.
#[derive(Debug, Clone)]
pub struct BansPolicy {
    /// Banned DNs; `*` is a wildcard.
    pub dn_file: ConfiguredPath,
    /// Banned FQANs; `*` is a wildcard.
    pub fqan_file: ConfiguredPath,
}

/// A place where mappings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapSource {
    /// DN to account, local file.
    GridMapfile,
    /// FQAN to account, local file.
    VomsMapfile,
    /// A service on the network.
    Service(Service),
}

impl fmt::Display for MapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MapSource::GridMapfile => "grid-mapfile",
            MapSource::VomsMapfile => "voms-mapfile",
            MapSource::Service(service) => service.name(),
        })
    }
}

/// How an identity becomes an account.
#[derive(Debug, Clone)]
pub struct MappingPolicy {
    /// First source that knows the user decides; a Deny of a service ends the search.
    pub order: Vec<MapSource>,
    /// DN to account.
    pub grid_mapfile: PathBuf,
    /// FQAN to account.
    pub voms_mapfile: PathBuf,
    /// FQAN to group: the groups of those whom the VOMS map file maps. `None`: they have those of their account.
    pub group_mapfile: Option<PathBuf>,
    /// Where accounts of pools are leased; `None`: map files' pools are skipped.
    pub gridmapdir: Option<PathBuf>,
    /// How long an answer of a service is reused.
    pub cache_ttl: Duration,
    /// The services that are described.
    pub services: BTreeMap<&'static str, ServicePolicy>,
    /// Keys and sections that are set although their source is not in `order`, each with that source: they have no effect.
    pub idle: Vec<(String, MapSource)>,
}

/// How to reach a mapping service.
#[derive(Debug, Clone)]
pub struct ServicePolicy {
    /// Tried in turn until one answers.
    pub endpoints: Vec<String>,
    /// Certificate of this host, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// For the whole conversation.
    pub timeout: Duration,
}

/// How far apart two sessions of one account are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// As the kernel keeps processes of one uid: they may signal and trace each other.
    #[default]
    Session,
    /// As if they were two accounts: no signals, no tracing, no descriptors of each other.
    Account,
}

/// By what two sessions of one account are kept apart on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// They are not.
    Nothing,
    /// A Landlock domain for each.
    Domain,
    /// A process namespace for each, where the kernel has no such domains.
    Namespace,
}

/// Where the payload's copy of the proxy lies when the call does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetProxy {
    /// Under a name of the session's own that nobody can guess, removed at the end.
    #[default]
    Session,
    /// `/tmp/x509up_u<uid>`, the same for all sessions of the account, as gLExec had it; it stays.
    Account,
}

/// What happens to a payload that calls `glexec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NestedPolicy {
    /// The call fails.
    Refuse,
    /// The call fails and the payload is ended.
    Kill,
}

/// How payloads run.
#[derive(Debug, Clone)]
pub struct PayloadPolicy {
    /// Set `PR_SET_NO_NEW_PRIVS` before exec: setuid programs give the payload nothing.
    pub no_new_privs: bool,
    /// Reaction to a nested call.
    pub nested: NestedPolicy,
    /// End every process of the payload once its first one has ended.
    pub kill_leftovers: bool,
    /// Give the payload a process namespace and a `/proc` of its own.
    pub pid_namespace: bool,
    /// End every process of the payload when the process that called `glexec` has ended.
    pub end_with_caller: bool,
    /// How far apart two sessions of one account are kept.
    pub isolate: Isolation,
    /// Where the payload's copy of the proxy lies when the call does not say.
    pub target_proxy: TargetProxy,
}

impl PayloadPolicy {
    /// What `glexec.conf` must allow for the walls to stand; reason and remedy when it does not.
    pub fn walls_stand_with(&self, conf: &GlexecConf) -> Result<(), &'static str> {
        if self.pid_namespace && !conf.linger {
            return Err(
                "[payload] pid_namespace cannot be had with linger = no: the payload takes the place of \
                        glexec, and no process can move into a new namespace; set linger = yes in glexec.conf, \
                        or remove pid_namespace",
            );
        }
        if self.end_with_caller && !conf.linger {
            return Err(
                "[payload] end_with_caller cannot be had with linger = no: no glexec stays to see the caller's \
                        end; set linger = yes in glexec.conf, or remove end_with_caller",
            );
        }
        Ok(())
    }

    /// By what this host keeps sessions of one account apart, as `isolate` asks; reason and remedy when it cannot.
    /// `has_domains` is whether its kernel has Landlock domains that keep signals in (Linux 6.12).
    pub fn separation(&self, conf: &GlexecConf, has_domains: bool) -> Result<Separation, &'static str> {
        match self.isolate {
            Isolation::Session => Ok(Separation::Nothing),
            Isolation::Account if has_domains => Ok(Separation::Domain),
            Isolation::Account if !conf.linger => Err(
                "[payload] isolate = \"account\" needs Linux 6.12, or linger = yes in glexec.conf for a process \
                 namespace; set it, or remove isolate",
            ),
            Isolation::Account if !self.kill_leftovers => Err(
                "[payload] isolate = \"account\" needs Linux 6.12, or a process namespace, whose end ends every \
                 process in it and so contradicts kill_leftovers = false; remove one of them",
            ),
            Isolation::Account => Ok(Separation::Namespace),
        }
    }
}

/// Callback ports.
#[derive(Debug, Clone)]
pub struct PortsPolicy {
    /// What the firewall lets in; `None` leases nothing.
    pub range: Option<PortRange>,
    /// Ports in a block.
    pub per_payload: u16,
    /// Ports for a payload that asks for none; 0: it gets none.
    pub default: u16,
    /// Rest between two payloads on one block (TIME_WAIT).
    pub quarantine: Duration,
    /// What callers outside should dial; `None` means this host's name.
    pub hostname: Option<String>,
    /// One share per host behind a common address.
    pub hosts: BTreeMap<String, PortRange>,
    /// Names of what payloads with ports find in their environment, as written; `None` leaves it to us. Read by
    /// [`crate::ports::variables::chosen`], and not here: the setuid program shall not carry the names of other programs.
    pub variables: Option<Vec<String>>,
    /// URL of the service that opens the site's border for leases (`gridfw`, or the one of Grid'5000), without a final slash;
    /// its path names the site where it ends in `/sites/SITE`.
    pub opener: Option<String>,
    /// Whether the kernel keeps payloads inside their leases.
    pub enforce: Enforce,
    /// Whether ports of loopback addresses are free all the same.
    pub loopback: bool,
}

/// Whether the kernel keeps payloads inside their leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforce {
    /// It does not.
    Off,
    /// Where the host has the means; the record says whether it had.
    WherePossible,
    /// Where the host has no means nothing runs.
    Required,
}

/// This host is missing among those that the site has divided its range between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoShare {
    host: String,
}

impl fmt::Display for NoShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[ports] hosts does not name this host, {}: it has no ports, since any would be a neighbour's; \
             add its share, or remove hosts",
            self.host
        )
    }
}

impl std::error::Error for NoShare {}

/// Names of hosts are the same in any case, and with a dot at their end (RFC 1034 3.1).
fn same_host(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

impl PortsPolicy {
    /// The ports that the host of these names may lease: its share when shares are listed, else the whole range; `None`
    /// where the site leases nothing.
    ///
    /// # Errors
    /// For a host that is missing from a list of shares: it would collide with its neighbours.
    pub fn share_of(&self, names: &[&str]) -> Result<Option<PortRange>, NoShare> {
        if self.hosts.is_empty() {
            return Ok(self.range);
        }
        let listed = |name: &&str| {
            let named =
                |host: &&String| host.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'));
            self.hosts.keys().find(named).and_then(|host| self.hosts.get(host).copied())
        };
        let share = names.iter().find_map(listed);
        share.map(Some).ok_or_else(|| NoShare { host: names.join(", ") })
    }

    /// Whether a caller may give a payload these ports on this host, where living sessions have those of `taken`. The
    /// error says why not.
    pub fn may_give(&self, asked: PortRange, host: &str, taken: &[PortRange]) -> Result<(), String> {
        let Some(share) = self.share_here(host) else {
            return Err(format!("ports {asked} are asked for, and this site leases none: [ports] range"));
        };
        if !share.covers(asked) {
            return Err(format!("ports {asked} leave the range of this host, {share}"));
        }
        match taken.iter().find(|other| other.meets(asked)) {
            Some(other) => Err(format!("ports {asked}: a living session has {other}")),
            None => Ok(()),
        }
    }

    /// The ports that this host may lease, by the name that its kernel knows; `None` where the site leases nothing.
    pub fn share_here(&self, host: &str) -> Option<PortRange> {
        self.range.map(|range| self.share_by_any_name(host).unwrap_or(range))
    }

    /// The kernel may know a host by the first part of its name only.
    fn share_by_any_name(&self, host: &str) -> Option<PortRange> {
        let first = |name: &str| name.split('.').next().map(str::to_ascii_lowercase);
        let mut alike = self.hosts.iter().filter(|(name, _)| first(name) == first(host));
        let only = alike.next().filter(|_| alike.next().is_none()).map(|(_, share)| *share);
        self.share_of(&[host]).ok().flatten().or(only)
    }

    /// The wall around a payload with this lease; `None` where the site wants none.
    pub fn wall(&self, lease: Option<PortRange>) -> Option<PortWall> {
        let required = self.enforce == Enforce::Required;
        (self.enforce != Enforce::Off).then_some(PortWall { lease, loopback: self.loopback, required })
    }
}

/// The site's own record.
#[derive(Debug, Clone)]
pub struct AccountingPolicy {
    /// Spool of usage records.
    pub spool: PathBuf,
    /// Run nothing that cannot be recorded.
    pub require_record: bool,
    /// How often the usage of a payload that runs is recorded.
    pub checkpoint: Duration,
    /// Whether arguments are recorded, or the program and the digest of all arguments only.
    pub arguments: bool,
    /// Name of a benchmark and its score for one core of this host.
    pub benchmark: Option<String>,
}

/// What is wrong with a policy file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1; `None` when the file could not be read.
    pub position: Option<(usize, usize)>,
    /// Reason and remedy, one line.
    pub reason: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for PolicyError {}

impl SitePolicy {
    /// Reads and parses a file. `glexec` does not use this: it checks the descriptor first, see [`Self::parse`].
    pub fn load(file: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read(file).map_err(|e| PolicyError {
            file: file.to_owned(),
            position: None,
            reason: format!("cannot be read: {e}"),
        })?;
        Self::parse(file, text)
    }

    /// Parses the text of `file`.
    pub fn parse(file: &Path, text: impl AsRef<[u8]>) -> Result<Self, PolicyError> {
        let text = text.as_ref();
        let text = std::str::from_utf8(text).map_err(|e| {
            let before = String::from_utf8_lossy(&text[..e.valid_up_to()]);
            PolicyError {
                file: file.to_owned(),
                position: Some(position(&before, before.len())),
                reason: "a byte that is not UTF-8, which TOML is written in; save the file as UTF-8".into(),
            }
        })?;
        let located = |span: Option<std::ops::Range<usize>>, reason: String| PolicyError {
            file: file.to_owned(),
            position: span.map(|s| position(text, s.start)),
            reason: reason.replace('\n', " "),
        };
        let raw: raw::Policy = toml::from_str(text).map_err(|e| located(e.span(), e.message().to_owned()))?;
        raw.check().map_err(|(span, reason)| located(Some(span), reason))
    }
}

/// Line and column of a byte offset, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl AccountsPolicy {
    fn parse(allow: &[String], gids: &[String], keep: &[String]) -> Result<Self, Malformed> {
        // A name may begin with a digit, and then it is no number and no two numbers with a dash.
        let is_range = |s: &&String| s.bytes().all(|c| c.is_ascii_digit() || c == b'-' || c == b' ');
        let ranges = |list: &[String]| list.iter().map(|s| IdRange::parse(s)).collect::<Result<IdSet, _>>();
        Ok(Self {
            uids: allow.iter().filter(is_range).map(|s| IdRange::parse(s)).collect::<Result<_, _>>()?,
            names: allow
                .iter()
                .filter(|s| !is_range(s))
                .map(|s| AccountName::parse(s))
                .collect::<Result<_, _>>()?,
            gids: ranges(gids)?,
            keep_gids: ranges(keep)?,
        })
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
