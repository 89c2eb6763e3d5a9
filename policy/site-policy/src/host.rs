//! This machine as the decision sees it, through the eyes of whoever runs this program.

use crate::outside::audit;
use crate::{accounts, child};
use helper::{MapReply, MapRequest, VerifyRequest};
use identity::{AccountName, Dn, Fqan, Service, VerifiedIdentity, VomsAttributes};
use mapdir::Directory;
use policy::decide::{Answer, Call, Host, Step, Stop, User};
use policy::judge::Denial;
use policy::pool::Wanted;
use policy::pool::lease::Taker;
use policy::trusted::{Distrust, Rule};
use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// A step that was passed: its name, and what there is to say about it.
pub type Passed = (&'static str, String);

/// What is asked, and what was found out so far.
pub struct Site<'a> {
    /// Whether owners and modes count, as they do for `glexec`.
    pub audited: bool,
    /// Directory of the helpers.
    pub libexec: &'a Path,
    /// Who comes, where no credential is to be judged.
    pub what_if: Option<(Dn, Vec<Fqan>)>,
    /// In their order.
    pub passed: RefCell<Vec<Passed>>,
}

impl<'a> Site<'a> {
    /// `audited` is false for drafts, whose owners and modes say nothing.
    pub fn new(audited: bool, libexec: &'a Path) -> Self {
        Self { audited, libexec, what_if: None, passed: RefCell::default() }
    }

    /// Notes a step.
    pub fn note(&self, step: &'static str, what: impl Into<String>) {
        self.passed.borrow_mut().push((step, what.into()));
    }

    /// Refuses a path that root must not trust.
    pub fn trusts(&self, path: &Path, rule: Rule) -> Result<(), Stop> {
        if !self.audited {
            return Ok(());
        }
        audit(path, rule).map_err(|distrust| match distrust {
            Distrust::Hidden(..) => Stop::CannotTell(distrust.about(path)),
            _ => Stop::Site(distrust.about(path)),
        })
    }

    /// The content of a file that is trusted by the rule.
    pub fn read(&self, path: &Path, rule: Rule) -> Result<Vec<u8>, Stop> {
        self.trusts(path, rule)?;
        let told = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        fs::read(path).map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => {
                Stop::CannotTell(told(&format_args!("{e}; glexec reads it as root, so run this as root")))
            }
            ErrorKind::NotFound => Stop::Site(Distrust::Missing(path.to_owned()).to_string()),
            _ => Stop::Site(told(&e)),
        })
    }

    /// The identity that a good credential with these names would give.
    fn imagined(&self, dn: &Dn, fqans: &[Fqan], call: &Call<'_>) -> Result<VerifiedIdentity, Stop> {
        let nobody = Dn::parse("/CN=nobody (what if)").map_err(|e| Stop::CannotTell(e.to_string()))?;
        let names: Vec<_> = fqans.iter().map(|fqan| fqan.as_str()).collect();
        let with = if names.is_empty() { "no FQAN".to_owned() } else { names.join(" ") };
        self.note("credential", format!("what if {dn} came, with {with}; no certificate is judged"));
        let voms = fqans.first().map(|first| VomsAttributes {
            vo: first.vo().to_owned(),
            fqans: fqans.to_vec(),
            signer: nobody.clone(),
            signer_issuer: nobody.clone(),
            not_after: u64::MAX,
        });
        Ok(VerifiedIdentity {
            subject: dn.clone(),
            issuer: nobody,
            serial: "0".into(),
            not_after: u64::MAX,
            limited: false,
            digest: *call.digest,
            voms,
            chain_pem: Vec::new(),
        })
    }

    fn tell(&self, who: &VerifiedIdentity, call: &Call<'_>) {
        let left = who.not_after.saturating_sub(call.now);
        let limited = if who.limited { "limited, " } else { "" };
        let (hours, minutes) = (left / 3600, left / 60 % 60);
        self.note("credential", format!("{}, {limited}valid for {hours}h{minutes:02}m", who.subject));
        let ca_dir = call.policy.trust.ca_dir.display();
        self.note("issuer", format!("{} is trusted by {ca_dir}", who.issuer));
        if let Some(voms) = &who.voms {
            let fqans: Vec<_> = voms.fqans.iter().map(|f| f.as_str()).collect();
            self.note("voms", format!("VO {}, signed by {}: {}", voms.vo, voms.signer, fqans.join(" ")));
        }
    }
}

impl Host for Site<'_> {
    fn trusted_file(&self, path: &Path) -> Result<Vec<u8>, Stop> {
        self.read(path, Rule::FILE)
    }

    fn exists(&self, path: &Path) -> bool {
        !matches!(fs::symlink_metadata(path), Err(e) if e.kind() == ErrorKind::NotFound)
    }

    fn user_by_name(&self, name: &AccountName) -> Result<Option<User>, Stop> {
        accounts::by_name(name.as_str()).map_err(Stop::CannotTell)
    }

    fn user_by_uid(&self, uid: u32) -> Result<Option<User>, Stop> {
        accounts::by_uid(uid).map_err(Stop::CannotTell)
    }

    fn group_id(&self, name: &str) -> Result<Option<u32>, Stop> {
        accounts::group_id(name).map_err(Stop::CannotTell)
    }

    fn groups_of(&self, user: &User) -> Result<Vec<u32>, Stop> {
        accounts::groups(user).map_err(Stop::CannotTell)
    }

    fn verify(&self, call: &Call<'_>) -> Result<VerifiedIdentity, Stop> {
        if let Some((dn, fqans)) = &self.what_if {
            return self.imagined(dn, fqans, call);
        }
        let trust = &call.policy.trust;
        self.trusts(&trust.ca_dir, Rule::DIRECTORY)?;
        if self.exists(&trust.voms_dir) {
            self.trusts(&trust.voms_dir, Rule::DIRECTORY)?;
        }
        let request = VerifyRequest {
            credential: call.credential.to_vec(),
            ca_dir: trust.ca_dir.clone(),
            voms_dir: trust.voms_dir.clone(),
            require_crl: trust.require_crl,
            max_proxy_lifetime: trust.max_proxy_lifetime,
            allow_limited: trust.allow_limited,
            rules: trust.rules,
            require_key: call.requires_key(),
            now: call.now,
        };
        let reply = child::verify(self.libexec, &request).map_err(Stop::Site)?;
        let who = reply.map_err(Denial::Credential)?;
        self.tell(&who, call);
        Ok(who)
    }

    fn ask(&self, call: &Call<'_>, service: Service, who: &VerifiedIdentity) -> Result<Answer, Stop> {
        let section = call.policy.mapping.services.get(service.name());
        let section =
            section.ok_or_else(|| Stop::Site(format!("[mapping.{}] is missing", service.name())))?;
        let host_credential =
            [self.trusted_file(&section.cert)?, b"\n".to_vec(), self.trusted_file(&section.key)?].concat();
        let host = fs::read_to_string("/proc/sys/kernel/hostname");
        let request = MapRequest {
            service,
            endpoints: section.endpoints.clone(),
            host_credential,
            ca_dir: call.policy.trust.ca_dir.clone(),
            timeout: section.timeout,
            host: host.map_or_else(|_| "localhost".to_owned(), |h| h.trim().to_owned()),
            identity: who.clone(),
        };
        Ok(match child::map(self.libexec, &request) {
            Ok(MapReply::Mapped(mapping)) => Answer::Mapped(mapping),
            Ok(MapReply::Denied(why)) => Answer::Denied(why),
            Ok(MapReply::Unavailable(why)) | Err(why) => Answer::Unavailable(why),
        })
    }

    /// Nothing is leased: what is told is the account that a call would come to now.
    fn lease(
        &self,
        wanted: &Wanted<'_>,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
    ) -> Result<AccountName, Stop> {
        self.trusts(wanted.dir, Rule::DIRECTORY)?;
        let told = |why: &dyn fmt::Display| format!("{}: {why}", wanted.dir.display());
        let open = fs::File::open(wanted.dir).map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => Stop::CannotTell(told(&format_args!("{e}; run this as root"))),
            _ => Stop::Site(told(&e)),
        })?;
        let directory = Directory::new(open);
        let (account, held) = Taker { dir: &directory, wanted: *wanted }.preview(fit)?;
        let state = if held { "is held by" } else { "is free and would be leased to" };
        self.note("pool", told(&format_args!("{account} of pool {} {state} {}", wanted.pool, wanted.lease)));
        Ok(account)
    }

    fn passed(&self, step: Step, what: &dyn fmt::Display) {
        self.note(step.name(), what.to_string());
    }
}
