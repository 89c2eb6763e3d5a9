//! The private key of a credential: present, alone, in the clear, and the leaf's.

use crate::cert::Cert;
use crate::pem::Block;
use crate::signature;
use crate::{Refusal, RefusalKind, refuse};
use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::sign::{Signer, Verifier};

/// Judges the private key among `blocks`.
///
/// Comparing the public halves would also pass a file that somebody wrote from the certificate alone. So the key must show
/// what the certificate does not tell: the factors of an RSA modulus, else a signature that the leaf accepts.
pub(crate) fn check(blocks: &[Block], leaf: &Cert, required: bool) -> Result<(), Refusal> {
    let keys: Vec<&Block> = blocks.iter().filter(|b| b.is_private_key()).collect();
    match keys.as_slice() {
        [] if !required => Ok(()),
        [] => {
            let remedy = "point to a whole proxy file (certificate, key, chain)";
            Err(refuse(RefusalKind::Key, format!("no private key with {}; {remedy}", leaf.title())))
        }
        [one] => {
            let key = read(one)?;
            if proves(&key, leaf) {
                return Ok(());
            }
            let reason = format!("the private key does not belong to {}; make a new proxy", leaf.title());
            Err(refuse(RefusalKind::Key, reason))
        }
        _ => {
            Err(refuse(RefusalKind::Key, "the credential holds more than one private key; make a new proxy"))
        }
    }
}

/// Reads an unencrypted private key block.
pub(crate) fn read(block: &Block) -> Result<PKey<Private>, Refusal> {
    if block.is_encrypted() {
        let reason = "the private key is encrypted; make a proxy, whose key has no passphrase";
        return Err(refuse(RefusalKind::Key, reason));
    }
    let reason = "the private key cannot be read; make a new proxy";
    signature::private_key(&block.label, &block.der).ok_or_else(|| refuse(RefusalKind::Key, reason))
}

/// Whether an RSA key holds two real factors of its modulus, which nobody can compute: as good as a signature, and a
/// hundred times as fast.
fn knows_factors(key: &PKey<Private>) -> bool {
    let Ok(rsa) = key.rsa() else { return false };
    let (Some(p), Some(q)) = (rsa.p(), rsa.q()) else { return false };
    let product = BigNumContext::new().and_then(|mut context| {
        let mut product = BigNum::new()?;
        product.checked_mul(p, q, &mut context).map(|()| product)
    });
    // One and the modulus itself, with either sign, are factors that everybody knows.
    let real = |factor: &BigNumRef| !factor.is_negative() && factor.num_bits() > 1;
    real(p) && real(q) && product.is_ok_and(|product| product.ucmp(rsa.n()) == std::cmp::Ordering::Equal)
}

fn proves(key: &PKey<Private>, leaf: &Cert) -> bool {
    if key.id() != leaf.key.id() || !key.public_eq(&leaf.key) {
        return false;
    }
    if knows_factors(key) {
        return true;
    }
    let digest = || match key.id() {
        Id::ED25519 | Id::ED448 => None,
        _ => Some(MessageDigest::sha256()),
    };
    let text = b"proof of possession";
    let signer = match digest() {
        Some(d) => Signer::new(d, key),
        None => Signer::new_without_digest(key),
    };
    let Ok(signature) = signer.and_then(|mut s| s.sign_oneshot_to_vec(text)) else {
        return false;
    };
    let verifier = match digest() {
        Some(d) => Verifier::new(d, &leaf.key),
        None => Verifier::new_without_digest(&leaf.key),
    };
    verifier.and_then(|mut v| v.verify_oneshot(&signature, text)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::rsa::{Rsa, RsaPrivateKeyBuilder};

    fn with_factors(rsa: &Rsa<Private>, p: &BigNumRef, q: &BigNumRef) -> PKey<Private> {
        let own = |n: &BigNumRef| n.to_owned().unwrap();
        let builder = RsaPrivateKeyBuilder::new(own(rsa.n()), own(rsa.e()), own(rsa.d())).unwrap();
        PKey::from_rsa(builder.set_factors(own(p), own(q)).unwrap().build()).unwrap()
    }

    #[test]
    fn only_real_factors_prove_possession() {
        let rsa = Rsa::generate(2048).unwrap();
        let other = Rsa::generate(2048).unwrap();
        let (p, q) = (rsa.p().unwrap(), rsa.q().unwrap());
        let one = BigNum::from_u32(1).unwrap();
        assert!(knows_factors(&with_factors(&rsa, p, q)) && knows_factors(&with_factors(&rsa, q, p)));
        assert!(!knows_factors(&with_factors(&rsa, rsa.n(), &one)), "everybody knows these");
        assert!(!knows_factors(&with_factors(&rsa, &one, rsa.n())), "everybody knows these");
        assert!(!knows_factors(&with_factors(&rsa, p, other.q().unwrap())));
    }
}
