//! Delegation: the receiver makes a key and a request, the issuer signs a proxy, no private key travels.
//!
//! [`new_request`] and [`join`] are the receiver's side, [`sign`] the issuer's. [`check`] tells before all that whether
//! a credential can be delegated as often as its way is long.
//!
//! Must never: let a private key leave its maker, or sign for longer than the issuer's own proxy lives. Called by: queue, agent and
//! user commands.

#![forbid(unsafe_code)]

use credential::cert::{Cert, Family, Language};
use credential::{key, pem};
use identity::Refusal;
use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::rsa::Rsa;
use openssl::x509::extension::KeyUsage;
use openssl::x509::{X509, X509Extension, X509Name, X509Req};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An unencrypted private key, PEM.
pub type KeyPem = String;
/// A PKCS#10 request, PEM.
pub type CsrPem = String;

/// Proxies are dated back by this much for slow clocks, seconds.
const BACKDATE: i64 = 300;
const KEY_BITS: u32 = 2048;

/// Why no proxy was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not usable.
    #[error("certificate request: {0}; make a new request")]
    Request(&'static str),
    /// The issuing credential is not usable.
    #[error("issuing credential: {0}")]
    Issuer(String),
    /// The chain or key to be joined is not PEM of the right kind.
    #[error("signed chain: {0}")]
    Chain(String),
    /// The path length of a proxy (RFC 3820, section 3.8.1) allows too few delegations.
    #[error(
        "the proxy allows {allowed} more delegation{}, but {needed} are needed; make one without that limit: \
         grid-proxy-init -rfc, or voms-proxy-init -rfc with -path-length {needed} or more, or none",
        if *.allowed == 1 { "" } else { "s" }
    )]
    PathLength {
        /// Delegations in a row that its path length leaves.
        allowed: u32,
        /// Delegations in a row that it was made for.
        needed: u32,
    },
    /// OpenSSL failed.
    #[error("OpenSSL failed: {0}")]
    Library(#[from] ErrorStack),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Issuer(refusal.reason)
    }
}

/// Kinds of keys that proxies are made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on the curve P-256: made in microseconds.
    #[default]
    EcdsaP256,
    /// RSA of 2048 bits, for tools that know nothing else: takes a tenth of a second and more.
    Rsa2048,
}

/// Makes an RSA key of 2048 bits and a request signed with it.
///
/// # Errors
/// When OpenSSL fails.
pub fn new_request() -> Result<(KeyPem, CsrPem), Error> {
    new_request_for(KeyKind::Rsa2048)
}

/// Makes a key and a request signed with it. The name in the request means nothing: the issuer sets it.
///
/// # Errors
/// When OpenSSL fails.
pub fn new_request_for(kind: KeyKind) -> Result<(KeyPem, CsrPem), Error> {
    let key = match kind {
        KeyKind::EcdsaP256 => {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            PKey::from_ec_key(EcKey::generate(&group)?)?
        }
        KeyKind::Rsa2048 => PKey::from_rsa(Rsa::generate(KEY_BITS)?)?,
    };
    let mut name = X509Name::builder()?;
    name.append_entry_by_text("CN", "proxy request")?;
    let mut request = X509Req::builder()?;
    request.set_version(0)?;
    request.set_subject_name(&name.build())?;
    request.set_pubkey(&key)?;
    request.sign(&key, MessageDigest::sha256())?;
    let key = key.private_key_to_pem_pkcs8()?;
    Ok((to_text(&key), to_text(&request.build().to_pem()?)))
}

fn to_text(pem: &[u8]) -> String {
    String::from_utf8_lossy(pem).into_owned()
}

/// The parts of an issuing credential.
struct Issuer {
    key: PKey<Private>,
    /// Leaf first.
    chain: Vec<Cert>,
}

impl Issuer {
    fn parse(credential: &[u8]) -> Result<Self, Error> {
        let blocks = pem::split_pem(credential)?;
        let ders = pem::certificates(&blocks)?;
        let chain: Vec<Cert> = ders.iter().map(|der| Cert::parse(der)).collect::<Result<_, _>>()?;
        let block = key::check(&blocks, &chain[0], true)?;
        let block = block.ok_or_else(|| Error::Issuer("no private key".to_owned()))?;
        Ok(Self { key: PKey::private_key_from_der(&block.der)?, chain })
    }

    fn leaf(&self) -> &Cert {
        &self.chain[0]
    }

    /// Whether what this issuer signs must be limited.
    fn is_limited(&self) -> bool {
        self.chain.iter().any(|c| c.proxy.as_ref().is_some_and(|p| p.language == Language::Limited))
    }

    fn judge(&self, now: i64) -> Result<(), Error> {
        let leaf = self.leaf();
        let fail = |what: &str| Err(Error::Issuer(format!("{}: {what}", leaf.title())));
        if leaf.is_ca || !leaf.may_sign {
            return fail("it may not sign proxies");
        }
        if let Some(proxy) = &leaf.proxy {
            if proxy.family != Family::Rfc {
                return fail("only RFC 3820 proxies can be extended; make one with grid-proxy-init -rfc");
            }
            if !matches!(proxy.language, Language::InheritAll | Language::Limited) {
                return fail("its policy gives no rights to pass on; make a full proxy");
            }
        }
        if remaining(&self.chain) == Some(0) {
            return fail("the path length of its chain is used up; start from a fresh proxy");
        }
        if self.not_after() <= now {
            return fail("it or its chain has expired; renew it");
        }
        Ok(())
    }

    fn not_after(&self) -> i64 {
        self.chain.iter().map(|c| c.not_after).min().unwrap_or_default()
    }
}

/// How many more proxies may be made in a row, each below the other, the first one below the leaf; `None` when the path
/// lengths of the chain (RFC 3820, section 3.8.1) set no limit. The leaf comes first, its issuers in any order.
pub fn remaining(chain: &[Cert]) -> Option<u32> {
    let mut lengths = Vec::new();
    let mut next = chain.first();
    // No way is longer than the chain, also when two proxies name each other as issuer.
    while let Some((cert, proxy)) = next.and_then(|c| Some((c, c.proxy.as_ref()?)))
        && lengths.len() < chain.len()
    {
        lengths.push(proxy.path_len);
        next = chain.iter().find(|c| c.subject == cert.issuer);
    }
    left(&lengths)
}

/// What the path lengths of a leaf and the proxies above it leave.
fn left(lengths: &[Option<u32>]) -> Option<u32> {
    let room = (0..).zip(lengths).filter_map(|(below, length)| Some(length.as_ref()?.saturating_sub(below)));
    room.min()
}

/// Whether the credential (certificate, key, chain in one PEM) can be delegated so many times in a row.
///
/// # Errors
/// [`Error::PathLength`] when it allows fewer, [`Error::Issuer`] like [`sign`].
pub fn check(issuer_credential_pem: impl AsRef<[u8]>, times: u32) -> Result<(), Error> {
    let issuer = Issuer::parse(issuer_credential_pem.as_ref())?;
    if let Some(allowed) = remaining(&issuer.chain).filter(|allowed| *allowed < times) {
        return Err(Error::PathLength { allowed, needed: times });
    }
    issuer.judge(now())
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
}

/// Signs an RFC 3820 proxy for the request and returns its chain as PEM: the new proxy first, then the issuer's certificates.
///
/// The proxy starts five minutes ago and ends after `lifetime` or with the first certificate of the issuer's chain.
/// It is limited when asked for or when the issuer is. The issuer's credential (certificate, key, chain in one PEM) is
/// not verified against any CA here: it is the caller's own.
///
/// # Errors
/// [`Error::Request`] when the request is not signed with its own key or the key is short, [`Error::Issuer`] when the
/// credential is expired, of another proxy family, or may not delegate further.
pub fn sign(
    request_csr_pem: impl AsRef<[u8]>,
    issuer_credential_pem: impl AsRef<[u8]>,
    lifetime: Duration,
    limited: bool,
) -> Result<String, Error> {
    let key = requested_key(request_csr_pem.as_ref())?;
    let issuer = Issuer::parse(issuer_credential_pem.as_ref())?;
    let now = now();
    issuer.judge(now)?;
    let proxy = build(&key, &issuer, now, lifetime, limited || issuer.is_limited())?;
    let chain = issuer.chain.iter().map(|c| pem::encode("CERTIFICATE", &c.der));
    Ok(std::iter::once(to_text(&proxy.to_pem()?)).chain(chain).collect())
}

fn requested_key(request: &[u8]) -> Result<PKey<Public>, Error> {
    let request = X509Req::from_pem(request).map_err(|_| Error::Request("it is not PKCS#10 in PEM"))?;
    let key = request.public_key().map_err(|_| Error::Request("its key is of an unknown kind"))?;
    if !request.verify(&key).unwrap_or(false) {
        return Err(Error::Request("it is not signed with its own key"));
    }
    let strong = match key.id() {
        Id::RSA => key.bits() >= KEY_BITS,
        Id::EC => key.bits() >= 256,
        _ => false,
    };
    if strong { Ok(key) } else { Err(Error::Request("its key is not RSA of 2048 bits or EC of 256")) }
}

fn build(
    key: &PKeyRef<Public>,
    issuer: &Issuer,
    now: i64,
    lifetime: Duration,
    limited: bool,
) -> Result<X509, Error> {
    let leaf = issuer.leaf();
    let mut serial = BigNum::new()?;
    serial.rand(63, MsbOption::ONE, false)?;
    let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let issuer_name = X509Name::from_der(leaf.subject.raw())?;
    let mut subject = X509Name::builder()?;
    for entry in issuer_name.entries() {
        subject.append_entry(entry)?;
    }
    subject.append_entry_by_text("CN", &serial.to_dec_str()?)?;
    let mut proxy = X509::builder()?;
    proxy.set_version(2)?;
    proxy.set_serial_number(&*Asn1Integer::from_bn(&serial)?)?;
    proxy.set_subject_name(&subject.build())?;
    proxy.set_issuer_name(&issuer_name)?;
    proxy.set_not_before(&*Asn1Time::from_unix(leaf.not_before.max(now - BACKDATE))?)?;
    proxy.set_not_after(&*Asn1Time::from_unix(issuer.not_after().min(now.saturating_add(lifetime)))?)?;
    proxy.set_pubkey(key)?;
    let mut usage = KeyUsage::new();
    usage.critical().digital_signature();
    // Only RSA keys can encipher others (RFC 5480, section 3).
    if key.id() == Id::RSA {
        usage.key_encipherment();
    }
    proxy.append_extension(usage.build()?)?;
    proxy.append_extension(proxy_cert_info(limited)?)?;
    let digest = match issuer.key.id() {
        Id::ED25519 | Id::ED448 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    proxy.sign(&issuer.key, digest)?;
    Ok(proxy.build())
}

/// The critical proxyCertInfo extension without a path length.
fn proxy_cert_info(limited: bool) -> Result<X509Extension, ErrorStack> {
    const INHERIT_ALL: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.5.5.7.21.1);
    const LIMITED: &[u8] = &asn1_rs::oid!(raw 1.3.6.1.4.1.3536.1.1.1.9);
    let language = if limited { LIMITED } else { INHERIT_ALL };
    let wrap = |tag: u8, body: &[u8]| [&[tag, u8::try_from(body.len()).unwrap_or(0)], body].concat();
    let info = wrap(0x30, &wrap(0x30, &wrap(0x06, language)));
    let oid = Asn1Object::from_str("1.3.6.1.5.5.7.1.14")?;
    X509Extension::new_from_der(&oid, true, &*Asn1OctetString::new_from_bytes(&info)?)
}

/// Puts a signed chain and the receiver's key together as a proxy file: proxy, key, rest of the chain.
///
/// # Errors
/// [`Error::Chain`] when the chain has no certificate or the key does not belong to the first one.
pub fn join(chain_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Result<String, Error> {
    let fail = |refusal: Refusal| Error::Chain(refusal.reason);
    let certs = pem::split_pem(chain_pem.as_ref()).and_then(|b| pem::certificates(&b)).map_err(fail)?;
    let keys = pem::split_pem(key_pem.as_ref()).map_err(fail)?;
    let leaf = Cert::parse(&certs[0]).map_err(fail)?;
    key::check(&keys, &leaf, true).map_err(fail)?;
    let key = keys.iter().filter(|b| b.is_private_key()).map(|b| pem::encode(&b.label, &b.der));
    let mut text = pem::encode("CERTIFICATE", &certs[0]);
    text.extend(key);
    text.extend(certs[1..].iter().map(|der| pem::encode("CERTIFICATE", der)));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::pki::build::{self, Certificate, Extension, Kind};
    use harness::pki::{INHERIT_ALL, PCI_RFC};

    #[test]
    fn the_shortest_path_length_counts_from_its_own_place() {
        assert_eq!(left(&[]), None, "an end-entity certificate has no limit");
        assert_eq!(left(&[None, None]), None);
        assert_eq!(left(&[Some(0)]), Some(0));
        assert_eq!(left(&[Some(2)]), Some(2));
        assert_eq!(left(&[None, Some(2)]), Some(1));
        assert_eq!(left(&[Some(7), None, Some(2)]), Some(0));
        assert_eq!(left(&[Some(1), Some(9)]), Some(1));
        assert_eq!(left(&[None, None, Some(1)]), Some(0), "a chain that is too long leaves nothing");
    }

    /// A self-signed certificate, and proxies below it, each signed with the same key; leaf first.
    fn credential(lengths: &[Option<u8>]) -> String {
        let key = build::key(Kind::Rsa(2048), 0).unwrap();
        let mut name = build::dn(&[("CN", "Alice")]);
        let mut made = vec![Certificate::person(&name, &name, &key)];
        for (number, length) in lengths.iter().rev().enumerate() {
            let proxy = Certificate::proxy(&name, &number.to_string(), &key);
            made.insert(0, proxy.with(Extension::proxy(PCI_RFC, INHERIT_ALL, *length)));
            name = made[0].subject.clone();
        }
        let ders: Vec<_> = made.iter().map(|c| c.der(&key).unwrap()).collect();
        build::credential(&ders, &key).unwrap()
    }

    fn chain(pem: &str) -> Vec<Cert> {
        let blocks = pem::split_pem(pem.as_bytes()).unwrap();
        pem::certificates(&blocks).unwrap().iter().map(|der| Cert::parse(der).unwrap()).collect()
    }

    #[test]
    fn path_lengths_are_read_from_the_certificates_in_any_order() {
        for (lengths, expected) in [
            (&[][..], None),
            (&[None], None),
            (&[Some(3)], Some(3)),
            (&[None, Some(1)], Some(0)),
            (&[Some(5), None, Some(4)], Some(2)),
        ] {
            let mut chain = chain(&credential(lengths));
            assert_eq!(remaining(&chain), expected, "{lengths:?}");
            chain[1..].reverse();
            assert_eq!(remaining(&chain), expected, "{lengths:?}, reversed");
        }
        assert_eq!(remaining(&[]), None);
    }

    #[test]
    fn a_credential_is_checked_for_the_whole_way() {
        check(credential(&[Some(2)]), 2).unwrap();
        check(credential(&[None]), 9).unwrap();
        check(credential(&[]), 9).unwrap();
        let short = check(credential(&[Some(1)]), 2).unwrap_err().to_string();
        assert!(short.contains("allows 1 more delegation, but 2 are needed"), "{short}");
        assert!(short.contains("grid-proxy-init -rfc") && short.contains("-path-length 2"), "{short}");
        let spent = check(credential(&[None, Some(1)]), 2).unwrap_err();
        assert!(matches!(spent, Error::PathLength { allowed: 0, needed: 2 }), "{spent}");
        assert!(check("nonsense", 1).is_err());
    }

    #[test]
    fn each_delegation_takes_one_of_them() {
        let user = credential(&[Some(1)]);
        let (key, csr) = new_request().unwrap();
        let signed = sign(&csr, &user, Duration::from_secs(60), false).unwrap();
        assert_eq!(remaining(&chain(&signed)), Some(0));
        let next =
            sign(new_request().unwrap().1, join(&signed, key).unwrap(), Duration::from_secs(60), false);
        assert!(next.unwrap_err().to_string().contains("path length"));
    }
}
