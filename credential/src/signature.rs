//! Signatures over bytes that are no certificate: revocation lists and attribute certificates.

use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::sign::Verifier;

/// The digest that goes with a signature algorithm, for keys of that kind only.
///
/// RSA with PKCS#1 v1.5 and ECDSA over SHA-2; everything else (MD5, SHA-1, PSS) is `None`, which callers treat as a bad signature.
fn digest_for(algorithm: &[u8], key: Id) -> Option<MessageDigest> {
    const SHA256_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.11);
    const SHA384_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.12);
    const SHA512_RSA: &[u8] = &asn1_rs::oid!(raw 1.2.840.113549.1.1.13);
    const SHA256_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.2);
    const SHA384_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.3);
    const SHA512_EC: &[u8] = &asn1_rs::oid!(raw 1.2.840.10045.4.3.4);
    match (algorithm, key) {
        (SHA256_RSA, Id::RSA) | (SHA256_EC, Id::EC) => Some(MessageDigest::sha256()),
        (SHA384_RSA, Id::RSA) | (SHA384_EC, Id::EC) => Some(MessageDigest::sha384()),
        (SHA512_RSA, Id::RSA) | (SHA512_EC, Id::EC) => Some(MessageDigest::sha512()),
        _ => None,
    }
}

/// Whether `signature` under the algorithm (contents octets of its OID) fits `signed` and the key.
pub fn is_good(key: &PKeyRef<Public>, algorithm: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let Some(digest) = digest_for(algorithm, key.id()) else {
        return false;
    };
    Verifier::new(digest, key)
        .and_then(|mut v| v.verify_oneshot(signature, signed))
        .unwrap_or(false)
}
