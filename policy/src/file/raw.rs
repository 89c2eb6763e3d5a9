//! The keys of `policy.toml` as they stand in the file, and their translation into meaning.

mod services;

use super::*;
use identity::ChainRules;
use serde::{Deserialize, Deserializer, de::Error};
use std::ops::Range;
use toml::Spanned;

/// A finding: where, and what.
type Finding = (Range<usize>, String);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    callers: Callers,
    accounts: Option<Spanned<Accounts>>,
    trust: Trust,
    bans: Bans,
    mapping: Mapping,
    payload: Payload,
    ports: Ports,
    services: services::Services,
    accounting: Accounting,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Callers {
    #[serde(deserialize_with = "each_caller")]
    allow: Vec<CallerPattern>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Accounts {
    allow: Vec<String>,
    gids: Vec<String>,
    keep_gids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Trust {
    #[serde(deserialize_with = "absolute")]
    ca_dir: PathBuf,
    #[serde(deserialize_with = "absolute")]
    voms_dir: PathBuf,
    require_crl: bool,
    #[serde(deserialize_with = "duration")]
    max_proxy_lifetime: Duration,
    allow_limited: bool,
    allow_legacy: bool,
    allow_sha1: bool,
    #[serde(deserialize_with = "rsa_bits")]
    min_rsa_bits: u32,
    #[serde(deserialize_with = "rsa_bits")]
    min_proxy_rsa_bits: u32,
}

impl Default for Trust {
    fn default() -> Self {
        let rules = ChainRules::default();
        Self {
            ca_dir: "/etc/grid-security/certificates".into(),
            voms_dir: "/etc/grid-security/vomsdir".into(),
            require_crl: false,
            max_proxy_lifetime: Duration::from_secs(7 * 86400),
            allow_limited: true,
            allow_legacy: rules.allow_legacy,
            allow_sha1: rules.allow_sha1,
            min_rsa_bits: rules.min_rsa_bits,
            min_proxy_rsa_bits: rules.min_proxy_rsa_bits,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Bans {
    #[serde(deserialize_with = "some_absolute")]
    dn_file: Option<PathBuf>,
    #[serde(deserialize_with = "some_absolute")]
    fqan_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mapping {
    order: Vec<Spanned<String>>,
    #[serde(deserialize_with = "absolute")]
    grid_mapfile: PathBuf,
    #[serde(deserialize_with = "absolute")]
    voms_mapfile: PathBuf,
    group_mapfile: Option<Spanned<String>>,
    gridmapdir: Option<Spanned<String>>,
    #[serde(deserialize_with = "duration")]
    cache_ttl: Duration,
    gums: Option<MapService>,
    scas: Option<MapService>,
    argus: Option<MapService>,
    json: Option<MapService>,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            order: vec![Spanned::new(0..0, "grid-mapfile".into())],
            grid_mapfile: "/etc/grid-security/grid-mapfile".into(),
            voms_mapfile: "/etc/grid-security/voms-mapfile".into(),
            group_mapfile: None,
            gridmapdir: None,
            cache_ttl: Duration::from_secs(120),
            gums: None,
            scas: None,
            argus: None,
            json: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapService {
    endpoints: Spanned<Vec<Spanned<String>>>,
    #[serde(default = "host_cert", deserialize_with = "absolute")]
    cert: PathBuf,
    #[serde(default = "host_key", deserialize_with = "absolute")]
    key: PathBuf,
    #[serde(default = "ten_seconds", deserialize_with = "spanned_duration")]
    timeout: Spanned<Duration>,
}

fn host_cert() -> PathBuf {
    "/etc/grid-security/hostcert.pem".into()
}

fn host_key() -> PathBuf {
    "/etc/grid-security/hostkey.pem".into()
}

fn ten_seconds() -> Spanned<Duration> {
    Spanned::new(0..0, Duration::from_secs(10))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Payload {
    no_new_privs: bool,
    #[serde(deserialize_with = "nested")]
    nested: Spanned<NestedPolicy>,
    kill_leftovers: Spanned<bool>,
    private_tmp: Spanned<bool>,
    pid_namespace: bool,
    end_with_caller: bool,
    #[serde(deserialize_with = "isolation")]
    isolate: Isolation,
    #[serde(deserialize_with = "target_proxy")]
    target_proxy: TargetProxy,
}

impl Payload {
    /// A wall that the administrator asks for and does not get would be worse than an error.
    fn check(self) -> Result<PayloadPolicy, Finding> {
        if *self.private_tmp.get_ref() {
            let reason = "private_tmp is not available in this version; remove it";
            return Err((self.private_tmp.span(), reason.into()));
        }
        if *self.nested.get_ref() == NestedPolicy::Kill && self.no_new_privs {
            let reason = "nested = \"kill\" has no effect with no_new_privs = true: a glexec that a payload starts then has no \
                          right to end anything; add no_new_privs = false, or remove nested";
            return Err((self.nested.span(), reason.into()));
        }
        if self.pid_namespace && !self.kill_leftovers.get_ref() {
            let reason = "kill_leftovers = false contradicts pid_namespace, whose end ends every process in it; \
                          remove one of them";
            return Err((self.kill_leftovers.span(), reason.into()));
        }
        Ok(PayloadPolicy {
            no_new_privs: self.no_new_privs,
            nested: self.nested.into_inner(),
            kill_leftovers: self.kill_leftovers.into_inner(),
            pid_namespace: self.pid_namespace,
            end_with_caller: self.end_with_caller,
            isolate: self.isolate,
            target_proxy: self.target_proxy,
        })
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self {
            no_new_privs: true,
            nested: Spanned::new(0..0, NestedPolicy::Refuse),
            kill_leftovers: Spanned::new(0..0, true),
            private_tmp: Spanned::new(0..0, false),
            pid_namespace: false,
            end_with_caller: false,
            isolate: Isolation::default(),
            target_proxy: TargetProxy::default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ports {
    #[serde(deserialize_with = "some_port_range")]
    range: Option<PortRange>,
    per_payload: Spanned<u16>,
    default: Spanned<u16>,
    #[serde(deserialize_with = "duration")]
    quarantine: Duration,
    enforce: Option<Spanned<EnforceWord>>,
    loopback: Spanned<bool>,
    hostname: String,
    hosts: BTreeMap<String, Spanned<String>>,
    variables: Option<Vec<String>>,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            range: None,
            per_payload: Spanned::new(0..0, 10),
            default: Spanned::new(0..0, 0),
            quarantine: Duration::from_secs(60),
            enforce: None,
            loopback: Spanned::new(0..0, true),
            hostname: String::new(),
            hosts: BTreeMap::new(),
            variables: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EnforceWord {
    Flag(bool),
    Text(String),
}

impl Ports {
    /// A range is there to be kept: without a word it is, where the host has the means.
    fn enforce(&self) -> Result<Enforce, Finding> {
        let wanted = match self.enforce.as_ref().map(|word| (word.span(), word.get_ref())) {
            None => return Ok(if self.range.is_some() { Enforce::WherePossible } else { Enforce::Off }),
            Some((_, EnforceWord::Flag(false))) => return Ok(Enforce::Off),
            Some((span, EnforceWord::Flag(true))) => (span, Enforce::WherePossible),
            Some((span, EnforceWord::Text(text))) if text == "require" => (span, Enforce::Required),
            Some((span, EnforceWord::Text(text))) => {
                return Err((span, format!("enforce is {text:?}; write true, false or \"require\"")));
            }
        };
        match (wanted, self.range) {
            ((_, enforce), Some(_)) => Ok(enforce),
            ((span, _), None) => {
                Err((span, "enforce has no effect without range; add range, or remove enforce".into()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Accounting {
    #[serde(deserialize_with = "absolute")]
    spool: PathBuf,
    require_record: bool,
    #[serde(deserialize_with = "duration")]
    checkpoint: Duration,
    arguments: bool,
    benchmark: String,
}

impl Default for Accounting {
    fn default() -> Self {
        Self {
            spool: "/var/spool/pilotage/records".into(),
            require_record: true,
            checkpoint: Duration::from_secs(600),
            arguments: true,
            benchmark: String::new(),
        }
    }
}

impl Accounting {
    fn check(self) -> Result<AccountingPolicy, Finding> {
        let scored = |text: &str| {
            let (name, score) = text.split_once(' ')?;
            let good = name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c));
            (good && !name.is_empty() && score.parse::<f64>().is_ok_and(|n| n.is_finite() && n > 0.0))
                .then_some(())
        };
        if !self.benchmark.is_empty() && scored(&self.benchmark).is_none() {
            let what =
                "[accounting] benchmark: write a name and the score of one core, such as \"HEPscore23 12.5\"";
            return Err((0..0, what.into()));
        }
        if self.checkpoint.as_secs() < 1 {
            return Err((0..0, "[accounting] checkpoint: write 1s or more".into()));
        }
        Ok(AccountingPolicy {
            spool: self.spool,
            require_record: self.require_record,
            checkpoint: self.checkpoint,
            arguments: self.arguments,
            benchmark: Some(self.benchmark).filter(|text| !text.is_empty()),
        })
    }
}

impl Policy {
    pub(super) fn check(self) -> Result<SitePolicy, Finding> {
        let accounts = self.accounts.unwrap_or_else(|| Spanned::new(0..0, Accounts::default()));
        let (span, accounts) = (accounts.span(), accounts.into_inner());
        if !accounts.allow.is_empty() && accounts.gids.is_empty() {
            return Err((
                span,
                "[accounts] allow without gids: list the groups that payloads may have".into(),
            ));
        }
        let accounts = AccountsPolicy::parse(&accounts.allow, &accounts.gids, &accounts.keep_gids)
            .map_err(|e| (span, format!("[accounts] {e}")))?;
        Ok(SitePolicy {
            callers: self.callers.allow,
            accounts,
            trust: TrustPolicy {
                ca_dir: self.trust.ca_dir,
                voms_dir: self.trust.voms_dir,
                require_crl: self.trust.require_crl,
                max_proxy_lifetime: self.trust.max_proxy_lifetime,
                allow_limited: self.trust.allow_limited,
                rules: ChainRules {
                    allow_legacy: self.trust.allow_legacy,
                    allow_sha1: self.trust.allow_sha1,
                    min_rsa_bits: self.trust.min_rsa_bits,
                    min_proxy_rsa_bits: self.trust.min_proxy_rsa_bits,
                },
            },
            bans: BansPolicy {
                dn_file: configured(self.bans.dn_file, "/etc/grid-security/ban-mapfile"),
                fqan_file: configured(self.bans.fqan_file, "/etc/grid-security/ban-voms-mapfile"),
            },
            mapping: self.mapping.check()?,
            payload: self.payload.check()?,
            ports: self.ports.check()?,
            services: services::check(self.services)?,
            accounting: self.accounting.check()?,
        })
    }
}

fn configured(path: Option<PathBuf>, default: &str) -> ConfiguredPath {
    let explicit = path.is_some();
    ConfiguredPath { path: path.unwrap_or_else(|| default.into()), explicit }
}

impl Mapping {
    fn check(self) -> Result<MappingPolicy, Finding> {
        for (key, instead) in [
            (
                &self.group_mapfile,
                "group_mapfile has no effect in this version: groups come from passwd and group",
            ),
            (
                &self.gridmapdir,
                "gridmapdir has no effect in this version: pool accounts are not leased, '.pool' entries are skipped",
            ),
        ] {
            if let Some(key) = key {
                return Err((key.span(), format!("{instead}; remove it")));
            }
        }
        let mut services = BTreeMap::new();
        let sections = [(Service::Gums, self.gums), (Service::Scas, self.scas)];
        for (service, section) in
            sections.into_iter().chain([(Service::Argus, self.argus), (Service::Json, self.json)])
        {
            if let Some(section) = section {
                services.insert(service.name(), section.check(service)?);
            }
        }
        let mut order = Vec::new();
        for name in self.order {
            let source = map_source(name.get_ref()).ok_or_else(|| {
                let known = "grid-mapfile, voms-mapfile, gums, scas, argus, json";
                (name.span(), format!("unknown mapping source {:?}; known are {known}", name.get_ref()))
            })?;
            if matches!(source, MapSource::Service(s) if !services.contains_key(s.name())) {
                return Err((
                    name.span(),
                    format!("{source} is in the order; add [mapping.{source}] with endpoints"),
                ));
            }
            if order.contains(&source) {
                let what =
                    format!("{source} stands in the order twice; the second time has no effect, remove it");
                return Err((name.span(), what));
            }
            order.push(source);
        }
        Ok(MappingPolicy {
            order,
            grid_mapfile: self.grid_mapfile,
            voms_mapfile: self.voms_mapfile,
            cache_ttl: self.cache_ttl,
            services,
        })
    }
}

fn map_source(name: &str) -> Option<MapSource> {
    match name {
        "grid-mapfile" => Some(MapSource::GridMapfile),
        "voms-mapfile" => Some(MapSource::VomsMapfile),
        other => Service::ALL.into_iter().find(|s| s.name() == other).map(MapSource::Service),
    }
}

impl MapService {
    fn check(self, service: Service) -> Result<ServicePolicy, Finding> {
        let mut endpoints = Vec::new();
        if self.endpoints.get_ref().is_empty() {
            let what =
                format!("[mapping.{}] names no endpoint, so it cannot work; write its URLs", service.name());
            return Err((self.endpoints.span(), what));
        }
        if self.timeout.get_ref().is_zero() {
            return Err((self.timeout.span(), "timeout: write 1s or more".into()));
        }
        for endpoint in self.endpoints.into_inner() {
            if !endpoint.get_ref().starts_with("https://") {
                return Err((endpoint.span(), "an endpoint must start with https://".into()));
            }
            endpoints.push(endpoint.into_inner());
        }
        Ok(ServicePolicy { endpoints, cert: self.cert, key: self.key, timeout: self.timeout.into_inner() })
    }
}

impl Ports {
    fn check(self) -> Result<PortsPolicy, Finding> {
        let (enforce, loopback) = (self.enforce()?, *self.loopback.get_ref());
        if !loopback && enforce == Enforce::Off {
            let reason =
                "loopback = false has no effect without enforce; add range and enforce, or remove loopback";
            return Err((self.loopback.span(), reason.into()));
        }
        let per_payload = *self.per_payload.get_ref();
        let room = self.range.map_or(usize::MAX, PortRange::count);
        if per_payload == 0 || usize::from(per_payload) > room {
            return Err((
                self.per_payload.span(),
                "per_payload must be at least 1 and fit into range".into(),
            ));
        }
        let default = *self.default.get_ref();
        if usize::from(default) > room {
            return Err((self.default.span(), "default must fit into range".into()));
        }
        let mut hosts: BTreeMap<String, PortRange> = BTreeMap::new();
        for (host, share) in self.hosts {
            let range = PortRange::parse(share.get_ref()).map_err(|e| (share.span(), e.to_string()))?;
            let Some(whole) = self.range else {
                return Err((
                    share.span(),
                    format!("the share of {host} has no [ports] range to lie in; add it"),
                ));
            };
            if !whole.covers(range) {
                let what = format!("the share of {host}, {range}, leaves [ports] range, {whole}");
                return Err((share.span(), what));
            }
            if let Some(other) = hosts.keys().find(|other| same_host(other, &host)) {
                return Err((share.span(), format!("{host} and {other} are one host; give it one share")));
            }
            if let Some((other, its)) = hosts.iter().find(|(_, other)| other.meets(range)) {
                let what = format!("the shares of {host}, {range}, and {other}, {its}, overlap");
                return Err((share.span(), what));
            }
            if range.count() < usize::from(per_payload) {
                let what = format!(
                    "the share of {host}, {range}, has no room for a block of per_payload = {per_payload}"
                );
                return Err((share.span(), what));
            }
            hosts.insert(host, range);
        }
        let hostname = (!self.hostname.is_empty()).then_some(self.hostname);
        let (range, quarantine) = (self.range, self.quarantine);
        Ok(PortsPolicy {
            range,
            per_payload,
            default,
            quarantine,
            hostname,
            hosts,
            variables: self.variables,
            enforce,
            loopback,
        })
    }
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    identity::duration::parse(&String::deserialize(d)?).map_err(D::Error::custom)
}

fn spanned_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Spanned<Duration>, D::Error> {
    let text = Spanned::<String>::deserialize(d)?;
    let duration = identity::duration::parse(text.get_ref()).map_err(D::Error::custom)?;
    Ok(Spanned::new(text.span(), duration))
}

/// RSA keys that the verifier can compute with.
fn rsa_bits<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let bits = u32::deserialize(d)?;
    if (1024..=8192).contains(&bits) { Ok(bits) } else { Err(D::Error::custom("use 1024 to 8192 bits")) }
}

fn absolute<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(d)?;
    if path.is_absolute() { Ok(path) } else { Err(D::Error::custom("the path must be absolute")) }
}

fn some_absolute<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(d).map(Some)
}

fn some_port_range<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PortRange>, D::Error> {
    PortRange::parse(&String::deserialize(d)?).map(Some).map_err(D::Error::custom)
}

fn each_caller<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<CallerPattern>, D::Error> {
    let list = Vec::<String>::deserialize(d)?;
    list.iter().map(|s| CallerPattern::parse(s).map_err(D::Error::custom)).collect()
}

fn isolation<'de, D: Deserializer<'de>>(d: D) -> Result<Isolation, D::Error> {
    session_or_account(d, "isolate", Isolation::Session, Isolation::Account)
}

fn target_proxy<'de, D: Deserializer<'de>>(d: D) -> Result<TargetProxy, D::Error> {
    session_or_account(d, "target_proxy", TargetProxy::Session, TargetProxy::Account)
}

fn session_or_account<'de, D: Deserializer<'de>, T>(
    d: D,
    key: &str,
    session: T,
    account: T,
) -> Result<T, D::Error> {
    match String::deserialize(d)?.as_str() {
        "session" => Ok(session),
        "account" => Ok(account),
        other => Err(D::Error::custom(format!("{key} is {other:?}; write \"session\" or \"account\""))),
    }
}

fn nested<'de, D: Deserializer<'de>>(d: D) -> Result<Spanned<NestedPolicy>, D::Error> {
    let word = Spanned::<String>::deserialize(d)?;
    let meant = |nested| Ok(Spanned::new(word.span(), nested));
    match word.get_ref().as_str() {
        "refuse" => meant(NestedPolicy::Refuse),
        "kill" => meant(NestedPolicy::Kill),
        other => Err(D::Error::custom(format!("nested is {other:?}; write \"refuse\" or \"kill\""))),
    }
}
