//! The private key of a credential: present, alone, in the clear, and the leaf's.

use crate::cert::Cert;
use crate::pem::Block;
use crate::signature;
use crate::{Refusal, RefusalKind, refuse};
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::sign::{Signer, Verifier};

/// Judges the private key among `blocks`.
///
/// The key must sign and the leaf's public key must accept: comparing the public halves would also pass a file that
/// somebody wrote from the certificate alone.
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

fn proves(key: &PKey<Private>, leaf: &Cert) -> bool {
    if key.id() != leaf.key.id() || !key.public_eq(&leaf.key) {
        return false;
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
