//! The whole decision about a credential: who is it, is that person banned, which account is that, and may a payload have
//! it.
//!
//! What it needs from the machine comes through [`Host`]. `glexec` is one host, `site-policy explain` is another, so what
//! is explained is what happens. The functions of [`crate::judge`] that take only values stay pure; this module
//! puts them into their order and asks for the values. [`sources`] asks the sources of mappings.

mod sources;

use crate::file::{ConfiguredPath, SitePolicy};
use crate::glexec_conf::GlexecConf;
use crate::judge::{Bans, Denial, Permit, admit_identity};
use crate::lcas;
use crate::mapfile::bans::BanFile;
use crate::pool::Wanted;
use identity::{Account, AccountName, Caller, Mapping, Service, VerifiedIdentity, one_line};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a decision ends without a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Decided: no.
    Denied(Denial),
    /// The site must mend something first: reason and remedy.
    Site(String),
    /// This process may not see what it would need; `glexec` itself never says this.
    CannotTell(String),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// An entry of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name, as the name service writes it.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// What a decision needs from the machine.
pub trait Host {
    /// The content of a file that root trusts: every directory above it and the file itself are changed by root only.
    fn trusted_file(&self, path: &Path) -> Result<Vec<u8>, Stop>;

    /// Whether there is anything by this name.
    fn exists(&self, path: &Path) -> bool;

    /// The account by its name.
    fn user_by_name(&self, name: &AccountName) -> Result<Option<User>, Stop>;

    /// The account by its uid.
    fn user_by_uid(&self, uid: u32) -> Result<Option<User>, Stop>;

    /// The gid of a group.
    fn group_id(&self, name: &str) -> Result<Option<u32>, Stop>;

    /// All groups of an account, the primary one among them or not.
    fn groups_of(&self, user: &User) -> Result<Vec<u32>, Stop>;

    /// What the verifier finds in the credential.
    fn verify(&self, call: &Call<'_>) -> Result<VerifiedIdentity, Stop>;

    /// What a mapping service says.
    fn ask(&self, call: &Call<'_>, service: Service, who: &VerifiedIdentity) -> Result<Answer, Stop>;

    /// The account of a pool that the user holds, or gets. `fit` says of an account whether a payload may have it, and is
    /// asked before a lease is made; of the account that is returned it was asked last. A host that runs nothing
    /// makes no lease and returns the account that the user would get.
    fn lease(
        &self,
        wanted: &Wanted<'_>,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
    ) -> Result<AccountName, Stop>;

    /// Is told about each step that was passed.
    fn passed(&self, _step: Step, _what: &dyn fmt::Display) {}
}

/// What a mapping service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The account.
    Mapped(Mapping),
    /// It knows the question and says no.
    Denied(String),
    /// Nothing that can be used.
    Unavailable(String),
}

/// The steps of a decision, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The verifier and the checks of its verdict.
    Credential,
    /// The ban files.
    Bans,
    /// The sources of mappings.
    Mapping,
    /// The account as this host knows it, and whether a payload may have it.
    Account,
}

impl Step {
    /// The step's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Bans => "bans",
            Self::Mapping => "mapping",
            Self::Account => "account",
        }
    }
}

/// What is to be decided. The caller has been admitted.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The site's policy.
    pub policy: &'a SitePolicy,
    /// `glexec.conf`.
    pub conf: &'a GlexecConf,
    /// Who calls.
    pub caller: &'a Caller,
    /// The bytes of the credential.
    pub credential: &'a [u8],
    /// Their SHA-256.
    pub digest: &'a [u8; 32],
    /// Seconds since the epoch.
    pub now: u64,
}

impl Call<'_> {
    /// Whether the credential must hold its private key: not for callers that `glexec.conf` excepts.
    pub fn requires_key(&self) -> bool {
        let excepted = |name| self.conf.omission_private_key_white_list.iter().any(|p| p.matches(name));
        !self.caller.name.as_ref().is_some_and(excepted)
    }
}

/// The decision: yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Whose payload it is.
    pub identity: VerifiedIdentity,
    /// The account.
    pub permit: Permit,
}

/// The decision: no, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub stop: Stop,
    /// Where.
    pub step: Step,
    /// Whose payload it would have been, where the verifier has said so.
    pub identity: Option<VerifiedIdentity>,
}

/// Decides.
pub fn decide(host: &impl Host, call: &Call<'_>) -> Result<Granted, Box<Refused>> {
    let refused = |step, identity| move |stop| Box::new(Refused { stop, step, identity });
    let identity = host.verify(call).map_err(refused(Step::Credential, None))?;
    match permit(host, call, &identity) {
        Ok(permit) => Ok(Granted { identity, permit }),
        Err((step, stop)) => Err(refused(step, Some(identity))(stop)),
    }
}

fn permit(host: &impl Host, call: &Call<'_>, who: &VerifiedIdentity) -> Result<Permit, (Step, Stop)> {
    let at = |step| move |stop| (step, stop);
    let bans = bans(host, call.policy).map_err(at(Step::Bans))?;
    lcas::carried_over(host, call.conf, &bans.dns).map_err(at(Step::Bans))?;
    admit_identity(call.policy, who, call.digest, &bans, call.now).map_err(|denial| {
        let step = if matches!(denial, Denial::Banned(_)) { Step::Bans } else { Step::Credential };
        (step, denial.into())
    })?;
    host.passed(Step::Bans, &"neither the DN nor an FQAN is banned");
    let permit = sources::map(host, call, who)?;
    let account = permit.account();
    let what = format_args!("{} (uid {}) and its groups are listed in [accounts]", account.name, account.uid);
    host.passed(Step::Account, &what);
    Ok(permit)
}

/// Reads the ban files. One that the administrator named must exist; a default one may be absent.
pub fn bans(host: &impl Host, policy: &SitePolicy) -> Result<Bans, Stop> {
    let read = |configured: &ConfiguredPath| {
        if !configured.explicit && !host.exists(&configured.path) {
            return Ok(BanFile::default());
        }
        let text = host.trusted_file(&configured.path)?;
        BanFile::parse(text).map_err(|e| unusable(&configured.path, e))
    };
    Ok(Bans { dns: read(&policy.bans.dn_file)?, fqans: read(&policy.bans.fqan_file)? })
}

fn unusable(path: &Path, error: crate::mapfile::MapfileError) -> Stop {
    Stop::Site(format!("{}: {error}", path.display()))
}

/// Which groups a payload has besides the primary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Groups {
    /// Those of the mapping, or the account's own where it names none.
    OrTheAccounts,
    /// Those of the mapping, be it none.
    Exactly,
}

/// The account that a mapping means. Name and numbers must agree with this host.
///
/// The name service may write a name in another way than it was asked for (another case, without the domain); then its
/// own way counts, as for sudo and LCMAPS.
fn resolve(host: &impl Host, mapping: &Mapping, which: Groups) -> Result<Account, Stop> {
    let user = find(host, mapping)?;
    let name = AccountName::parse(&user.name).map_err(|e| Stop::Site(format!("passwd: {e}")))?;
    if mapping.uid.is_some_and(|wanted| wanted != user.uid) {
        return Err(Denial::AccountMismatch(format!("{name} has uid {}", user.uid)).into());
    }
    let group_id = |name: &String| match host.group_id(name)? {
        Some(gid) => Ok(gid),
        None => Err(Stop::from(Denial::NoSuchAccount(format!("group {}", one_line(name))))),
    };
    let by_name = mapping.group.as_ref().map(group_id).transpose()?;
    let gid = mapping.gid.or(by_name).unwrap_or(user.gid);
    let named = mapping.group_names.iter().map(group_id).collect::<Result<Vec<_>, _>>()?;
    let mut groups = [mapping.groups.clone(), named].concat();
    if groups.is_empty() && which == Groups::OrTheAccounts {
        groups = host.groups_of(&user)?;
    }
    groups.retain(|g| *g != gid);
    Ok(Account { name, uid: user.uid, gid, groups, home: user.home })
}

fn find(host: &impl Host, mapping: &Mapping) -> Result<User, Stop> {
    let (found, wanted) = match (&mapping.account, mapping.uid) {
        (Some(name), _) => {
            let name = AccountName::parse(name).map_err(|e| Denial::NoSuchAccount(e.to_string()))?;
            (host.user_by_name(&name)?, name.to_string())
        }
        (None, Some(uid)) => (host.user_by_uid(uid)?, format!("uid {uid}")),
        (None, None) => return Err(Denial::NotMapped("the mapping names nobody".into()).into()),
    };
    found.ok_or_else(|| Denial::NoSuchAccount(wanted).into())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
