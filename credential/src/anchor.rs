//! The way from an end-entity certificate up to a root of the CA directory (RFC 5280 section 6).
//!
//! One name may have several certificates: a CA that was renewed with the same key, roots of two key generations, the
//! link certificates between them. So ways are tried, the likeliest first, until one passes every rule; when none does,
//! the reason is that of the likeliest.

use crate::cadir::CaDir;
use crate::cert::Cert;
use crate::chain::{SKEW, bad_signature, chain, distrust, judge_key, judge_strength, judge_validity};
use crate::pem::MAX_CERTIFICATES;
use crate::refuse;
use crate::revocation;
use crate::signature::Outcome;
use crate::verdict::Trust;
use identity::{Refusal, RefusalKind};

/// Signatures that are checked on the way up, all attempts together. A credential may bring 32 certificates of its own
/// making, all of one name and key.
const MAX_STEPS: usize = 128;

/// Leads an end-entity certificate to a trusted root; the CAs on the way, issuer first, root last.
///
/// `pool` are certificates that the credential brought along: they may stand in between, but are no roots.
///
/// # Errors
/// `Trust` for everything that the CA directory decides, `Chain` for forged signatures and users who act as CA,
/// `Site` when a file of the directory that is needed cannot be used.
pub fn anchor(
    holder: &Cert,
    pool: &[Cert],
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<Vec<Cert>, Refusal> {
    let mut ascent = Ascent { holder, pool, dir, trust, now, steps: 0 };
    let mut path = Vec::new();
    ascent.climb(&mut path)?;
    Ok(path)
}

struct Ascent<'a> {
    holder: &'a Cert,
    pool: &'a [Cert],
    dir: &'a CaDir<'a>,
    trust: &'a Trust,
    now: i64,
    steps: usize,
}

/// A certificate that may be the issuer of another.
struct Candidate {
    cert: Cert,
    /// It stands in the CA directory.
    installed: bool,
}

/// Whether the candidate signed the certificate and may issue any, and whether it is a root.
fn attempt(current: &Cert, candidate: &Candidate) -> Result<bool, Refusal> {
    let Candidate { cert, installed } = candidate;
    match current.signature_by(cert) {
        Outcome::Good => {}
        outcome => {
            let remedy = "get the certificate from its CA again";
            return Err(chain(current, bad_signature(&outcome, current.issuer.as_str(), remedy)));
        }
    }
    // a root's own signature proves nothing, so it may be too weak to be checked
    let is_self_signed = cert.is_self_issued() && cert.signature_by(cert) != Outcome::Forged;
    match (is_self_signed, *installed) {
        (true, true) if cert.is_anchor() => Ok(true),
        (true, false) => {
            let what = format_args!("its root {} is not installed here", cert.subject.as_str());
            Err(distrust(
                current,
                format_args!("{what}, one in the credential proves nothing; install the CA"),
            ))
        }
        _ if cert.is_authority() => Ok(false),
        _ => {
            let issuer = current.issuer.as_str();
            Err(chain(current, format_args!("it was issued by {issuer}, which is no CA; get one from a CA")))
        }
    }
}

impl Ascent<'_> {
    /// Tries every issuer of the path's end; leaves the first path that passes.
    fn climb(&mut self, path: &mut Vec<Cert>) -> Result<(), Refusal> {
        let (candidates, trouble) = self.named(path)?;
        let (mut judged, mut attempted) = (None, None);
        for candidate in candidates {
            let current = path.last().unwrap_or(self.holder);
            self.steps += 1;
            if self.steps > MAX_STEPS || path.len() >= MAX_CERTIFICATES {
                let what = format_args!("no way to a root among {MAX_CERTIFICATES} CAs; make a new proxy");
                return Err(judged.unwrap_or_else(|| distrust(self.holder, what)));
            }
            match attempt(current, &candidate) {
                Err(refusal) => attempted = attempted.or(Some(refusal)),
                Ok(is_root) => {
                    path.push(candidate.cert);
                    match if is_root { self.judge(path) } else { self.climb(path) } {
                        Ok(()) => return Ok(()),
                        Err(refusal) => judged = judged.or(Some(refusal)),
                    }
                    path.pop();
                }
            }
        }
        let current = path.last().unwrap_or(self.holder);
        let circle = || distrust(current, "its CAs lead in a circle; install the root");
        // a way on which the signatures fit says more than a broken file, and that more than a signature that does not fit
        Err(judged.or(trouble).or(attempted).unwrap_or_else(circle))
    }

    /// The certificates of the issuer's name that are not yet on the path, those valid now and installed ones first, and
    /// what is wrong with installed files.
    fn named(&self, path: &[Cert]) -> Result<(Vec<Candidate>, Option<Refusal>), Refusal> {
        let current = path.last().unwrap_or(self.holder);
        let (installed, trouble) = self.dir.named(&current.issuer);
        let mut candidates: Vec<Candidate> =
            installed.into_iter().map(|cert| Candidate { cert, installed: true }).collect();
        for cert in self.pool.iter().filter(|c| current.names_issuer(c)) {
            if candidates.iter().all(|c| c.cert.der != cert.der) {
                candidates.push(Candidate { cert: cert.clone(), installed: false });
            }
        }
        if candidates.is_empty() {
            return Err(trouble.unwrap_or_else(|| self.unknown(current)));
        }
        candidates.retain(|c| c.cert.der != current.der && path.iter().all(|p| p.der != c.cert.der));
        candidates.sort_by_key(|c| (!self.is_valid(&c.cert), !c.installed));
        Ok((candidates, trouble))
    }

    fn is_valid(&self, cert: &Cert) -> bool {
        (cert.not_before.saturating_sub(SKEW)..=cert.not_after).contains(&self.now)
    }

    fn unknown(&self, cert: &Cert) -> Refusal {
        let file = self.dir.expected_file(cert);
        let what = format_args!("its CA {} is not trusted here: no {}", cert.issuer.as_str(), file.display());
        distrust(cert, format_args!("{what}; install the CA or use another certificate"))
    }

    /// Judges a whole path, from the issuer of the end-entity certificate to the root.
    fn judge(&self, path: &[Cert]) -> Result<(), Refusal> {
        for (n, ca) in path.iter().enumerate() {
            let (below, above) = (&path[..n], &path[n + 1..]);
            let subject = below.last().unwrap_or(self.holder);
            self.judge_authority(ca, below)?;
            if n + 1 < path.len() {
                judge_strength(ca, self.trust)?;
            }
            self.judge_constraints(ca, below)?;
            // a CA needs nobody's leave to certify its own next key
            if !subject.is_self_issued() {
                self.judge_signing_policy(ca, subject)?;
                self.judge_namespaces(ca, subject)?;
            }
            let family: Vec<&Cert> = below.iter().chain(above).filter(|c| c.subject == ca.subject).collect();
            revocation::judge(ca, &family, subject, self.dir, self.trust, self.now)?;
        }
        Ok(())
    }

    fn judge_authority(&self, ca: &Cert, below: &[Cert]) -> Result<(), Refusal> {
        judge_validity(ca, self.now, RefusalKind::Trust)?;
        judge_key(ca, self.trust)?;
        let between = below.iter().filter(|c| !c.is_self_issued()).count();
        if ca.path_len.is_some_and(|n| (n as usize) < between) {
            return Err(chain(ca, format_args!("its path length forbids the {between} CAs below it")));
        }
        Ok(())
    }

    fn judge_constraints(&self, ca: &Cert, below: &[Cert]) -> Result<(), Refusal> {
        let Some(constraints) = &ca.constraints else {
            return Ok(());
        };
        let authorities = below.iter().filter(|c| !c.is_self_issued()).map(|c| (c, false));
        for (cert, end_entity) in authorities.chain([(self.holder, true)]) {
            let within = constraints.check(&cert.subject, cert.alternative_names.as_deref(), end_entity);
            within.map_err(|what| {
                let ca = ca.subject.as_str();
                distrust(cert, format_args!("outside the name constraints of {ca}: {what}; ask the CA"))
            })?;
        }
        Ok(())
    }

    fn judge_signing_policy(&self, ca: &Cert, subject: &Cert) -> Result<(), Refusal> {
        let Some((path, policy)) = self.dir.signing_policy(ca)? else {
            let file = self.dir.path().join(format!("{:08x}.signing_policy", ca.subject.hash()));
            let what = format_args!("no signing policy, looked for {}", file.display());
            return Err(distrust(ca, format_args!("{what}; install the CA's whole package")));
        };
        leave(&path, policy.permits(ca.subject.as_str(), subject.subject.as_str()), ca, subject)
    }

    fn judge_namespaces(&self, ca: &Cert, subject: &Cert) -> Result<(), Refusal> {
        match self.dir.namespaces(ca)? {
            Some((path, namespaces)) => {
                leave(&path, namespaces.permits(ca.subject.as_str(), subject.subject.as_str()), ca, subject)
            }
            None => Ok(()),
        }
    }
}

/// What a file that says which names a CA may certify has to say.
fn leave(path: &std::path::Path, permits: Option<bool>, ca: &Cert, subject: &Cert) -> Result<(), Refusal> {
    let path = path.display();
    match permits {
        Some(true) => Ok(()),
        Some(false) => {
            let what = format_args!("{path} does not let {} issue that name", ca.subject.as_str());
            Err(distrust(subject, format_args!("{what}; ask the CA, or install its current package")))
        }
        None => Err(refuse(
            RefusalKind::Trust,
            format!("{}: {path} has no entry for this CA; reinstall its package", ca.title()),
        )),
    }
}
