//! The rules between the certificates of a chain: proxies, one end-entity certificate, CAs.
//!
//! [`delegation_of`] sorts out proxies and end-entity certificate and applies RFC 3820 and its predecessors;
//! [`anchor`] leads an end-entity certificate to a root of the CA directory by RFC 5280, signing policies and
//! revocation lists. Both verify every signature on the way.

use crate::cadir::CaDir;
use crate::cert::{Cert, Family, Language, NameConstraints, Proxy, Strength, Subtree};
use crate::crl::Crl;
use crate::refuse;
use crate::verdict::Trust;
use identity::{Refusal, RefusalKind};

/// Clocks differ by this much: only the begin of validity is that lenient, seconds. Tools date proxies back by as much.
pub const SKEW: i64 = 300;
/// CAs between an end-entity certificate and its root, the root included.
const MAX_AUTHORITIES: usize = 8;
const MIN_BITS: u32 = 2048;
const MIN_PROXY_BITS: u32 = 1024;

/// The lower part of a chain: who delegated to whom.
#[derive(Debug)]
pub struct Delegation {
    /// Leaf first; empty when the end-entity certificate itself was presented.
    pub proxies: Vec<Cert>,
    /// The end-entity certificate.
    pub holder: Cert,
    /// What else the credential brought along.
    pub pool: Vec<Cert>,
}

impl Delegation {
    /// The certificate whose key speaks.
    pub fn leaf(&self) -> &Cert {
        self.proxies.first().unwrap_or(&self.holder)
    }

    /// Whether any proxy is limited.
    pub fn is_limited(&self) -> bool {
        self.proxies.iter().any(|p| p.proxy.as_ref().is_some_and(|p| p.language == Language::Limited))
    }
}

fn chain(cert: &Cert, what: impl std::fmt::Display) -> Refusal {
    refuse(RefusalKind::Chain, format!("{}: {what}", cert.title()))
}

fn distrust(cert: &Cert, what: impl std::fmt::Display) -> Refusal {
    refuse(RefusalKind::Trust, format!("{}: {what}", cert.title()))
}

/// Follows the proxies from the first certificate to the end-entity certificate and judges them.
///
/// The order of the certificates behind the first one does not matter, as with OpenSSL.
///
/// # Errors
/// `Chain`, `Expired`, and `Policy` for lifetimes and limited proxies that the site does not allow.
pub fn delegation_of(certs: Vec<Cert>, trust: &Trust, now: i64) -> Result<Delegation, Refusal> {
    let mut pool = certs;
    let mut proxies: Vec<Cert> = Vec::new();
    if pool.is_empty() {
        return Err(refuse(RefusalKind::Malformed, "the chain is empty; present a certificate"));
    }
    let mut current = pool.remove(0);
    while current.proxy.is_some() {
        let issuer = take_issuer(&current, &mut pool)?;
        proxies.push(current);
        current = issuer;
    }
    let delegation = Delegation { proxies, holder: current, pool };
    judge_holder(&delegation.holder)?;
    judge_proxies(&delegation)?;
    for cert in delegation.proxies.iter().chain([&delegation.holder]) {
        judge_validity(cert, now, RefusalKind::Expired)?;
        judge_strength(cert)?;
    }
    judge_site_rules(&delegation, trust)?;
    Ok(delegation)
}

fn take_issuer(cert: &Cert, pool: &mut Vec<Cert>) -> Result<Cert, Refusal> {
    let named = |c: &Cert| c.subject == cert.issuer;
    if !pool.iter().any(named) {
        let what =
            format_args!("its issuer {} is not in the credential; make a new proxy", cert.issuer.as_str());
        return Err(chain(cert, what));
    }
    match pool.iter().position(|c| named(c) && cert.is_signed_by(c)) {
        Some(at) => Ok(pool.remove(at)),
        None => {
            Err(chain(cert, "its signature is not its issuer's: it was altered or forged; make a new proxy"))
        }
    }
}

fn judge_holder(holder: &Cert) -> Result<(), Refusal> {
    if holder.is_ca {
        return Err(chain(holder, "a CA may not act as a user; use a personal, robot or host certificate"));
    }
    if !holder.may_sign {
        return Err(chain(holder, "keyUsage lacks digitalSignature; ask the CA for another certificate"));
    }
    if !holder.for_clients {
        return Err(chain(holder, "extKeyUsage does not allow clients; ask the CA for another certificate"));
    }
    Ok(())
}

/// Walks from the end-entity certificate down to the leaf.
fn judge_proxies(delegation: &Delegation) -> Result<(), Refusal> {
    let mut issuer = &delegation.holder;
    let mut family = None;
    let mut limited = false;
    for (below, cert) in delegation.proxies.iter().enumerate().rev() {
        let Some(proxy) = &cert.proxy else { continue };
        judge_proxy(cert, proxy, issuer)?;
        let first = *family.get_or_insert(proxy.family);
        if first != proxy.family {
            let what = format!("a {} proxy below a {} one", proxy.family.name(), first.name());
            return Err(chain(cert, format_args!("{what}; use one kind throughout")));
        }
        if limited && proxy.language != Language::Limited {
            return Err(chain(cert, "a full proxy below a limited one; what is limited stays limited"));
        }
        limited |= proxy.language == Language::Limited;
        if proxy.path_len.is_some_and(|n| (n as usize) < below) {
            let what =
                format_args!("its path length forbids the {below} proxies below it; delegate fewer times");
            return Err(chain(cert, what));
        }
        issuer = cert;
    }
    Ok(())
}

fn judge_proxy(cert: &Cert, proxy: &Proxy, issuer: &Cert) -> Result<(), Refusal> {
    let fail = |what: String| Err(chain(cert, what));
    if cert.subject.added_common_name(&issuer.subject).is_none() {
        return fail(format!("its name is not {} plus one CN; make a new proxy", issuer.subject.as_str()));
    }
    if cert.is_ca {
        return fail("it claims to be a CA; make a new proxy".to_owned());
    }
    if !issuer.may_sign {
        return fail(format!("its issuer ({}) may not sign: keyUsage lacks digitalSignature", issuer.kind()));
    }
    if cert.may_certify == Some(true) || !cert.may_sign {
        return fail(
            "keyUsage of a proxy needs digitalSignature and not keyCertSign; make a new proxy".to_owned(),
        );
    }
    if !proxy.critical {
        return fail("proxyCertInfo is not critical (RFC 3820 3.8); make a new proxy".to_owned());
    }
    if cert.has_alternative_names && proxy.family == Family::Rfc {
        return fail("it has alternative names (RFC 3820 3.5 forbids them); make a new proxy".to_owned());
    }
    match &proxy.language {
        Language::Independent => {
            fail("an independent proxy carries no rights of its issuer; make a full one".to_owned())
        }
        Language::Unknown(oid) => {
            fail(format!("policy language {oid} is unknown here; make a full or limited proxy"))
        }
        _ if proxy.stray_policy => {
            fail("a policy text that its language does not allow; make a new proxy".to_owned())
        }
        _ => Ok(()),
    }
}

fn judge_validity(cert: &Cert, now: i64, kind: RefusalKind) -> Result<(), Refusal> {
    if now > cert.not_after {
        let ago = ago(now.saturating_sub(cert.not_after));
        return Err(refuse(kind, format!("{} expired {ago} ago; renew it", cert.title())));
    }
    if now.saturating_add(SKEW) < cert.not_before {
        let ahead = ago(cert.not_before.saturating_sub(now));
        let reason = format!("{} becomes valid only in {ahead}; check the clocks", cert.title());
        return Err(refuse(kind, reason));
    }
    Ok(())
}

fn ago(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn judge_strength(cert: &Cert) -> Result<(), Refusal> {
    if cert.strength != Strength::Strong {
        return Err(chain(
            cert,
            "signed with MD5, SHA-1 or an unknown algorithm; have it issued with SHA-256",
        ));
    }
    judge_key(cert)
}

fn judge_key(cert: &Cert) -> Result<(), Refusal> {
    let least = if cert.proxy.is_some() { MIN_PROXY_BITS } else { MIN_BITS };
    match cert.key.strength() {
        None => Err(chain(cert, "its key is neither RSA, ECDSA nor EdDSA; use one of these")),
        Some(bits) if bits < least => {
            Err(chain(cert, format_args!("its key is too short; use {MIN_BITS} bits RSA")))
        }
        Some(_) => Ok(()),
    }
}

fn judge_site_rules(delegation: &Delegation, trust: &Trust) -> Result<(), Refusal> {
    if delegation.is_limited() && !trust.allow_limited {
        let reason =
            format!("{} is limited and this site takes full proxies only", delegation.leaf().title());
        return Err(refuse(RefusalKind::Policy, reason));
    }
    let most = i64::try_from(trust.max_proxy_lifetime.as_secs()).unwrap_or(i64::MAX);
    for cert in &delegation.proxies {
        let lifetime = cert.not_after.saturating_sub(cert.not_before).saturating_sub(SKEW);
        if lifetime > most {
            let (has, may) = (ago(lifetime), ago(most));
            let reason = format!("{} lives {has}, this site allows {may}; make a shorter one", cert.title());
            return Err(refuse(RefusalKind::Policy, reason));
        }
    }
    Ok(())
}

/// Leads an end-entity certificate to a trusted root; the CAs on the way, issuer first, root last.
///
/// # Errors
/// `Trust` for everything that the CA directory decides, `Chain` for forged signatures and users who act as CA,
/// `Site` when the directory itself cannot be used.
pub fn anchor(
    holder: &Cert,
    pool: &[Cert],
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<Vec<Cert>, Refusal> {
    let mut authorities: Vec<Cert> = Vec::new();
    loop {
        let current = authorities.last().unwrap_or(holder);
        let issuer = issuer_of(current, pool, dir)?;
        let is_root = issuer.is_self_issued() && issuer.is_signed_by(&issuer);
        authorities.push(issuer);
        if is_root {
            break;
        }
        if authorities.len() >= MAX_AUTHORITIES {
            return Err(distrust(holder, format_args!("more than {MAX_AUTHORITIES} CAs up to a root")));
        }
    }
    for (n, ca) in authorities.iter().enumerate() {
        let below = &authorities[..n];
        judge_authority(ca, below, now)?;
        let is_root = n + 1 == authorities.len();
        if !is_root || ca.strength == Strength::Broken {
            judge_strength(ca)?;
        }
        judge_constraints(ca, below, holder)?;
        let subject = below.last().unwrap_or(holder);
        judge_signing_policy(ca, subject, dir)?;
        judge_revocation(ca, subject, dir, trust, now)?;
    }
    Ok(authorities)
}

fn issuer_of(cert: &Cert, pool: &[Cert], dir: &CaDir<'_>) -> Result<Cert, Refusal> {
    let mut candidates = dir.issuers_of(cert)?;
    // a root that the credential brings along proves nothing
    candidates.extend(pool.iter().filter(|c| cert.names_issuer(c) && !c.is_self_issued()).cloned());
    if candidates.is_empty() {
        let file = dir.expected_file(cert);
        let what = format!("its CA {} is not trusted here: no {}", cert.issuer.as_str(), file.display());
        return Err(distrust(cert, format_args!("{what}; install the CA or use another certificate")));
    }
    let Some(at) = candidates.iter().position(|c| cert.is_signed_by(c)) else {
        let what =
            format_args!("its signature is not that of {}: it was altered or forged", cert.issuer.as_str());
        return Err(chain(cert, what));
    };
    let issuer = candidates.swap_remove(at);
    if !issuer.is_ca || issuer.may_certify == Some(false) || issuer.proxy.is_some() {
        let what =
            format_args!("it was issued by {}, which is no CA; get one from a CA", issuer.subject.as_str());
        return Err(chain(cert, what));
    }
    Ok(issuer)
}

fn judge_authority(ca: &Cert, below: &[Cert], now: i64) -> Result<(), Refusal> {
    judge_validity(ca, now, RefusalKind::Trust)?;
    judge_key(ca)?;
    let between = below.iter().filter(|c| !c.is_self_issued()).count();
    if ca.path_len.is_some_and(|n| (n as usize) < between) {
        return Err(chain(ca, format_args!("its path length forbids the {between} CAs below it")));
    }
    Ok(())
}

fn judge_constraints(ca: &Cert, below: &[Cert], holder: &Cert) -> Result<(), Refusal> {
    let Some(constraints) = &ca.constraints else {
        return Ok(());
    };
    let authorities = below.iter().filter(|c| !c.is_self_issued());
    match authorities.chain([holder]).find(|c| !within(constraints, c)) {
        Some(cert) => {
            Err(distrust(cert, format_args!("outside the name constraints of {}", ca.subject.as_str())))
        }
        None => Ok(()),
    }
}

/// Names in forms that are not evaluated (DNS, mail) pass only if the certificate has no names beside its subject.
fn within(constraints: &NameConstraints, cert: &Cert) -> bool {
    let all = || constraints.permitted.iter().chain(&constraints.excluded);
    let foreign = all().any(|t| matches!(t, Subtree::Other));
    if foreign && cert.has_alternative_names {
        return false;
    }
    let holds = |t: &Subtree| matches!(t, Subtree::Directory(base) if cert.subject.is_within(base));
    let wanted = constraints.permitted.iter().any(|t| matches!(t, Subtree::Directory(_)));
    !constraints.excluded.iter().any(holds) && (!wanted || constraints.permitted.iter().any(holds))
}

fn judge_signing_policy(ca: &Cert, subject: &Cert, dir: &CaDir<'_>) -> Result<(), Refusal> {
    let Some((path, policy)) = dir.signing_policy(ca)? else {
        let file = dir.path().join(format!("{:08x}.signing_policy", ca.subject.hash()));
        let what =
            format_args!("no signing policy, looked for {}; install the CA's whole package", file.display());
        return Err(distrust(ca, what));
    };
    let path = path.display();
    match policy.permits(ca.subject.as_str(), subject.subject.as_str()) {
        Some(true) => Ok(()),
        Some(false) => {
            let what = format_args!("{path} does not let {} issue that name", ca.subject.as_str());
            Err(distrust(subject, what))
        }
        None => Err(distrust(ca, format_args!("{path} has no entry for this CA; reinstall its package"))),
    }
}

fn judge_revocation(
    ca: &Cert,
    subject: &Cert,
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<(), Refusal> {
    let mut judged = false;
    let mut trouble = None;
    for (path, der) in dir.crls(ca)? {
        let path = path.display();
        let crl = match Crl::parse(&der) {
            Ok(crl) if !crl.covers(subject) => continue,
            Ok(crl) if !crl.is_signed_by(ca) => {
                trouble = Some(distrust(ca, format_args!("{path} is not signed by this CA; run fetch-crl")));
                continue;
            }
            Ok(crl) => crl,
            Err(e) => {
                trouble = Some(distrust(ca, format_args!("{path}: {e}; run fetch-crl")));
                continue;
            }
        };
        let listed = crl.lists(&subject.serial);
        match listed.map_err(|e| distrust(ca, format_args!("{path}: {e}; run fetch-crl")))? {
            true => {
                return Err(distrust(
                    subject,
                    format_args!("revoked by its CA ({path}); get a new certificate"),
                ));
            }
            false
                if crl.next_update.is_none_or(|t| t < now) || crl.this_update > now.saturating_add(SKEW) =>
            {
                trouble =
                    Some(distrust(ca, format_args!("revocation list {path} is out of date; run fetch-crl")));
            }
            false => judged = true,
        }
    }
    match trouble {
        Some(refusal) if !judged => Err(refusal),
        None if !judged && trust.require_crl => {
            let file = dir.path().join(format!("{:08x}.r0", ca.subject.hash()));
            Err(distrust(
                ca,
                format_args!("no revocation list {}, and this site requires one", file.display()),
            ))
        }
        _ => Ok(()),
    }
}
