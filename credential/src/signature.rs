//! Signatures and keys without OpenSSL's decoders, which cost more to set up than a whole chain costs to verify.

use crate::der::{self, Der, DerError};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::rsa::Rsa;
use openssl::sign::Verifier;

const RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.1);

/// How a signature is checked.
enum Scheme {
    Digest(MessageDigest),
    Whole,
}

/// The scheme of a signature algorithm, for keys of that kind only.
///
/// RSA with PKCS#1 v1.5 and ECDSA over SHA-2, and Ed25519. Everything else (MD5, SHA-1, PSS) is `None`, which callers treat as
/// a bad signature.
fn strong(algorithm: &[u8], key: Id) -> Option<Scheme> {
    const SHA256_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.11);
    const SHA384_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.12);
    const SHA512_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.13);
    const SHA256_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.2);
    const SHA384_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.3);
    const SHA512_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.4);
    const ED25519: &[u8] = &asn1_rs::oid!(raw 1.3.101.112);
    match (algorithm, key) {
        (SHA256_RSA, Id::RSA) | (SHA256_EC, Id::EC) => Some(Scheme::Digest(MessageDigest::sha256())),
        (SHA384_RSA, Id::RSA) | (SHA384_EC, Id::EC) => Some(Scheme::Digest(MessageDigest::sha384())),
        (SHA512_RSA, Id::RSA) | (SHA512_EC, Id::EC) => Some(Scheme::Digest(MessageDigest::sha512())),
        (ED25519, Id::ED25519) => Some(Scheme::Whole),
        _ => None,
    }
}

/// Whether `signature` under the algorithm (contents octets of its OID) fits `signed` and the key.
pub fn is_good(key: &PKeyRef<Public>, algorithm: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    strong(algorithm, key.id()).is_some_and(|scheme| fits(key, scheme, signed, signature))
}

/// Like [`is_good`], for certificates, whose rules judge SHA-1 apart: installed roots may still have it.
pub(crate) fn is_good_or_sha1(
    key: &PKeyRef<Public>,
    algorithm: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> bool {
    const SHA1_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.5);
    if algorithm == SHA1_RSA && key.id() == Id::RSA {
        return fits(key, Scheme::Digest(MessageDigest::sha1()), signed, signature);
    }
    is_good(key, algorithm, signed, signature)
}

fn fits(key: &PKeyRef<Public>, scheme: Scheme, signed: &[u8], signature: &[u8]) -> bool {
    let verifier = match scheme {
        Scheme::Digest(digest) => Verifier::new(digest, key),
        Scheme::Whole => Verifier::new_without_digest(key),
    };
    verifier.and_then(|mut v| v.verify_oneshot(signature, signed)).unwrap_or(false)
}

/// Reads an AlgorithmIdentifier: the contents octets of its OID, and the whole for comparison.
pub(crate) fn algorithm<'a>(der: &mut Der<'a>) -> Result<(&'a [u8], &'a [u8]), DerError> {
    let element = der.take(der::SEQUENCE, "signature algorithm")?;
    Ok((Der::new(element.body).take(der::OID, "signature algorithm")?.body, element.raw))
}

/// The key of a SubjectPublicKeyInfo; `None` when it is malformed or of an unknown kind.
pub fn public_key(info: &[u8]) -> Option<PKey<Public>> {
    let mut outer = der::only(info, der::SEQUENCE, "key").ok()?;
    let (kind, _) = algorithm(&mut outer).ok()?;
    if kind != RSA {
        return PKey::public_key_from_der(info).ok();
    }
    let bits = der::whole_bits(outer.take(der::BIT_STRING, "key").ok()?, "key").ok()?;
    outer.end("key").ok()?;
    let mut parts = der::only(bits, der::SEQUENCE, "RSA key").ok()?;
    let modulus = positive(&mut parts)?;
    let exponent = positive(&mut parts)?;
    parts.end("RSA key").ok()?;
    PKey::from_rsa(Rsa::from_public_components(modulus, exponent).ok()?).ok()
}

fn positive(parts: &mut Der<'_>) -> Option<BigNum> {
    let body = parts.take(der::INTEGER, "RSA key").ok()?.body;
    let is_positive = body.first().is_some_and(|b| *b < 0x80) && body.iter().any(|b| *b != 0);
    is_positive.then(|| BigNum::from_slice(body).ok()).flatten()
}

/// A private key in the body of an unencrypted PEM block with that label.
pub(crate) fn private_key(label: &str, der: &[u8]) -> Option<PKey<Private>> {
    let rsa = match label {
        "RSA PRIVATE KEY" => Some(der),
        "PRIVATE KEY" => pkcs8_rsa(der),
        _ => None,
    };
    match rsa {
        Some(bytes) => PKey::from_rsa(Rsa::private_key_from_der(bytes).ok()?).ok(),
        None => PKey::private_key_from_der(der).ok(),
    }
}

/// The RSAPrivateKey inside a PKCS#8 PrivateKeyInfo.
fn pkcs8_rsa(der: &[u8]) -> Option<&[u8]> {
    let mut info = der::only(der, der::SEQUENCE, "key").ok()?;
    info.take(der::INTEGER, "version").ok()?;
    let (kind, _) = algorithm(&mut info).ok()?;
    let key = info.take(der::OCTET_STRING, "key").ok()?.body;
    (kind == RSA).then_some(key)
}
