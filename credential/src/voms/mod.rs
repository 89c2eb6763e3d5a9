//! VOMS attribute certificates (OGF GFD.182, RFC 5755): which groups and roles a VO's server vouches for.
//!
//! [`ac`] reads the structure, [`lsc`] the site's list of trusted servers; this module judges.

pub mod ac;
pub mod lsc;

use crate::anchor::anchor;
use crate::cadir::{self, CaDir};
use crate::cert::Cert;
use crate::chain::{Delegation, SKEW, bad_signature};
use crate::refuse;
use crate::signature::{Outcome, Strength};
use crate::verdict::Trust;
use ac::{AttributeCertificate, HolderName};
use identity::{Fqan, Refusal, RefusalKind, VomsAttributes};
use std::path::{Path, PathBuf};

const REMEDY: &str = "make a new proxy with voms-proxy-init";

fn voms(what: impl std::fmt::Display) -> Refusal {
    refuse(RefusalKind::Voms, format!("VOMS attributes: {what}"))
}

/// The attributes in the proxy nearest the leaf; `None` when no proxy carries any.
///
/// All attribute certificates found there must be acceptable; the first one counts.
///
/// # Errors
/// `Voms` with the reason; `Site` when a file cannot be used.
pub fn attributes(
    delegation: &Delegation,
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<Option<VomsAttributes>, Refusal> {
    let Some(sequence) = delegation.proxies.iter().find_map(|p| p.voms.as_deref()) else {
        return Ok(None);
    };
    let found = ac::sequence(sequence).map_err(|e| voms(format_args!("{e}; {REMEDY}")))?;
    let mut first = None;
    for ac in &found {
        let attributes = judge(ac, &delegation.holder, dir, trust, now)?;
        first.get_or_insert(attributes);
    }
    Ok(first)
}

fn judge(
    ac: &AttributeCertificate<'_>,
    holder: &Cert,
    dir: &CaDir<'_>,
    trust: &Trust,
    now: i64,
) -> Result<VomsAttributes, Refusal> {
    judge_holder(ac, holder)?;
    judge_validity(ac, now)?;
    judge_targets(ac)?;
    let fqans = judge_fqans(ac)?;
    let signer = signer(ac, dir, trust, now)?;
    let dn = |name: &crate::name::Name| name.dn().map_err(|e| voms(format_args!("signer: {e}")));
    Ok(VomsAttributes {
        vo: ac.vo.to_owned(),
        fqans,
        signer: dn(&signer.subject)?,
        signer_issuer: dn(&signer.issuer)?,
        not_after: u64::try_from(ac.not_after.min(signer.not_after)).unwrap_or_default(),
    })
}

/// The attributes must have been issued to the person behind the proxy.
fn judge_holder(ac: &AttributeCertificate<'_>, holder: &Cert) -> Result<(), Refusal> {
    let mine = match &ac.holder {
        // servers write the holder's issuer there, old ones its subject
        HolderName::Certificate { name, serial } => {
            *serial == holder.serial && (*name == holder.issuer || *name == holder.subject)
        }
        HolderName::Entity(name) => *name == holder.subject,
    };
    if mine {
        return Ok(());
    }
    let whose = match &ac.holder {
        HolderName::Certificate { name, .. } | HolderName::Entity(name) => name.as_str(),
    };
    let what = format_args!("issued for another certificate (of {whose}) than {}", holder.subject.as_str());
    Err(voms(format_args!("{what}; {REMEDY}")))
}

fn judge_validity(ac: &AttributeCertificate<'_>, now: i64) -> Result<(), Refusal> {
    if now > ac.not_after.saturating_add(SKEW) {
        let minutes = now.saturating_sub(ac.not_after) / 60;
        return Err(voms(format_args!("those of VO {} expired {minutes} min ago; {REMEDY}", ac.vo)));
    }
    if now.saturating_add(SKEW) < ac.not_before {
        return Err(voms(format_args!("those of VO {} are not valid yet; check the clocks", ac.vo)));
    }
    Ok(())
}

/// Attributes may be meant for some hosts only.
fn judge_targets(ac: &AttributeCertificate<'_>) -> Result<(), Refusal> {
    let Some(targets) = &ac.targets else { return Ok(()) };
    let host =
        nix::unistd::gethostname().map_err(|e| refuse(RefusalKind::Site, format!("host name: {e}")))?;
    let host = host.to_string_lossy();
    if targets.iter().any(|t| *t == host) {
        return Ok(());
    }
    Err(voms(format_args!("meant for {} and not for this host ({host}); {REMEDY}", targets.join(", "))))
}

fn judge_fqans(ac: &AttributeCertificate<'_>) -> Result<Vec<Fqan>, Refusal> {
    let fqan = |text: &&str| {
        let parsed = Fqan::parse(text).map_err(|e| voms(format_args!("{e}")))?;
        if parsed.vo() != ac.vo {
            return Err(voms(format_args!("{parsed} does not belong to VO {}; {REMEDY}", ac.vo)));
        }
        Ok(parsed)
    };
    ac.fqans.iter().map(fqan).collect()
}

/// Finds the server certificate that signed, by LSC file or by a certificate in the VOMS directory, and leads it to a root.
fn signer(ac: &AttributeCertificate<'_>, dir: &CaDir<'_>, trust: &Trust, now: i64) -> Result<Cert, Refusal> {
    let vo_dir = trust.voms_dir.join(ac.vo);
    if !vo_dir.is_dir() {
        let what = format_args!("VO {} is not known here: no directory {}", ac.vo, vo_dir.display());
        return Err(voms(format_args!("{what}; configure the VO or use another one")));
    }
    let lsc_path = vo_dir.join(format!("{}.lsc", ac.host));
    let chain = ac.chain().map_err(|e| voms(format_args!("certificates of the signer: {}", e.reason)))?;
    let lsc = cadir::read(&lsc_path, 1 << 20)?;
    let (signer, pool) = match (lsc, chain.split_first()) {
        (Some(text), Some((signer, pool))) => {
            judge_lsc(&lsc_path, &text, &chain)?;
            (signer.clone(), pool.to_vec())
        }
        _ => (installed_signer(ac, &vo_dir, trust, &lsc_path)?, Vec::new()),
    };
    if signer.subject != ac.issuer {
        let what = format_args!("issued by {}, signed by {}", ac.issuer.as_str(), signer.subject.as_str());
        return Err(voms(format_args!("{what}; {REMEDY}")));
    }
    if signer.is_ca || signer.proxy.is_some() || !signer.may_sign {
        return Err(voms(format_args!("{} may not sign attributes; ask the VO", signer.title())));
    }
    judge_signature(ac, &signer, trust)?;
    if now > signer.not_after || now.saturating_add(SKEW) < signer.not_before {
        return Err(voms(format_args!("the server's {} is not valid now; ask the VO", signer.title())));
    }
    let rooted = anchor(&signer, &pool, dir, trust, now);
    rooted.map_err(|e| match e.kind {
        RefusalKind::Site => e,
        _ => voms(format_args!("the server's {}", e.reason)),
    })?;
    Ok(signer)
}

fn judge_signature(ac: &AttributeCertificate<'_>, signer: &Cert, trust: &Trust) -> Result<(), Refusal> {
    let accepted = match ac.algorithm.strength() {
        Strength::Strong => true,
        Strength::Sha1 => trust.rules.allow_sha1,
        Strength::Broken => false,
    };
    if !accepted {
        let name = ac.algorithm.name();
        return Err(voms(format_args!(
            "signed by {name}, which is not accepted here; ask the VO for SHA-256"
        )));
    }
    match ac.signature_by(signer) {
        Outcome::Good => Ok(()),
        outcome => Err(voms(bad_signature(&outcome, signer.subject.as_str(), REMEDY))),
    }
}

fn judge_lsc(path: &Path, text: &[u8], chain: &[Cert]) -> Result<(), Refusal> {
    let lists = lsc::parse(text);
    let lists = lists.map_err(|e| refuse(RefusalKind::Site, format!("{}: {e}", path.display())))?;
    let names: Vec<_> = chain.iter().map(|c| (c.subject.as_str(), c.issuer.as_str())).collect();
    if lsc::any_matches(&lists, &names) {
        return Ok(());
    }
    let (subject, issuer) = (chain[0].subject.as_str(), chain[0].issuer.as_str());
    let what = format_args!("{} does not list the server {subject} of {issuer}", path.display());
    Err(voms(format_args!("{what}; update the file if the VO changed its server")))
}

fn installed_signer(
    ac: &AttributeCertificate<'_>,
    vo_dir: &Path,
    trust: &Trust,
    lsc: &Path,
) -> Result<Cert, Refusal> {
    let mut trouble = None;
    for path in pem_files(vo_dir).into_iter().chain(pem_files(&trust.voms_dir)) {
        match cadir::read_certificates(&path) {
            // a broken file of one server is no reason to turn away the users of the others
            Err(refusal) => trouble = trouble.or(Some(refusal)),
            Ok(certs) => {
                let mut mine = certs.into_iter().flatten().filter(|c| c.subject == ac.issuer);
                if let Some(signer) = mine.find(|c| ac.signature_by(c) != Outcome::Forged) {
                    return Ok(signer);
                }
            }
        }
    }
    if let Some(refusal) = trouble {
        return Err(refusal);
    }
    let what = format_args!("server {} of VO {} is not trusted here: no {}", ac.host, ac.vo, lsc.display());
    Err(voms(format_args!("{what}; install it")))
}

fn pem_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut paths: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "pem")).collect();
    paths.sort();
    paths
}
