//! The decision, as pure functions: may this caller call, may this identity become that account.
//!
//! Everything they need comes in as values, everything they decide goes out as a typed verdict that must be used.
//! A [`Permit`] has private fields: nothing but [`judge`] can make one, so nothing can switch identity without it.

use crate::callers::CallerPattern;
use crate::file::{MapSource, SitePolicy};
use crate::glexec_conf::GlexecConf;
use crate::ids::ID_FLOOR;
use crate::mapfile::bans::BanFile;
use identity::{Account, Caller, Refusal, RefusalKind, VerifiedIdentity};
use std::fmt;

/// Exit codes of `glexec` itself (gLExec 0.6 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// 201: the caller must mend something.
    Caller = 201,
    /// 202: the site must mend something.
    Site = 202,
    /// 203: not authorised.
    Denied = 203,
}

/// A sign that the caller is itself a payload. Each one is enough to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NestedSign {
    /// `PR_SET_NO_NEW_PRIVS` is set in the calling process.
    NoNewPrivs,
    /// The caller's uid is the account of a live session.
    SessionAccount,
    /// The caller sits in the cgroup of a session.
    SessionCgroup,
    /// A supervisor of a session is among the caller's ancestors.
    SupervisorAncestor,
    /// The caller's uid is one that payloads get.
    PayloadAccount,
}

impl fmt::Display for NestedSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNewPrivs => "no_new_privs",
            Self::SessionAccount => "session_account",
            Self::SessionCgroup => "session_cgroup",
            Self::SupervisorAncestor => "supervisor_ancestor",
            Self::PayloadAccount => "payload_account",
        })
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A payload called.
    Nested(Vec<NestedSign>),
    /// Not in any list of callers.
    CallerNotAllowed(String),
    /// The verifier refused the credential.
    Credential(Refusal),
    /// The verifier judged other bytes than those that were read.
    DigestMismatch,
    /// By this program's own clock the credential has expired.
    Expired,
    /// Limited, and the policy does not allow that.
    Limited,
    /// The DN or FQAN is in a ban file.
    Banned(String),
    /// No source knows the user, or one says no.
    NotMapped(String),
    /// A map file names a pool, and no account of it can be leased.
    NoLease(String),
    /// A mapping service does not answer: may be tried again.
    MappingUnavailable(String),
    /// The mapping names an account that this host does not have.
    NoSuchAccount(String),
    /// Name and number of the mapping belong to different accounts.
    AccountMismatch(String),
    /// The account's uid is root's or a system account's.
    UidBelowFloor(u32),
    /// `[accounts] allow` does not list the account.
    UidNotListed(u32),
    /// A group of the account is not in `[accounts] gids`.
    GidNotListed(u32),
    /// The account may itself call `glexec`.
    AccountIsCaller(String),
}

impl Denial {
    /// The exit code that tells the caller's program what to do: mend, report, or give up or retry.
    pub fn code(&self) -> Code {
        match self {
            Self::Credential(refusal) => match refusal.kind {
                RefusalKind::Malformed | RefusalKind::Expired | RefusalKind::Key => Code::Caller,
                RefusalKind::Site => Code::Site,
                RefusalKind::Chain | RefusalKind::Trust | RefusalKind::Policy | RefusalKind::Voms => {
                    Code::Denied
                }
            },
            Self::Expired => Code::Caller,
            Self::DigestMismatch => Code::Site,
            _ => Code::Denied,
        }
    }

    /// The signs of nesting, when that is the reason.
    pub fn nested_signs(&self) -> &[NestedSign] {
        if let Self::Nested(signs) = self { signs } else { &[] }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what(f)?;
        f.write_str(self.remedy())
    }
}

impl Denial {
    fn what(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nested(signs) => {
                let signs: Vec<_> = signs.iter().map(ToString::to_string).collect();
                write!(f, "nested call refused ({}): a payload cannot switch identity", signs.join(", "))
            }
            Self::CallerNotAllowed(who) => write!(f, "account {who} may not call glexec"),
            Self::Credential(refusal) => f.write_str(&refusal.reason),
            Self::DigestMismatch => f.write_str("the verifier judged other bytes than were read"),
            Self::Expired => f.write_str("the credential has expired"),
            Self::Limited => f.write_str("limited proxies are not accepted here ([trust] allow_limited)"),
            Self::Banned(name) => write!(f, "{name} is banned at this site ([bans])"),
            Self::NotMapped(why) => write!(f, "no local account: {why}"),
            Self::NoLease(why) => write!(f, "no pool account: {why}"),
            Self::MappingUnavailable(why) => write!(f, "mapping service unavailable: {why}"),
            Self::NoSuchAccount(name) => write!(f, "mapped to {name}, which is not an account of this host"),
            Self::AccountMismatch(what) => write!(f, "the mapping contradicts passwd: {what}"),
            Self::UidBelowFloor(uid) => {
                write!(f, "mapped to uid {uid}; uids below {ID_FLOOR} are never given to payloads")
            }
            Self::UidNotListed(uid) => write!(f, "mapped to uid {uid}, which [accounts] allow does not list"),
            Self::GidNotListed(gid) => {
                write!(f, "the account is in group {gid}, which [accounts] gids does not list")
            }
            Self::AccountIsCaller(name) => write!(f, "mapped to {name}, which may itself call glexec"),
        }
    }

    /// What to do, for the caller or for the site; those that bring reason and remedy along have none here.
    fn remedy(&self) -> &'static str {
        match self {
            Self::CallerNotAllowed(_) => "; list it in [callers] allow or user_white_list",
            Self::DigestMismatch => "; reinstall glexec-verify",
            Self::Expired => "; make a new proxy",
            Self::Limited => "; make a full one",
            Self::Banned(_) => "; only the site can lift that",
            Self::MappingUnavailable(_) => "; try again later",
            Self::NoSuchAccount(_) => "; create it or mend the mapping",
            Self::AccountMismatch(_) | Self::UidBelowFloor(_) => "; mend the mapping",
            Self::UidNotListed(_) => "; list it or mend the mapping",
            Self::GidNotListed(_) => "; list it or take the account out of it",
            Self::AccountIsCaller(_) => "; mend the mapping or the list of callers",
            Self::Nested(_) | Self::Credential(_) | Self::NotMapped(_) | Self::NoLease(_) => "",
        }
    }
}

/// May this caller call at all? Decided before any byte of a credential is looked at.
pub fn admit(
    policy: &SitePolicy,
    conf: &GlexecConf,
    caller: &Caller,
    signs: &[NestedSign],
) -> Result<(), Denial> {
    let mut signs = signs.to_vec();
    let by_name = caller.name.as_ref().is_some_and(|name| policy.accounts.names.contains(name));
    if by_name || policy.accounts.uids.contains(caller.uid) {
        signs.push(NestedSign::PayloadAccount);
    }
    if !signs.is_empty() {
        return Err(Denial::Nested(signs));
    }
    let listed =
        |name| policy.callers.iter().chain(&conf.user_white_list).any(|p: &CallerPattern| p.matches(name));
    match &caller.name {
        Some(name) if listed(name) => Ok(()),
        Some(name) => Err(Denial::CallerNotAllowed(name.to_string())),
        None => Err(Denial::CallerNotAllowed(format!("uid {}", caller.uid))),
    }
}

/// Is the identity good, and not banned? Decided before any source of mappings is asked.
pub fn admit_identity(
    policy: &SitePolicy,
    identity: &VerifiedIdentity,
    read_digest: &[u8; 32],
    bans: &Bans,
    now: u64,
) -> Result<(), Denial> {
    if identity.digest != *read_digest {
        return Err(Denial::DigestMismatch);
    }
    if identity.not_after <= now || identity.voms.as_ref().is_some_and(|v| v.not_after <= now) {
        return Err(Denial::Expired);
    }
    if identity.limited && !policy.trust.allow_limited {
        return Err(Denial::Limited);
    }
    match bans.hit(identity) {
        Some(name) => Err(Denial::Banned(name)),
        None => Ok(()),
    }
}

/// The site's ban files.
#[derive(Debug, Clone, Default)]
pub struct Bans {
    /// Banned DNs.
    pub dns: BanFile,
    /// Banned FQANs.
    pub fqans: BanFile,
}

impl Bans {
    fn hit(&self, identity: &VerifiedIdentity) -> Option<String> {
        if self.dns.lists_dn(&identity.subject) {
            return Some(identity.subject.to_string());
        }
        identity.fqans().iter().find(|f| self.fqans.lists_fqan(f)).map(ToString::to_string)
    }
}

/// Everything the last decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The site's policy.
    pub policy: &'a SitePolicy,
    /// `glexec.conf`.
    pub conf: &'a GlexecConf,
    /// Who calls.
    pub caller: &'a Caller,
    /// The account that a source named, as this host knows it.
    pub account: &'a Account,
    /// Which source that was.
    pub source: MapSource,
}

/// The right to become an account. Only [`judge`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    account: Account,
    source: MapSource,
}

impl Permit {
    /// The account with the groups that the payload gets.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Who named the account.
    pub fn source(&self) -> MapSource {
        self.source
    }
}

/// The decision.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Switch.
    Permit(Permit),
    /// Refuse.
    Deny(Denial),
}

/// May a payload of this caller run as this account?
///
/// The account is checked as root would check it against a lying mapping service: floor, listed ranges, groups,
/// and that it is nobody who may call `glexec`.
pub fn judge(case: Case<'_>) -> Verdict {
    match account_denial(&case) {
        Some(denial) => Verdict::Deny(denial),
        None => Verdict::Permit(Permit { account: with_kept_groups(&case), source: case.source }),
    }
}

fn account_denial(case: &Case<'_>) -> Option<Denial> {
    let (account, allowed) = (case.account, &case.policy.accounts);
    if account.uid < ID_FLOOR {
        return Some(Denial::UidBelowFloor(account.uid));
    }
    if !allowed.uids.contains(account.uid) && !allowed.names.contains(&account.name) {
        return Some(Denial::UidNotListed(account.uid));
    }
    if account.uid == case.caller.uid || may_call(case, account) {
        return Some(Denial::AccountIsCaller(account.name.to_string()));
    }
    let groups = std::iter::once(&account.gid).chain(&account.groups);
    groups.copied().find(|gid| *gid == 0 || !allowed.gids.contains(*gid)).map(Denial::GidNotListed)
}

/// `*` admits every account as a caller, and would leave none to be mapped to; so it does not count here.
fn may_call(case: &Case<'_>, account: &Account) -> bool {
    let named = |p: &&CallerPattern| **p != CallerPattern::Anybody;
    let mut lists = case.policy.callers.iter().chain(&case.conf.user_white_list).filter(named);
    lists.any(|p| p.matches(&account.name))
}

fn with_kept_groups(case: &Case<'_>) -> Account {
    let mut account = case.account.clone();
    let keep = &case.policy.accounts.keep_gids;
    for gid in case.caller.groups.iter().filter(|gid| **gid != 0 && keep.contains(**gid)) {
        if !account.groups.contains(gid) {
            account.groups.push(*gid);
        }
    }
    account
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
