//! A CA, Alice, and a directory that trusts the CA, for the tests beside this one.
#![allow(dead_code, reason = "each test uses a part")]

use credential::{Trust, verify_chain};
use harness::pki::build::{self, Certificate, Directory, Kind, List, dn, key};
use identity::{Refusal, RefusalKind, VerifiedIdentity};
use openssl::pkey::{PKey, Private};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// A CA, Alice, and a directory that trusts the CA.
pub struct World {
    _dir: tempfile::TempDir,
    /// Trusts the CA.
    pub directory: Directory,
    /// Name, DER.
    pub ca: Vec<u8>,
    /// Name, DER.
    pub alice: Vec<u8>,
}

pub fn ca_key() -> PKey<Private> {
    key(Kind::P256, 0).unwrap()
}

pub fn alice_key() -> PKey<Private> {
    key(Kind::P256, 1).unwrap()
}

pub fn other_key() -> PKey<Private> {
    key(Kind::P256, 2).unwrap()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(&dir.path().join("certificates")).unwrap();
        let ca = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "CA")]);
        let alice = dn(&[("C", "XX"), ("O", "Grid"), ("CN", "Alice")]);
        let world = Self { _dir: dir, directory, ca, alice };
        world.install(&world.root());
        world
    }

    pub fn root(&self) -> Certificate {
        Certificate::ca(&self.ca, &self.ca, &ca_key())
    }

    pub fn install(&self, root: &Certificate) {
        self.directory.trust(&self.ca, &root.der(&ca_key()).unwrap()).unwrap();
    }

    pub fn person(&self) -> Certificate {
        Certificate::person(&self.alice, &self.ca, &alice_key())
    }

    pub fn judge(&self, chain: &[Vec<u8>]) -> Result<VerifiedIdentity, Refusal> {
        verify_chain(chain, &Trust::in_dir(self.directory.path()), now())
    }

    /// Alice's certificate alone.
    pub fn alone(&self, person: &Certificate) -> Result<VerifiedIdentity, Refusal> {
        self.judge(&[person.der(&ca_key()).unwrap()])
    }

    /// Installs a revocation list.
    pub fn revoke(&self, list: &List) -> std::path::PathBuf {
        self.directory.revoke(&self.ca, &list.der(&ca_key()).unwrap()).unwrap()
    }

    /// The error number of `openssl verify` for Alice's certificate; 0 when it accepts.
    pub fn openssl(&self, person: &Certificate, check_lists: bool) -> u32 {
        let file = |name: &str, text: String| {
            let path = self.directory.path().with_file_name(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let person = file("alice.pem", build::pem("CERTIFICATE", &person.der(&ca_key()).unwrap()));
        let mut command = Command::new("openssl");
        command.args(["verify", "-CAfile"]).arg(self.directory.file(&self.ca, ".0"));
        if check_lists {
            command.arg("-crl_check").arg("-CRLfile").arg(self.directory.file(&self.ca, ".r0"));
        }
        let ran = command.arg(person).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let number = said.split_once("error ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if ran.status.success() { 0 } else { number.unwrap_or_else(|| panic!("{said}")) }
    }
}

pub fn refused(verdict: Result<VerifiedIdentity, Refusal>, kind: RefusalKind, words: &str) {
    let refusal = verdict.expect_err(words);
    assert_eq!(refusal.kind, kind, "{}", refusal.reason);
    assert!(refusal.reason.contains(words), "{:?} lacks {words:?}", refusal.reason);
}
