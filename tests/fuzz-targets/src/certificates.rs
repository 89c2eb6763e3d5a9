//! Proxies and everything around them: bytes of callers and network peers.
//!
//! The grid of `tests/fuzz/trust` signed for two people and a VOMS server, and its CA's key is gone. So whatever the
//! fuzzer makes of the seeds, nobody else may ever be accepted, and no attribute that the server did not sign.

use crate::assert_one_line;
use credential::cadir::CaDir;
use credential::cert::{Cert, Family, proxy_cert_info};
use credential::chain::Delegation;
use credential::crl::Crl;
use credential::der::Der;
use credential::{Trust, pem, verify, verify_chain, voms};
use delegation::Error;
use helper::VerifyRequest;
use identity::{Refusal, VerifiedIdentity};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Everybody whom the CA certified and did not revoke.
const KNOWN: [&str; 3] = [
    "/C=XX/O=Test Grid/OU=people/CN=Alice Adams",
    "/C=XX/O=Test Grid/OU=people/CN=Bob Brown",
    "/C=XX/O=Test Grid/CN=voms.test",
];
/// Everything that the VOMS server signed.
const SIGNED: [&str; 3] = ["/cms", "/cms/Role=pilot/Capability=NULL", "/cms/Role=NULL/Capability=NULL"];

/// What the targets share.
struct World {
    now: u64,
    trust: Trust,
    ca: Cert,
    revoked: Cert,
    /// A proxy and its holder.
    chain: Vec<Cert>,
    /// A credential that may delegate for a hundred years.
    issuer: Vec<u8>,
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/trust")
}

fn read(name: &str) -> Vec<u8> {
    let path = dir().join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; it belongs to the repository", path.display()))
}

fn certs(name: &str) -> Vec<Cert> {
    let blocks = pem::split_pem(&read(name)).expect("our own PEM");
    let ders = pem::certificates(&blocks).expect("our own certificates");
    ders.iter().map(|der| Cert::parse(der).expect("our own certificate")).collect()
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World {
        now: String::from_utf8_lossy(&read("now")).trim().parse().expect("a number"),
        trust: Trust::in_dir(dir().join("certificates")),
        ca: certs("ca.pem").remove(0),
        revoked: certs("revoked.pem").remove(0),
        chain: certs("chain.pem"),
        issuer: read("issuer.pem"),
    })
}

fn judge(verdict: &Result<VerifiedIdentity, Refusal>) {
    match verdict {
        Ok(identity) => {
            assert!(KNOWN.contains(&identity.subject.as_str()), "a stranger: {}", identity.subject);
            assert!(identity.fqans().iter().all(|f| SIGNED.contains(&f.as_str())), "{:?}", identity.voms);
            assert!(identity.not_after >= world().now, "an expired credential was accepted");
            assert!(!String::from_utf8_lossy(&identity.chain_pem).contains("PRIVATE KEY"));
        }
        Err(refusal) => assert_one_line(&refusal.reason),
    }
}

fn verdict(credential: &[u8], require_key: bool) -> Result<VerifiedIdentity, Refusal> {
    let World { now, trust, .. } = world();
    verify(&VerifyRequest {
        credential: credential.to_vec(),
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: true,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: true,
        rules: identity::ChainRules { allow_legacy: true, ..identity::ChainRules::default() },
        require_key,
        now: *now,
    })
}

/// A proxy file: PEM, key, chain, trust, attributes.
pub fn pem_chain(data: &[u8]) {
    let with_key = verdict(data, true);
    judge(&with_key);
    let without = verdict(data, false);
    judge(&without);
    assert!(with_key.is_err() || with_key == without, "asking for the key changes who it is");
    if let Ok(identity) = without {
        assert_eq!(verdict(&identity.chain_pem, false).map(|again| again.subject), Ok(identity.subject));
    }
}

/// The same below PEM: certificates one after the other, as a TLS peer sends them.
pub fn der_chain(data: &[u8]) {
    for family in [Family::Rfc, Family::Draft] {
        let _ = proxy_cert_info(data, family, true);
    }
    let mut ders = Vec::new();
    let mut rest = Der::new(data);
    while !rest.is_empty() {
        match rest.any("certificate") {
            Ok(element) => ders.push(element.raw.to_vec()),
            Err(_) => break,
        }
    }
    ders.truncate(8);
    judge(&verify_chain(&ders, &world().trust, world().now));
    for cert in ders.iter().filter_map(|der| Cert::parse(der).ok()) {
        assert!(cert.subject.is_within(&cert.subject));
        assert!(cert.serial_hex().bytes().all(|c| c.is_ascii_hexdigit()));
        assert_one_line(&cert.title());
    }
}

/// The contents of a proxy's VOMS extension.
pub fn attribute_certificate(data: &[u8]) {
    let World { now, trust, chain, .. } = world();
    let mut leaf = chain[0].clone();
    leaf.voms = Some(data.to_vec());
    let delegation = Delegation { proxies: vec![leaf], holder: chain[1].clone(), pool: Vec::new() };
    let ca_dir = CaDir::open(&trust.ca_dir).expect("our own directory");
    let now = i64::try_from(*now).expect("a time before the year 9999");
    match voms::attributes(&delegation, &ca_dir, trust, now) {
        Ok(None) => panic!("the attributes were overlooked"),
        Ok(Some(found)) => {
            assert_eq!(found.vo, "cms");
            assert!(found.fqans.iter().all(|f| SIGNED.contains(&f.as_str())), "{found:?}");
        }
        Err(refusal) => assert_one_line(&refusal.reason),
    }
}

/// A revocation list in DER.
pub fn crl(data: &[u8]) {
    let World { ca, revoked, .. } = world();
    let Ok(list) = Crl::parse(data) else { return };
    let listed = list.lists(&revoked.serial);
    if list.is_signed_by(ca) {
        assert_eq!(listed, Ok(true), "a forged list passes for the CA's");
        assert_eq!(list.covers(revoked), Ok(()));
    }
}

/// The body of a private key block beside somebody's chain.
pub fn private_key(data: &[u8]) {
    let certificates: String = world().chain.iter().map(|c| pem::encode("CERTIFICATE", &c.der)).collect();
    for label in ["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY"] {
        judge(&verdict(&[certificates.as_bytes(), pem::encode(label, data).as_bytes()].concat(), true));
    }
}

/// A certificate request that we are asked to sign, and a signed chain that we get back.
pub fn delegation(data: &[u8]) {
    let issuer = &world().issuer;
    match delegation::sign(data, issuer, Duration::from_secs(3600), true) {
        Ok(chain) => {
            let blocks = pem::split_pem(chain.as_bytes()).expect("our own PEM");
            let made = Cert::parse(&blocks[0].der).expect("what we sign we can read");
            let above = Cert::parse(&blocks[1].der).expect("our issuer");
            assert!(made.subject.added_common_name(&above.subject).is_some());
            assert!(made.is_signed_by(&above) && made.proxy.is_some() && !made.is_ca);
        }
        Err(Error::Issuer(why)) => panic!("our issuer is good: {why}"),
        Err(why) => assert_one_line(&why.to_string()),
    }
    if let Err(why) = delegation::join(data, issuer) {
        assert_one_line(&why.to_string());
    }
}
