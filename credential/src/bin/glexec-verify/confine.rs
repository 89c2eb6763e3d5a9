//! What the verifier gives up: before it reads hostile bytes new privileges, core dumps, being traced, and every system
//! call but those of reading files and managing its own memory; before it parses them every file but those it judges by.

use cell::{Calls, Landlock, Resource, View};
use helper::VerifyRequest;
use std::path::PathBuf;

/// Seconds of processor time; a verdict takes milliseconds.
const MAX_CPU: u64 = 10;
/// Bytes of address space: a large revocation list fits several times.
const MAX_MEMORY: u64 = 1 << 30;
const MAX_FILES: u64 = 64;

/// Where links in CA and VOMS directories may lead. To look for links would take longer than the verdict.
const LINKED: [&str; 3] = ["/etc/grid-security", "/usr/share", "/cvmfs"];

/// Takes effect for the rest of the process's life.
///
/// # Errors
/// A text for people; nothing may be read after an error.
pub fn before_reading() -> Result<(), String> {
    cell::give_up(&[
        (Resource::RLIMIT_CPU, MAX_CPU),
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_NOFILE, MAX_FILES),
    ])?;
    cell::filter(Calls::Reading)
}

/// Leaves the directories that this request names, as far as the kernel can.
///
/// # Errors
/// A text for people; nothing may be parsed after an error.
pub fn to_this_request(request: &VerifyRequest) -> Result<Landlock, String> {
    let linked = LINKED.iter().map(PathBuf::from);
    let readable: Vec<_> = linked.chain([request.ca_dir.clone(), request.voms_dir.clone()]).collect();
    cell::narrow(View { readable: &readable, ports: &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the unit tests of the cell do not know: that the cell is large enough for a verdict's mathematics.
    #[test]
    fn signatures_still_work() {
        let digest = openssl::hash::MessageDigest::sha256();
        let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let mut signer = openssl::sign::Signer::new(digest, &key).unwrap();
        let signature = signer.sign_oneshot_to_vec(b"text").unwrap();
        let public = key.rsa().unwrap().public_key_to_der_pkcs1().unwrap();
        let verify = move || {
            cell::filter(Calls::Reading).unwrap();
            let key =
                ring::signature::UnparsedPublicKey::new(&ring::signature::RSA_PKCS1_2048_8192_SHA256, public);
            key.verify(b"text", &signature)
        };
        // A filter binds the thread that applies it.
        std::thread::spawn(verify).join().unwrap().unwrap();
    }
}
