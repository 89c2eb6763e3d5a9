//! Public keys, and whether a signature fits one.
//!
//! RSA and Ed25519 are computed by `ring`, curves by the crates `p256`, `p384` and `p521`: none of them has to be set up
//! at run time, which costs OpenSSL 3 more than a whole chain costs to verify.

use crate::der::{self, Der, DerError};
use ecdsa::signature::hazmat::PrehashVerifier;
use ring::digest;
use ring::signature::{self as rsa, ED25519, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

pub(crate) const RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.1);
pub(crate) const PSS: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.10);
pub(crate) const EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.2.1);
pub(crate) const ED25519_KEY: &[u8] = &asn1_rs::oid!(raw 1.3.101.112);
const P256: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.3.1.7);
const P384: &[u8] = &asn1_rs::oid!(raw 1.3.132.0.34);
const P521: &[u8] = &asn1_rs::oid!(raw 1.3.132.0.35);

/// What becomes of checking a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It fits the key.
    Good,
    /// It does not.
    Forged,
    /// Nobody here can tell: the key or the algorithm is of a kind that is not supported. The text names it.
    Unknown(String),
}

/// The signature algorithms that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// SHA-2 with RSA (PKCS#1 or PSS) or ECDSA; Ed25519.
    Strong,
    /// SHA-1.
    Sha1,
    /// MD2, MD4, MD5 and everything unknown.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn digest(self, bytes: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes)
    }

    fn name(self) -> &'static str {
        match self {
            Hash::Sha1 => "SHA-1",
            Hash::Sha256 => "SHA-256",
            Hash::Sha384 => "SHA-384",
            Hash::Sha512 => "SHA-512",
        }
    }

    /// By the contents octets of a hash's own OID.
    fn of(oid: &[u8]) -> Option<Self> {
        const SHA1: &[u8] = &asn1_rs::oid!(raw 1.3.14.3.2.26);
        const SHA256: &[u8] = &asn1_rs::oid!(raw 2.16.840.1.101.3.4.2.1);
        const SHA384: &[u8] = &asn1_rs::oid!(raw 2.16.840.1.101.3.4.2.2);
        const SHA512: &[u8] = &asn1_rs::oid!(raw 2.16.840.1.101.3.4.2.3);
        match oid {
            SHA1 => Some(Hash::Sha1),
            SHA256 => Some(Hash::Sha256),
            SHA384 => Some(Hash::Sha384),
            SHA512 => Some(Hash::Sha512),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scheme {
    Rsa(Hash),
    /// The mask is made with the same hash, and the salt is as long as the hash.
    Pss(Hash),
    Ecdsa(Hash),
    Ed25519,
    Other(String),
}

/// How something is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithm(Scheme);

impl Algorithm {
    fn of(oid: &[u8], parameters: Der<'_>) -> Self {
        const RSA_SHA1: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.5);
        const RSA_SHA1_OIW: &[u8] = &asn1_rs::oid!(raw 1.3.14.3.2.29);
        const RSA_SHA256: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.11);
        const RSA_SHA384: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.12);
        const RSA_SHA512: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.13);
        const EC_SHA1: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.1);
        const EC_SHA256: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.2);
        const EC_SHA384: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.3);
        const EC_SHA512: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.4);
        Self(match oid {
            RSA_SHA1 | RSA_SHA1_OIW => Scheme::Rsa(Hash::Sha1),
            RSA_SHA256 => Scheme::Rsa(Hash::Sha256),
            RSA_SHA384 => Scheme::Rsa(Hash::Sha384),
            RSA_SHA512 => Scheme::Rsa(Hash::Sha512),
            EC_SHA1 => Scheme::Ecdsa(Hash::Sha1),
            EC_SHA256 => Scheme::Ecdsa(Hash::Sha256),
            EC_SHA384 => Scheme::Ecdsa(Hash::Sha384),
            EC_SHA512 => Scheme::Ecdsa(Hash::Sha512),
            ED25519_KEY => Scheme::Ed25519,
            PSS => match pss_hash(parameters) {
                Ok(Some(hash)) => Scheme::Pss(hash),
                _ => Scheme::Other("RSA-PSS with unusual parameters".to_owned()),
            },
            other => Scheme::Other(unusual(other)),
        })
    }

    /// The name, for messages.
    pub fn name(&self) -> String {
        match &self.0 {
            Scheme::Rsa(hash) => format!("RSA with {}", hash.name()),
            Scheme::Pss(hash) => format!("RSA-PSS with {}", hash.name()),
            Scheme::Ecdsa(hash) => format!("ECDSA with {}", hash.name()),
            Scheme::Ed25519 => "Ed25519".to_owned(),
            Scheme::Other(name) => name.clone(),
        }
    }

    /// Whether it can still be believed.
    pub fn strength(&self) -> Strength {
        match &self.0 {
            Scheme::Rsa(Hash::Sha1) | Scheme::Pss(Hash::Sha1) | Scheme::Ecdsa(Hash::Sha1) => Strength::Sha1,
            Scheme::Other(_) => Strength::Broken,
            _ => Strength::Strong,
        }
    }
}

/// Names of algorithms that are refused, else their number.
fn unusual(oid: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (&asn1_rs::oid!(raw 1.2.840.113549.1.1.2), "RSA with MD2"),
        (&asn1_rs::oid!(raw 1.2.840.113549.1.1.3), "RSA with MD4"),
        (&asn1_rs::oid!(raw 1.2.840.113549.1.1.4), "RSA with MD5"),
        (&asn1_rs::oid!(raw 1.2.840.113549.1.1.14), "RSA with SHA-224"),
        (&asn1_rs::oid!(raw 1.2.840.10045.4.3.1), "ECDSA with SHA-224"),
        (&asn1_rs::oid!(raw 1.2.840.10040.4.3), "DSA with SHA-1"),
        (&asn1_rs::oid!(raw 2.16.840.1.101.3.4.3.2), "DSA with SHA-256"),
        (&asn1_rs::oid!(raw 1.3.101.113), "Ed448"),
        (&asn1_rs::oid!(raw 1.2.840.10040.4.1), "DSA"),
    ];
    let known = KNOWN.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("algorithm {}", asn1_rs::Oid::new(oid.into()).to_id_string()))
}

/// The hash of RSASSA-PSS-params (RFC 4055 section 3.1); `None` for parameters that nobody uses.
fn pss_hash(mut parameters: Der<'_>) -> Result<Option<Hash>, DerError> {
    const WHAT: &str = "RSA-PSS parameters";
    const MGF1: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.8);
    let hash_of = |identifier: &mut Der<'_>| -> Result<Option<Hash>, DerError> {
        Ok(Hash::of(identifier.enter(der::SEQUENCE, WHAT)?.take(der::OID, WHAT)?.body))
    };
    let mut list = parameters.enter(der::SEQUENCE, WHAT)?;
    let hash = match list.optional(0xa0, WHAT)? {
        Some(element) => hash_of(&mut Der::new(element.body))?,
        None => Some(Hash::Sha1),
    };
    let mask = match list.optional(0xa1, WHAT)? {
        Some(element) => {
            let mut function = Der::new(element.body).enter(der::SEQUENCE, WHAT)?;
            let is_usual = function.take(der::OID, WHAT)?.body == MGF1;
            hash_of(&mut function)?.filter(|_| is_usual)
        }
        None => Some(Hash::Sha1),
    };
    let salt = match list.optional(0xa2, WHAT)? {
        Some(element) => der::small_number(Der::new(element.body).take(der::INTEGER, WHAT)?, WHAT)?,
        None => 20,
    };
    let trailer = list.optional(0xa3, WHAT)?.is_none_or(|element| element.body == [2, 1, 1]);
    list.end(WHAT)?;
    let length = |hash: Hash| hash.digest(b"").as_ref().len();
    let usual = |hash: &Hash| mask == Some(*hash) && u32::try_from(length(*hash)) == Ok(salt) && trailer;
    Ok(hash.filter(usual))
}

/// The key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: big-endian numbers without leading zeros.
    Rsa {
        /// Modulus.
        modulus: Vec<u8>,
        /// Public exponent.
        exponent: Vec<u8>,
        /// The key itself says that it signs with PSS only.
        only_pss: bool,
    },
    /// NIST P-256 (secp256r1).
    P256(p256::PublicKey),
    /// NIST P-384 (secp384r1).
    P384(p384::PublicKey),
    /// NIST P-521 (secp521r1).
    P521(p521::PublicKey),
    /// Ed25519 (RFC 8410).
    Ed25519(Vec<u8>),
    /// Some other kind, under which no signature is good; the text names it.
    Unknown(String),
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo; `None` when it is malformed.
    pub fn parse(info: &[u8]) -> Option<Self> {
        let mut outer = der::only(info, der::SEQUENCE, "key").ok()?;
        let mut kind = outer.enter(der::SEQUENCE, "key").ok()?;
        let bits = der::whole_bits(outer.take(der::BIT_STRING, "key").ok()?, "key").ok()?;
        outer.end("key").ok()?;
        match kind.take(der::OID, "key").ok()?.body {
            RSA => rsa_key(bits, false),
            PSS => rsa_key(bits, true),
            EC => curve_key(kind, bits),
            ED25519_KEY => (bits.len() == 32).then(|| Self::Ed25519(bits.to_vec())),
            other => Some(Self::Unknown(unusual(other))),
        }
    }

    /// Bits of an RSA modulus; those of an RSA key as strong for the others; `None` for unknown kinds.
    pub fn strength(&self) -> Option<u32> {
        match self {
            Self::Rsa { modulus, .. } => {
                let zeros = modulus.first().map_or(0, |first| first.leading_zeros());
                u32::try_from(modulus.len() * 8).ok().map(|bits| bits - zeros)
            }
            Self::P256(_) | Self::P384(_) | Self::P521(_) | Self::Ed25519(_) => Some(3072),
            Self::Unknown(_) => None,
        }
    }
}

fn rsa_key(bits: &[u8], only_pss: bool) -> Option<PublicKey> {
    let mut parts = der::only(bits, der::SEQUENCE, "RSA key").ok()?;
    let (modulus, exponent) = (positive(&mut parts)?, positive(&mut parts)?);
    parts.end("RSA key").ok()?;
    Some(PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec(), only_pss })
}

/// Only named curves: explicit parameters let the author of a certificate choose the curve.
fn curve_key(mut kind: Der<'_>, point: &[u8]) -> Option<PublicKey> {
    let curve = kind.any("curve").ok()?;
    match curve.body {
        P256 => p256::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P256),
        P384 => p384::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P384),
        P521 => p521::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P521),
        named if curve.tag == der::OID => {
            let number = asn1_rs::Oid::new(named.into()).to_id_string();
            Some(PublicKey::Unknown(format!("elliptic curve {number}")))
        }
        _ => Some(PublicKey::Unknown("elliptic curve with parameters of its own".to_owned())),
    }
}

/// An INTEGER above zero, without the leading zero that DER may need.
pub(crate) fn positive<'a>(parts: &mut Der<'a>) -> Option<&'a [u8]> {
    let body = parts.take(der::INTEGER, "RSA key").ok()?.body;
    let first = body.iter().position(|b| *b != 0)?;
    (body[0] < 0x80).then(|| &body[first..])
}

/// The contents octets of the OID of an AlgorithmIdentifier.
pub(crate) fn kind<'a>(der: &mut Der<'a>) -> Result<&'a [u8], DerError> {
    Ok(der.enter(der::SEQUENCE, "algorithm")?.take(der::OID, "algorithm")?.body)
}

/// Reads the AlgorithmIdentifier of a signature, and the whole of it for comparison.
pub(crate) fn algorithm<'a>(der: &mut Der<'a>) -> Result<(Algorithm, &'a [u8]), DerError> {
    let element = der.take(der::SEQUENCE, "signature algorithm")?;
    let mut inner = Der::new(element.body);
    let oid = inner.take(der::OID, "signature algorithm")?.body;
    Ok((Algorithm::of(oid, inner), element.raw))
}

/// Whether `signature` fits `signed` and the key. Whether the algorithm is strong enough is another question.
pub fn check(key: &PublicKey, algorithm: &Algorithm, signed: &[u8], signature: &[u8]) -> Outcome {
    if let PublicKey::Unknown(what) = key {
        return Outcome::Unknown(what.clone());
    }
    let good = match &algorithm.0 {
        Scheme::Rsa(hash) => fits_rsa(key, false, pkcs1(*hash), signed, signature),
        Scheme::Pss(hash) => match pss(*hash) {
            Some(parameters) => fits_rsa(key, true, parameters, signed, signature),
            None => return Outcome::Unknown(algorithm.name()),
        },
        Scheme::Ecdsa(hash) => fits_curve(key, *hash, signed, signature),
        Scheme::Ed25519 => match key {
            PublicKey::Ed25519(bytes) => {
                UnparsedPublicKey::new(&ED25519, bytes).verify(signed, signature).is_ok()
            }
            _ => false,
        },
        Scheme::Other(name) => return Outcome::Unknown(name.clone()),
    };
    if good { Outcome::Good } else { Outcome::Forged }
}

fn pkcs1(hash: Hash) -> &'static RsaParameters {
    match hash {
        Hash::Sha1 => &rsa::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &rsa::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        Hash::Sha384 => &rsa::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &rsa::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
    }
}

fn pss(hash: Hash) -> Option<&'static RsaParameters> {
    match hash {
        Hash::Sha1 => None,
        Hash::Sha256 => Some(&rsa::RSA_PSS_2048_8192_SHA256),
        Hash::Sha384 => Some(&rsa::RSA_PSS_2048_8192_SHA384),
        Hash::Sha512 => Some(&rsa::RSA_PSS_2048_8192_SHA512),
    }
}

fn fits_rsa(key: &PublicKey, pss: bool, parameters: &RsaParameters, signed: &[u8], signature: &[u8]) -> bool {
    let PublicKey::Rsa { modulus, exponent, only_pss } = key else { return false };
    let allowed = pss || !only_pss;
    allowed
        && RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, signature).is_ok()
}

fn fits_curve(key: &PublicKey, hash: Hash, signed: &[u8], signature: &[u8]) -> bool {
    let digest = hash.digest(signed);
    let digest = digest.as_ref();
    let fits = match key {
        PublicKey::P256(key) => p256::ecdsa::DerSignature::try_from(signature)
            .map(|s| p256::ecdsa::VerifyingKey::from(key).verify_prehash(digest, &s).is_ok()),
        PublicKey::P384(key) => p384::ecdsa::DerSignature::try_from(signature)
            .map(|s| p384::ecdsa::VerifyingKey::from(key).verify_prehash(&wide::<48>(digest), &s).is_ok()),
        PublicKey::P521(key) => p521::ecdsa::DerSignature::try_from(signature)
            .and_then(p521::ecdsa::Signature::try_from)
            .and_then(|s| p521::ecdsa::VerifyingKey::from_affine(*key.as_affine()).map(|k| (k, s)))
            .map(|(k, s)| k.verify_prehash(&wide::<66>(digest), &s).is_ok()),
        _ => Ok(false),
    };
    fits.unwrap_or(false)
}

/// The digest as a number as wide as the curve's field: the crates refuse those of less than half its width. A longer
/// digest stays as it is, and is cut by them.
fn wide<const WIDTH: usize>(digest: &[u8]) -> Vec<u8> {
    let zeros = WIDTH.saturating_sub(digest.len());
    [&vec![0; zeros], digest].concat()
}
