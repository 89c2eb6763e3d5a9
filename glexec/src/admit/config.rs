//! The site's two files, opened as `audit` demands.

use crate::admit::audit::{self, Rule};
use crate::failure::Failure;
use crate::session::store::RUN_DIR;
use nix::unistd::User;
use policy::file::POLICY_FILE;
use policy::glexec_conf::GLEXEC_CONF;
use policy::{GlexecConf, SitePolicy};
use std::path::Path;

/// The account that the children run as.
pub(crate) const CHILD_ACCOUNT: &str = "glexec";

/// Everything the site decided.
pub(crate) struct Config {
    /// `/etc/glexec.conf`.
    pub(crate) conf: GlexecConf,
    /// `/etc/pilotage/policy.toml`.
    pub(crate) policy: SitePolicy,
    /// First 16 digits of the SHA-256 of `policy.toml`: which policy was in force.
    pub(crate) policy_rev: String,
    /// Uid and gid of the account `glexec`.
    pub(crate) child_ids: (u32, u32),
}

/// Reads both files and looks the account `glexec` up.
pub(crate) fn load() -> Result<Config, Failure> {
    let account = User::from_name(CHILD_ACCOUNT).ok().flatten();
    let account = account.filter(|u| !u.uid.is_root() && u.gid.as_raw() != 0).ok_or_else(|| {
        Failure::site("account glexec is missing or privileged; create it without login and without rights")
    })?;
    let child_ids = (account.uid.as_raw(), account.gid.as_raw());
    let text = audit::read(Path::new(GLEXEC_CONF), Rule::FILE.or_owner(Some(child_ids.0)))?;
    let conf = GlexecConf::parse(&text).map_err(|e| Failure::site(e.to_string()))?;
    let text = audit::read(Path::new(POLICY_FILE), Rule::FILE)?;
    let policy =
        SitePolicy::parse(Path::new(POLICY_FILE), &text).map_err(|e| Failure::site(e.to_string()))?;
    let policy_rev = record::text::hex(&hmac_sha256::Hash::hash(&text)[..8]);
    Ok(Config { conf, policy, policy_rev, child_ids })
}

/// What root writes into, and believes what it finds there, belongs to root, all the way up. What is missing is made later
/// below such a place.
pub(crate) fn check_places(config: &Config) -> Result<(), Failure> {
    for place in [Path::new(RUN_DIR), &config.policy.accounting.spool] {
        if audit::exists(place) {
            audit::open(place, Rule::DIRECTORY)?;
        }
    }
    Ok(())
}
