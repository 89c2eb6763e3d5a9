//! Takes delegated proxies from users and signs proxies for pilots. Only requests and certificates travel, no private key does.

use crate::engine::now;
use credential::cert::Cert;
use credential::{Trust, pem, split_pem, verify_chain};
use delegation::KeyKind;
use identity::VerifiedIdentity;
use pilot_api::DELEGATIONS;
use pilot_store::Key;
use std::time::Duration;

/// Longest lifetime of a proxy on a worker node when the payload names no walltime.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// What a proxy outlives its payload by: time to bring the output home.
const MARGIN: Duration = Duration::from_secs(3600);

/// Why a delegation cannot be used.
#[derive(Debug)]
pub enum Denied {
    /// What came is not good: stable word and one line.
    Because(&'static str, String),
    /// The queue itself failed: at what, and why.
    Internal(&'static str, String),
}

impl Denied {
    fn because(code: &'static str, title: impl Into<String>) -> Self {
        Self::Because(code, title.into())
    }

    fn internal(what: &'static str, why: &dyn std::fmt::Display) -> Self {
        Self::Internal(what, why.to_string())
    }
}

/// Makes a key pair and a request: (key PEM, request PEM).
pub fn request(kind: KeyKind) -> Result<(String, String), Denied> {
    delegation::new_request_for(kind).map_err(|e| Denied::internal("making a key", &e))
}

/// Checks what a user has signed: it fits the key, the queue trusts it, and it is the same person as on the connection.
///
/// Returns the chain as stored and the end of its validity.
pub fn accept(
    chain: &str,
    key: &str,
    peer: &VerifiedIdentity,
    trust: &Trust,
) -> Result<(String, u64), Denied> {
    let refuse = |why: &dyn std::fmt::Display| {
        let title = format!("the signed chain is refused: {}", identity::one_line(&why.to_string()));
        Denied::because("bad_delegation", title)
    };
    let blocks = split_pem(chain.as_bytes()).map_err(|e| refuse(&e.reason))?;
    let certificates = pem::certificates(&blocks).map_err(|e| refuse(&e.reason))?;
    delegation::join(chain, key).map_err(|e| refuse(&e))?;
    let identity = verify_chain(&certificates, trust, now() / 1000).map_err(|e| refuse(&e.reason))?;
    if (&identity.subject, &identity.issuer) != (&peer.subject, &peer.issuer) {
        return Err(refuse(&"it is another person's; delegate with the proxy that you connect with"));
    }
    reaches(&certificates)?;
    Ok((String::from_utf8_lossy(&identity.chain_pem).into_owned(), identity.not_after))
}

/// Whether the delegated proxy, the first of the chain, can be delegated on to a pilot.
fn reaches(certificates: &[Vec<u8>]) -> Result<(), Denied> {
    let chain: Result<Vec<Cert>, _> = certificates.iter().map(|der| Cert::parse(der)).collect();
    let left = delegation::remaining(&chain.map_err(|e| Denied::internal("a chain", &e.reason))?);
    // One step has been made already; the user wants to hear of the own proxy.
    match left.map(|left| left.saturating_add(1)).filter(|allowed| *allowed < DELEGATIONS) {
        None => Ok(()),
        Some(allowed) => {
            let title = delegation::Error::PathLength { allowed, needed: DELEGATIONS }.to_string();
            Err(Denied::because("path_length", title))
        }
    }
}

/// How long a proxy for a worker node shall live; `None` when the delegated one has expired.
pub fn lifetime(not_after: u64, now: u64, walltime: Option<u64>) -> Option<Duration> {
    let left = Duration::from_secs(not_after.checked_sub(now).filter(|left| *left > 0)?);
    let wanted = walltime.map_or(LONGEST, |w| Duration::from_secs(w).saturating_add(MARGIN));
    Some(left.min(wanted))
}

/// Signs a pilot's request with a user's delegated proxy.
pub fn sign(csr: &str, delegated: &Key, lifetime: Duration, limited: bool) -> Result<String, Denied> {
    let chain = delegated.chain.as_deref().ok_or_else(|| {
        Denied::because("delegation_incomplete", "the delegation has no chain; delegate again")
    })?;
    let issuer =
        delegation::join(chain, &delegated.key).map_err(|e| Denied::internal("the delegation", &e))?;
    delegation::sign(csr, &issuer, lifetime, limited).map_err(|e| {
        let why = identity::one_line(&e.to_string());
        Denied::because("bad_request", format!("the certificate request is refused: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_outlives_neither_its_issuer_nor_its_payload_by_much() {
        let seconds = |not_after, walltime| lifetime(not_after, 1000, walltime).map(|d| d.as_secs());
        assert_eq!(seconds(1000, None), None);
        assert_eq!(seconds(999, None), None);
        assert_eq!(seconds(1500, None), Some(500));
        assert_eq!(seconds(1_000_000, None), Some(43_200));
        assert_eq!(seconds(1_000_000, Some(600)), Some(4_200));
        assert_eq!(seconds(1_000_000, Some(u64::MAX)), Some(999_000));
    }
}
