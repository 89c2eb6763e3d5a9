//! The rules between the certificates of a credential: proxies and one end-entity certificate.
//!
//! [`delegation_of`] sorts them out, verifies every signature and applies RFC 3820 and its predecessors. How an end-entity
//! certificate leads to a root of the CA directory is said in [`crate::anchor`].

use crate::cert::{Cert, Family, Language, Proxy};
use crate::refuse;
use crate::signature::{Outcome, PublicKey, Strength};
use crate::verdict::Trust;
use identity::{Refusal, RefusalKind};

/// Clocks differ by this much: only the begin of validity is that lenient, seconds. Tools date proxies back by as much.
pub const SKEW: i64 = 300;

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

pub(crate) fn chain(cert: &Cert, what: impl std::fmt::Display) -> Refusal {
    refuse(RefusalKind::Chain, format!("{}: {what}", cert.title()))
}

pub(crate) fn distrust(cert: &Cert, what: impl std::fmt::Display) -> Refusal {
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
        judge_strength(cert, trust)?;
        judge_key(cert, trust)?;
    }
    judge_site_rules(&delegation, trust)?;
    Ok(delegation)
}

fn take_issuer(cert: &Cert, pool: &mut Vec<Cert>) -> Result<Cert, Refusal> {
    let mut outcome = None;
    for (at, candidate) in pool.iter().enumerate().filter(|(_, c)| cert.names_issuer(c)) {
        match cert.signature_by(candidate) {
            Outcome::Good => return Ok(pool.remove(at)),
            other => outcome = outcome.or(Some(other)),
        }
    }
    match outcome {
        Some(outcome) => Err(chain(cert, bad_signature(&outcome, "its issuer", "make a new proxy"))),
        None => {
            let issuer = cert.issuer.as_str();
            Err(chain(cert, format_args!("its issuer {issuer} is not in the credential; make a new proxy")))
        }
    }
}

/// What to say of a signature that is not good.
pub(crate) fn bad_signature(outcome: &Outcome, issuer: &str, remedy: &str) -> String {
    match outcome {
        Outcome::Unknown(what) => {
            format!(
                "its signature cannot be checked: {what} is not supported here; use RSA or ECDSA (P-256, P-384, P-521) with SHA-256"
            )
        }
        _ => format!("its signature is not that of {issuer}: it was altered or forged; {remedy}"),
    }
}

fn judge_holder(holder: &Cert) -> Result<(), Refusal> {
    if !holder.is_v3 {
        return Err(chain(holder, "it is no X.509 version 3 certificate; ask the CA for another one"));
    }
    if holder.is_ca || holder.is_self_issued() {
        return Err(chain(holder, "a CA may not act as a user; use a personal, robot or host certificate"));
    }
    if !holder.may_sign {
        return Err(chain(holder, "keyUsage lacks digitalSignature; ask the CA for another certificate"));
    }
    if !holder.for_clients {
        return Err(chain(
            holder,
            "extKeyUsage or nsCertType does not allow clients; ask the CA for another certificate",
        ));
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

pub(crate) fn judge_validity(cert: &Cert, now: i64, kind: RefusalKind) -> Result<(), Refusal> {
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

/// The signature on the certificate: strong enough for this site?
pub(crate) fn judge_strength(cert: &Cert, trust: &Trust) -> Result<(), Refusal> {
    match cert.algorithm.strength() {
        Strength::Strong => Ok(()),
        Strength::Sha1 if trust.rules.allow_sha1 => Ok(()),
        _ => {
            let name = cert.algorithm.name();
            Err(chain(
                cert,
                format_args!("signed by {name}, which is not accepted here; have it issued with SHA-256"),
            ))
        }
    }
}

/// For a key that nobody here can compute with.
pub(crate) fn unsupported_key(cert: &Cert) -> Refusal {
    let what = match &cert.key {
        PublicKey::Unknown(what) => what.as_str(),
        _ => "of a known kind",
    };
    let known = "RSA, ECDSA (P-256, P-384, P-521) and Ed25519";
    chain(cert, format_args!("its key ({what}) is of a kind that is not supported here; use {known}"))
}

/// The certificate's own key: long enough for this site?
pub(crate) fn judge_key(cert: &Cert, trust: &Trust) -> Result<(), Refusal> {
    let least = if cert.proxy.is_some() { trust.rules.min_proxy_rsa_bits } else { trust.rules.min_rsa_bits };
    match (&cert.key, cert.key.strength()) {
        (PublicKey::Unknown(_), _) => Err(unsupported_key(cert)),
        (PublicKey::Rsa { .. }, Some(bits)) if bits < least => {
            Err(chain(cert, format_args!("its RSA key of {bits} bits is too short; this site wants {least}")))
        }
        _ => Ok(()),
    }
}

fn judge_site_rules(delegation: &Delegation, trust: &Trust) -> Result<(), Refusal> {
    if delegation.is_limited() && !trust.allow_limited {
        let reason =
            format!("{} is limited and this site takes full proxies only", delegation.leaf().title());
        return Err(refuse(RefusalKind::Policy, reason));
    }
    let legacy = |c: &&Cert| c.proxy.as_ref().is_some_and(|p| p.family == Family::Legacy);
    if let Some(proxy) = delegation.proxies.iter().find(legacy).filter(|_| !trust.rules.allow_legacy) {
        let what =
            "is a legacy (GT2) proxy, which this site does not take; make one with grid-proxy-init -rfc";
        return Err(refuse(RefusalKind::Policy, format!("{} {what}", proxy.title())));
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
