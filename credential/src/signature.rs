//! Public keys, and whether a signature fits one.
//!
//! RSA and Ed25519 are computed by `ring`, curves by the crates `p256`, `p384` and `p521`: none of them has to be set up
//! at run time, which costs OpenSSL 3 more than a whole chain costs to verify.

use crate::der::{self, Der, DerError};
use ecdsa::signature::hazmat::PrehashVerifier;
use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use ring::signature::{self as rsa, ED25519, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

pub(crate) const RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.1);
pub(crate) const EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.2.1);
pub(crate) const ED25519_KEY: &[u8] = &asn1_rs::oid!(raw 1.3.101.112);
const P256: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.3.1.7);
const P384: &[u8] = &asn1_rs::oid!(raw 1.3.132.0.34);
const P521: &[u8] = &asn1_rs::oid!(raw 1.3.132.0.35);

/// The key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: big-endian numbers without leading zeros.
    Rsa {
        /// Modulus.
        modulus: Vec<u8>,
        /// Public exponent.
        exponent: Vec<u8>,
    },
    /// NIST P-256 (secp256r1).
    P256(p256::PublicKey),
    /// NIST P-384 (secp384r1).
    P384(p384::PublicKey),
    /// NIST P-521 (secp521r1).
    P521(p521::PublicKey),
    /// Ed25519 (RFC 8410).
    Ed25519(Vec<u8>),
    /// Some other kind, under which no signature is good.
    Unknown,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo; `None` when it is malformed.
    pub fn parse(info: &[u8]) -> Option<Self> {
        let mut outer = der::only(info, der::SEQUENCE, "key").ok()?;
        let mut kind = outer.enter(der::SEQUENCE, "key").ok()?;
        let bits = der::whole_bits(outer.take(der::BIT_STRING, "key").ok()?, "key").ok()?;
        outer.end("key").ok()?;
        match kind.take(der::OID, "key").ok()?.body {
            RSA => rsa_key(bits),
            EC => curve_key(kind, bits),
            ED25519_KEY => (bits.len() == 32).then(|| Self::Ed25519(bits.to_vec())),
            _ => Some(Self::Unknown),
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
            Self::Unknown => None,
        }
    }
}

fn rsa_key(bits: &[u8]) -> Option<PublicKey> {
    let mut parts = der::only(bits, der::SEQUENCE, "RSA key").ok()?;
    let (modulus, exponent) = (positive(&mut parts)?, positive(&mut parts)?);
    parts.end("RSA key").ok()?;
    Some(PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
}

/// Only named curves: explicit parameters let the author of a certificate choose the curve.
fn curve_key(mut kind: Der<'_>, point: &[u8]) -> Option<PublicKey> {
    let curve = kind.any("curve").ok()?;
    match curve.body {
        P256 => p256::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P256),
        P384 => p384::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P384),
        P521 => p521::PublicKey::from_sec1_bytes(point).ok().map(PublicKey::P521),
        _ => Some(PublicKey::Unknown),
    }
}

/// An INTEGER above zero, without the leading zero that DER may need.
pub(crate) fn positive<'a>(parts: &mut Der<'a>) -> Option<&'a [u8]> {
    let body = parts.take(der::INTEGER, "RSA key").ok()?.body;
    let first = body.iter().position(|b| *b != 0)?;
    (body[0] < 0x80).then(|| &body[first..])
}

/// Reads an AlgorithmIdentifier: the contents octets of its OID, and the whole for comparison.
pub(crate) fn algorithm<'a>(der: &mut Der<'a>) -> Result<(&'a [u8], &'a [u8]), DerError> {
    let element = der.take(der::SEQUENCE, "signature algorithm")?;
    Ok((Der::new(element.body).take(der::OID, "signature algorithm")?.body, element.raw))
}

/// Whether `signature` under the algorithm (contents octets of its OID) fits `signed` and the key.
///
/// Good can be RSA with PKCS#1 v1.5 and ECDSA over SHA-2, and Ed25519. Everything else (MD5, SHA-1, PSS) is bad.
pub fn is_good(key: &PublicKey, algorithm: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    const SHA256_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.11);
    const SHA384_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.12);
    const SHA512_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.13);
    const SHA256_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.2);
    const SHA384_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.3);
    const SHA512_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.4);
    match algorithm {
        SHA256_RSA => fits_rsa(key, &rsa::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, signed, signature),
        SHA384_RSA => fits_rsa(key, &rsa::RSA_PKCS1_2048_8192_SHA384, signed, signature),
        SHA512_RSA => fits_rsa(key, &rsa::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, signed, signature),
        SHA256_EC => fits_curve(key, &SHA256, signed, signature),
        SHA384_EC => fits_curve(key, &SHA384, signed, signature),
        SHA512_EC => fits_curve(key, &SHA512, signed, signature),
        ED25519_KEY => {
            let PublicKey::Ed25519(bytes) = key else { return false };
            UnparsedPublicKey::new(&ED25519, bytes).verify(signed, signature).is_ok()
        }
        _ => false,
    }
}

/// Like [`is_good`], for certificates, whose rules judge SHA-1 apart: installed roots may still have it.
pub(crate) fn is_good_or_sha1(key: &PublicKey, algorithm: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    const SHA1_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.5);
    match algorithm {
        SHA1_RSA => fits_rsa(key, &rsa::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, signed, signature),
        _ => is_good(key, algorithm, signed, signature),
    }
}

fn fits_rsa(key: &PublicKey, parameters: &RsaParameters, signed: &[u8], signature: &[u8]) -> bool {
    let PublicKey::Rsa { modulus, exponent } = key else { return false };
    RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, signature).is_ok()
}

fn fits_curve(key: &PublicKey, hash: &'static Algorithm, signed: &[u8], signature: &[u8]) -> bool {
    let digest = digest::digest(hash, signed);
    let digest = digest.as_ref();
    let fits = match key {
        PublicKey::P256(key) => p256::ecdsa::DerSignature::try_from(signature)
            .map(|s| p256::ecdsa::VerifyingKey::from(key).verify_prehash(digest, &s).is_ok()),
        PublicKey::P384(key) => p384::ecdsa::DerSignature::try_from(signature)
            .map(|s| p384::ecdsa::VerifyingKey::from(key).verify_prehash(digest, &s).is_ok()),
        PublicKey::P521(key) => p521::ecdsa::DerSignature::try_from(signature)
            .and_then(p521::ecdsa::Signature::try_from)
            .and_then(|s| p521::ecdsa::VerifyingKey::from_affine(*key.as_affine()).map(|k| (k, s)))
            .map(|(k, s)| k.verify_prehash(&as_p521_number(digest), &s).is_ok()),
        _ => Ok(false),
    };
    fits.unwrap_or(false)
}

/// The digest as a number as wide as the curve's field: the crate refuses those of less than half its width.
fn as_p521_number(digest: &[u8]) -> [u8; 66] {
    let mut number = [0; 66];
    let start = number.len().saturating_sub(digest.len());
    number[start..].copy_from_slice(digest);
    number
}
