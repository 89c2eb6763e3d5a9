//! Makes the grid of `tests/fuzz/trust` and the seeds that must be signed, once: `cargo run -p fuzz-targets --example seeds`.
//!
//! The CA's key is dropped at the end, so that no later run can sign for this grid. The keys in the seeds were made for
//! them and are valid nowhere. All other seeds were written by hand.
#![allow(clippy::unwrap_used, reason = "a tool for developers, who read panics")]

use credential::pem;
use harness::pki::{Craft, LIMITED, PCI_DRAFT, Pki, User};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

struct Place {
    scratch: tempfile::TempDir,
    fuzz: PathBuf,
}

impl Place {
    fn proxy(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.fuzz.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A proxy file as seed of the targets that read proxies, and what it holds as seeds of the others.
    fn credential(&self, name: &str, path: &Path) {
        let text = fs::read(path).unwrap();
        self.write(&format!("corpus/pem_chain/{name}"), &text);
        let blocks = pem::split_pem(&text).unwrap();
        self.write(&format!("corpus/der_chain/{name}"), &pem::certificates(&blocks).unwrap().concat());
    }
}

fn der(pem_text: &[u8]) -> Vec<u8> {
    pem::split_pem(pem_text).unwrap().remove(0).der
}

fn main() {
    let place = Place {
        scratch: tempfile::tempdir().unwrap(),
        fuzz: Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz"),
    };
    let pki = Pki::new(&place.scratch.path().join("grid")).unwrap();
    let alice = pki.user("alice", "Alice Adams").unwrap();
    let bob = pki.user("bob", "Bob Brown").unwrap();
    let mallory = pki.user("mallory", "Mallory Moore").unwrap();
    pki.revoke(&mallory).unwrap();
    proxies(&place, &pki, &alice, &bob, &mallory);
    trust(&place, &pki, &alice, &mallory);
}

fn proxies(place: &Place, pki: &Pki, alice: &User, bob: &User, mallory: &User) {
    let crafted = |name: &str, craft: Craft, user: &User| {
        let path = craft.below_user(user, &place.proxy(name)).unwrap();
        place.credential(name, &path);
        path
    };
    let rfc = crafted("rfc", Craft::default(), alice);
    crafted("limited", Craft { language: LIMITED, ..Craft::default() }, alice);
    crafted("draft", Craft { pci: Some(PCI_DRAFT), path_len: Some(3), ..Craft::default() }, bob);
    crafted("legacy", Craft { pci: None, cn: "proxy".into(), ..Craft::default() }, bob);
    crafted("revoked", Craft::default(), mallory);
    crafted("expired", Craft { from: -7200, to: -3600, ..Craft::default() }, alice);
    let second = Craft { cn: "22".into(), ..Craft::default() }.below_proxy(&rfc, &place.proxy("second"));
    place.credential("second", &second.unwrap());
    place.credential("user", &alice.cert);
    let fqans = ["/cms", "/cms/Role=pilot/Capability=NULL"];
    let voms = pki.voms_proxy(alice, &place.proxy("voms"), "cms", &fqans).unwrap();
    place.credential("voms", &voms);
    let text = fs::read(&voms).unwrap();
    let leaf = credential::cert::Cert::parse(&der(&text)).unwrap();
    place.write("corpus/attribute_certificate/voms", &leaf.voms.unwrap());
    let blocks = pem::split_pem(&fs::read(&rfc).unwrap()).unwrap();
    place.write("corpus/private_key/rsa", &blocks.iter().find(|b| b.is_private_key()).unwrap().der);
    place.write("corpus/private_key/pkcs8", &der(&fs::read(&alice.key).unwrap()));
    let certificates: String =
        blocks.iter().filter(|b| b.is_certificate()).map(|b| pem::encode(&b.label, &b.der)).collect();
    place.write("trust/chain.pem", certificates.as_bytes());
    place.write("corpus/delegation/chain", certificates.as_bytes());
}

fn trust(place: &Place, pki: &Pki, alice: &User, mallory: &User) {
    for entry in fs::read_dir(&pki.ca_dir).unwrap().map(|e| e.unwrap()) {
        let bytes = fs::read(entry.path()).unwrap();
        let name = entry.file_name().into_string().unwrap();
        place.write(&format!("trust/certificates/{name}"), &bytes);
        match name.rsplit_once('.').unwrap().1 {
            "0" => place.write("trust/ca.pem", &bytes),
            "r0" => place.write("corpus/crl/ours", &der(&bytes)),
            _ => place.write("corpus/signing_policy/ours", &bytes),
        }
    }
    let lsc = fs::read(pki.voms_dir.join("cms/voms.test.lsc")).unwrap();
    place.write("trust/vomsdir/cms/voms.test.lsc", &lsc);
    place.write("corpus/lsc/ours", &lsc);
    place.write("trust/revoked.pem", &fs::read(&mallory.cert).unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    place.write("trust/now", format!("{now}\n").as_bytes());
    let years = 36_500;
    let lasting = pki.subject("lasting", &[("C", "XX"), ("O", "Another Grid"), ("CN", "Lasting")], years);
    let lasting = lasting.unwrap();
    let issuer = [fs::read(&lasting.cert).unwrap(), fs::read(&lasting.key).unwrap()].concat();
    place.write("trust/issuer.pem", &issuer);
    place.write("corpus/delegation/own", &fs::read(&lasting.cert).unwrap());
    let (_, request) = delegation::new_request().unwrap();
    place.write("corpus/delegation/request", request.as_bytes());
    place.write("corpus/delegation/other", &fs::read(&alice.cert).unwrap());
}
