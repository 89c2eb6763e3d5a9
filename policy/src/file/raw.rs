//! The keys of `policy.toml` as they stand in the file, and their translation into meaning.

mod mapping;
mod ports;
mod services;
mod values;

use super::*;
use identity::ChainRules;
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use values::*;

/// A finding: where, and what.
type Finding = (Range<usize>, String);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    callers: Callers,
    accounts: Option<Spanned<Accounts>>,
    trust: Trust,
    bans: Bans,
    mapping: mapping::Mapping,
    payload: Payload,
    ports: ports::Ports,
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
