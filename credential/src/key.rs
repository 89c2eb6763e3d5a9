//! The private key of a credential: present, alone, in the clear, and the leaf's.

use crate::cert::Cert;
use crate::chain::unsupported_key;
use crate::der::{self, Der};
use crate::pem::Block;
use crate::refuse;
use crate::signature::{self, PublicKey};
use identity::{Refusal, RefusalKind};
use num_bigint::BigUint;
use ring::signature::Ed25519KeyPair;

/// Judges the private key among `blocks` and returns its block.
///
/// Comparing the public halves would also pass a file that somebody wrote from the certificate alone. So the key must show
/// what the certificate does not tell: the factors of an RSA modulus, else the secret number that the public key follows from.
///
/// # Errors
/// `Key` when there is no key and one is `required`, when there are several, when it is encrypted, cannot be read, or
/// belongs to another certificate.
pub fn check<'a>(blocks: &'a [Block], leaf: &Cert, required: bool) -> Result<Option<&'a Block>, Refusal> {
    let keys: Vec<&Block> = blocks.iter().filter(|b| b.is_private_key()).collect();
    match keys.as_slice() {
        [] if !required => Ok(None),
        [] => {
            let remedy = "point to a whole proxy file (certificate, key, chain)";
            Err(refuse(RefusalKind::Key, format!("no private key with {}; {remedy}", leaf.title())))
        }
        [one] if one.is_encrypted() => {
            let reason = "the private key is encrypted; make a proxy, whose key has no passphrase";
            Err(refuse(RefusalKind::Key, reason))
        }
        [_] if matches!(leaf.key, PublicKey::Unknown(_)) => Err(unsupported_key(leaf)),
        [one] => {
            let unreadable = || refuse(RefusalKind::Key, "the private key cannot be read; make a new proxy");
            let key = PrivateKey::parse(&one.label, &one.der).ok_or_else(unreadable)?;
            if key.proves(&leaf.key) {
                return Ok(Some(one));
            }
            let reason = format!("the private key does not belong to {}; make a new proxy", leaf.title());
            Err(refuse(RefusalKind::Key, reason))
        }
        _ => {
            Err(refuse(RefusalKind::Key, "the credential holds more than one private key; make a new proxy"))
        }
    }
}

/// What of a private key is needed to tell whose it is.
enum PrivateKey<'a> {
    Rsa { modulus: &'a [u8], factors: [&'a [u8]; 2] },
    Curve { secret: &'a [u8] },
    Ed25519 { seed: &'a [u8] },
}

impl<'a> PrivateKey<'a> {
    /// Reads the body of an unencrypted PEM block with that label: PKCS#1, SEC 1 or PKCS#8.
    fn parse(label: &str, bytes: &'a [u8]) -> Option<Self> {
        match label {
            "RSA PRIVATE KEY" => Self::pkcs1(bytes),
            "EC PRIVATE KEY" => Self::sec1(bytes),
            "PRIVATE KEY" => Self::pkcs8(bytes),
            _ => None,
        }
    }

    /// RSAPrivateKey, RFC 8017 section A.1.2.
    fn pkcs1(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = der::only(bytes, der::SEQUENCE, "key").ok()?;
        parts.take(der::INTEGER, "version").ok()?;
        let modulus = signature::positive(&mut parts)?;
        let _exponents = (signature::positive(&mut parts)?, signature::positive(&mut parts)?);
        let factors = [signature::positive(&mut parts)?, signature::positive(&mut parts)?];
        Some(Self::Rsa { modulus, factors })
    }

    /// ECPrivateKey, RFC 5915. The curve is the certificate's.
    fn sec1(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = der::only(bytes, der::SEQUENCE, "key").ok()?;
        parts.take(der::INTEGER, "version").ok()?;
        Some(Self::Curve { secret: parts.take(der::OCTET_STRING, "secret").ok()?.body })
    }

    /// PrivateKeyInfo, RFC 5208, with a key of one of the kinds above or of RFC 8410.
    fn pkcs8(bytes: &'a [u8]) -> Option<Self> {
        let mut info = der::only(bytes, der::SEQUENCE, "key").ok()?;
        info.take(der::INTEGER, "version").ok()?;
        let kind = signature::kind(&mut info).ok()?;
        let key = info.take(der::OCTET_STRING, "key").ok()?.body;
        match kind {
            signature::RSA | signature::PSS => Self::pkcs1(key),
            signature::EC => Self::sec1(key),
            signature::ED25519_KEY => {
                Some(Self::Ed25519 { seed: Der::new(key).take(der::OCTET_STRING, "seed").ok()?.body })
            }
            _ => None,
        }
    }

    fn proves(&self, public: &PublicKey) -> bool {
        match (self, public) {
            (Self::Rsa { modulus, factors }, PublicKey::Rsa { modulus: expected, .. }) => {
                modulus == expected && are_factors(factors, modulus)
            }
            (Self::Curve { secret }, PublicKey::P256(point)) => {
                p256::SecretKey::from_slice(secret).is_ok_and(|key| key.public_key() == *point)
            }
            (Self::Curve { secret }, PublicKey::P384(point)) => {
                p384::SecretKey::from_slice(secret).is_ok_and(|key| key.public_key() == *point)
            }
            (Self::Curve { secret }, PublicKey::P521(point)) => {
                p521::SecretKey::from_slice(secret).is_ok_and(|key| key.public_key() == *point)
            }
            (Self::Ed25519 { seed }, PublicKey::Ed25519(point)) => {
                Ed25519KeyPair::from_seed_and_public_key(seed, point).is_ok()
            }
            _ => false,
        }
    }
}

/// Whether the numbers are two real factors of the modulus, which nobody can compute: as good as a signature, and a
/// hundred times as fast. One and the modulus itself are factors that everybody knows.
fn are_factors(factors: &[&[u8]; 2], modulus: &[u8]) -> bool {
    let [p, q] = factors.map(BigUint::from_bytes_be);
    let one = BigUint::from(1u8);
    p > one && q > one && p * q == BigUint::from_bytes_be(modulus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_factors_prove_possession() {
        let rsa = openssl::rsa::Rsa::generate(2048).unwrap();
        let other = openssl::rsa::Rsa::generate(2048).unwrap();
        let bytes = |n: &openssl::bn::BigNumRef| n.to_vec();
        let (n, p, q) = (bytes(rsa.n()), bytes(rsa.p().unwrap()), bytes(rsa.q().unwrap()));
        let foreign = bytes(other.q().unwrap());
        assert!(are_factors(&[&p, &q], &n) && are_factors(&[&q, &p], &n));
        assert!(!are_factors(&[&n, &[1]], &n), "everybody knows these");
        assert!(!are_factors(&[&[1], &n], &n), "everybody knows these");
        assert!(!are_factors(&[&p, &foreign], &n));
        assert!(!are_factors(&[&[], &n], &n) && !are_factors(&[&[0], &[0]], &n));
    }
}
