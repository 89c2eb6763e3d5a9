//! Turns the bytes of a credential into a verified identity: calls each check, in the order that matters.

use crate::anchor::anchor;
use crate::cadir::CaDir;
use crate::cert::Cert;
use crate::chain::{Delegation, delegation_of};
use crate::{key, pem, refuse, voms};
use helper::{VerifyReply, VerifyRequest};
use identity::{ChainRules, Refusal, RefusalKind, VerifiedIdentity};
use std::path::PathBuf;
use std::time::Duration;

/// What a site believes in.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Hashed CA directory.
    pub ca_dir: PathBuf,
    /// LSC files of the VOMS servers.
    pub voms_dir: PathBuf,
    /// Refuse a CA that has no revocation list.
    pub require_crl: bool,
    /// Longest lifetime of each proxy, from its begin to its end.
    pub max_proxy_lifetime: Duration,
    /// Take limited proxies.
    pub allow_limited: bool,
    /// What else of a chain to take.
    pub rules: ChainRules,
}

impl Trust {
    /// The defaults of `policy.toml` with this CA directory, and the VOMS directory beside it.
    pub fn in_dir(ca_dir: impl Into<PathBuf>) -> Self {
        let ca_dir = ca_dir.into();
        let voms_dir = ca_dir.with_file_name("vomsdir");
        let max_proxy_lifetime = Duration::from_secs(7 * 86_400);
        Self {
            ca_dir,
            voms_dir,
            require_crl: false,
            max_proxy_lifetime,
            allow_limited: true,
            rules: ChainRules::default(),
        }
    }

    fn of(request: &VerifyRequest) -> Self {
        Self {
            ca_dir: request.ca_dir.clone(),
            voms_dir: request.voms_dir.clone(),
            require_crl: request.require_crl,
            max_proxy_lifetime: request.max_proxy_lifetime,
            allow_limited: request.allow_limited,
            rules: request.rules,
        }
    }
}

/// Judges a proxy file: PEM, private key, chain, trust, VOMS attributes.
///
/// Reads the CA and VOMS directories and nothing else; `digest` is the SHA-256 of `request.credential`.
pub fn verify(request: &VerifyRequest) -> VerifyReply {
    let blocks = pem::split_pem(&request.credential)?;
    let certs = parse_all(&pem::certificates(&blocks)?)?;
    key::check(&blocks, &certs[0], request.require_key)?;
    judge(certs, &Trust::of(request), request.now, sha256(&request.credential))
}

/// Judges the chain of a TLS peer, leaf first. The handshake has proved that the peer has the leaf's key.
///
/// `digest` is the SHA-256 of the leaf's DER.
pub fn verify_chain(certs_der: &[Vec<u8>], trust: &Trust, now: u64) -> Result<VerifiedIdentity, Refusal> {
    if certs_der.len() > pem::MAX_CERTIFICATES {
        return Err(refuse(RefusalKind::Malformed, "the peer sent too many certificates"));
    }
    let digest = sha256(certs_der.first().map_or(&[], |c| c));
    judge(parse_all(certs_der)?, trust, now, digest)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

fn parse_all(ders: &[Vec<u8>]) -> Result<Vec<Cert>, Refusal> {
    ders.iter().map(|der| Cert::parse(der)).collect()
}

fn judge(certs: Vec<Cert>, trust: &Trust, now: u64, digest: [u8; 32]) -> VerifyReply {
    let time =
        i64::try_from(now).map_err(|_| refuse(RefusalKind::Site, "the clock is beyond the year 9999"))?;
    let dir = CaDir::open(&trust.ca_dir)?;
    let delegation = delegation_of(certs, trust, time)?;
    let authorities = anchor(&delegation.holder, &delegation.pool, &dir, trust, time)?;
    let voms = voms::attributes(&delegation, &dir, trust, time)?;
    let everything = || delegation.proxies.iter().chain([&delegation.holder]).chain(&authorities);
    let not_after = everything().map(|c| c.not_after).min().unwrap_or_default();
    let holder = &delegation.holder;
    let named = |name: &crate::name::Name| {
        name.dn().map_err(|e| refuse(RefusalKind::Malformed, format!("{}: {e}", holder.kind())))
    };
    Ok(VerifiedIdentity {
        subject: named(&holder.subject)?,
        issuer: named(&holder.issuer)?,
        serial: holder.serial_hex(),
        not_after: u64::try_from(not_after).unwrap_or_default(),
        limited: delegation.is_limited(),
        digest,
        voms,
        chain_pem: chain_pem(&delegation, &authorities),
    })
}

/// Leaf, further proxies, end-entity certificate, CAs below the root.
fn chain_pem(delegation: &Delegation, authorities: &[Cert]) -> Vec<u8> {
    let below_root = &authorities[..authorities.len().saturating_sub(1)];
    let certs = delegation.proxies.iter().chain([&delegation.holder]).chain(below_root);
    certs.map(|c| pem::encode("CERTIFICATE", &c.der)).collect::<String>().into_bytes()
}
