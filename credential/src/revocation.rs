//! What the revocation lists of a CA say about one certificate (RFC 5280 section 6.3).

use crate::cadir::CaDir;
use crate::cert::Cert;
use crate::chain::{SKEW, distrust};
use crate::crl::{Crl, CrlError};
use crate::refuse;
use crate::signature::{Outcome, Strength};
use crate::verdict::Trust;
use identity::{Refusal, RefusalKind};
use std::path::Path;

/// What one list says.
enum Says {
    /// The certificate is revoked.
    Revoked,
    /// It is not.
    Good,
    /// Nothing that counts.
    Nothing(Refusal),
}

/// Judges `subject`, which `ca` issued. `family` are certificates of the same CA with other keys, proven by the same way to
/// a root: they may have signed the list.
///
/// Every list counts that revokes. Else one that is good and covers the certificate is enough, whatever is wrong with others;
/// without any file nobody is refused unless the site requires lists.
///
/// # Errors
/// `Trust`, and `Site` for files that are no lists.
pub(crate) fn judge(
    ca: &Cert,
    family: &[&Cert],
    subject: &Cert,
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<(), Refusal> {
    let mut is_good = false;
    let mut trouble = None;
    let mut signers: Vec<Cert> = std::iter::once(ca).chain(family.iter().copied()).cloned().collect();
    let files = dir.crls(ca);
    if files.iter().any(|(_, lists)| lists.is_ok()) {
        // after a change of keys the new root signs for the old one's certificates, too
        signers.extend(dir.named(&ca.subject).0.into_iter().filter(Cert::is_anchor));
    }
    let question = Question { ca, signers: &signers, subject, trust, now };
    for (path, lists) in files {
        let lists = match lists {
            Ok(lists) => lists,
            Err(refusal) => {
                trouble = trouble.or(Some(refusal));
                continue;
            }
        };
        for der in lists {
            match question.ask(&path, &der) {
                Says::Revoked => {
                    let what = format_args!("revoked by its CA ({}); get a new certificate", path.display());
                    return Err(distrust(subject, what));
                }
                Says::Good => is_good = true,
                Says::Nothing(refusal) => trouble = trouble.or(Some(refusal)),
            }
        }
    }
    match trouble {
        _ if is_good => Ok(()),
        Some(refusal) => Err(refusal),
        None if trust.require_crl => {
            let file = dir.path().join(format!("{:08x}.r0", ca.subject.hash()));
            let what = format_args!("no revocation list {}, and this site requires one", file.display());
            Err(distrust(ca, format_args!("{what}; run fetch-crl")))
        }
        None => Ok(()),
    }
}

/// What is wrong with a list of the CA, whoever asks; `cas` are its certificates.
pub(crate) fn inspect(
    path: &Path,
    der: &[u8],
    ca: &Cert,
    cas: &[Cert],
    trust: &Trust,
    now: i64,
) -> Option<Refusal> {
    let question = Question { ca, signers: cas, subject: ca, trust, now };
    let crl = match Crl::parse(der) {
        Ok(crl) => crl,
        Err(error) => return Some(question.useless(path, error)),
    };
    if let Err(error) = crl.lists(&[]) {
        return Some(question.useless(path, error));
    }
    let judged = question.judge_signature(&crl).and_then(|()| question.judge_dates(&crl));
    judged.err().map(|what| question.refusal(path, &what))
}

struct Question<'a> {
    ca: &'a Cert,
    signers: &'a [Cert],
    subject: &'a Cert,
    trust: &'a Trust,
    now: i64,
}

impl Question<'_> {
    fn ask(&self, path: &Path, der: &[u8]) -> Says {
        let nothing = |what: String| Says::Nothing(self.refusal(path, &what));
        let crl = match Crl::parse(der) {
            Ok(crl) => crl,
            Err(error) => return Says::Nothing(self.useless(path, error)),
        };
        if let Err(what) = self.judge_signature(&crl) {
            return nothing(what);
        }
        if let Err(what) = crl.covers(self.subject) {
            return nothing(format!("{what}, so it says nothing of {}; ask the CA", self.subject.title()));
        }
        match crl.lists(&self.subject.serial) {
            Err(error) => return Says::Nothing(self.useless(path, error)),
            Ok(true) => return Says::Revoked,
            Ok(false) => {}
        }
        self.judge_dates(&crl).map_or_else(nothing, |()| Says::Good)
    }

    fn refusal(&self, path: &Path, what: &str) -> Refusal {
        distrust(self.ca, format_args!("{}: {what}", path.display()))
    }

    fn useless(&self, path: &Path, error: CrlError) -> Refusal {
        match error {
            CrlError::Malformed(e) => {
                let what = format!("{}: no whole revocation list ({e}); run fetch-crl", path.display());
                refuse(RefusalKind::Site, what)
            }
            CrlError::Unusable(what) => {
                self.refusal(path, &format!("{what}; ask the CA for a complete list"))
            }
        }
    }

    fn judge_dates(&self, crl: &Crl<'_>) -> Result<(), String> {
        match crl.next_update {
            None => {
                let why = "it has no nextUpdate, so nobody can tell whether it is current (RFC 5280 5.1.2.5)";
                Err(format!("{why}; ask the CA"))
            }
            Some(end) if end < self.now => {
                Err("the revocation list is out of date; run fetch-crl".to_owned())
            }
            _ if crl.this_update > self.now.saturating_add(SKEW) => {
                Err("the revocation list is dated in the future; check the clocks".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    fn judge_signature(&self, crl: &Crl<'_>) -> Result<(), String> {
        if crl.issuer != self.ca.subject {
            let issuer = crl.issuer.as_str();
            return Err(format!("it is the list of {issuer}, not of this CA; run fetch-crl"));
        }
        let accepted = match crl.algorithm.strength() {
            Strength::Strong => true,
            Strength::Sha1 => self.trust.rules.allow_sha1,
            Strength::Broken => false,
        };
        if !accepted {
            let name = crl.algorithm.name();
            return Err(format!(
                "it is signed by {name}, which is not accepted here; ask the CA for SHA-256"
            ));
        }
        let mut outcome = Outcome::Forged;
        for signer in self.signers {
            match crl.signature_by(signer) {
                Outcome::Good if signer.may_revoke => return Ok(()),
                Outcome::Good => {
                    let what = "the CA's keyUsage lacks cRLSign, so it may not sign lists; ask the CA";
                    return Err(what.to_owned());
                }
                other => outcome = other,
            }
        }
        Err(match outcome {
            Outcome::Unknown(what) => {
                format!("its signature cannot be checked: {what} is not supported here")
            }
            _ => "it is not signed by this CA, it was altered or is another's; run fetch-crl".to_owned(),
        })
    }
}
